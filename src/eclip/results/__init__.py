"""What a run writes to disk: a folder with a manifest, its provenance, and the command that repeats it."""
