"""Image-text models, seen through one record: `base.py`. `encoding.py` runs it; `load.py` finds models by name."""
