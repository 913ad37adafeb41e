"""What a run leaves on disk: one folder, one manifest, where it came from, and the command that repeats it."""
