"""The gallery: one HTML file of all images of a run with their maps."""
