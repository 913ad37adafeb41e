"""Stands before transformers in processes that tests start, which so are like those of an installation without it.

open_clip imports it where it can, for a quarter of the time in which `eclip` starts.
"""

raise ImportError("processes that tests start do without transformers")
