"""Image-text models, seen through one record: `backbone.py`. `encoding.py` runs it; `load.py` finds models by name."""
