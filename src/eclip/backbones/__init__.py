"""Image-text models, seen through one record. `base.py` is the record; `load.py` finds models by name."""
