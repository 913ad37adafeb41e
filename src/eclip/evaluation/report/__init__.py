"""Runs of `eclip.evaluate` as one HTML page."""
