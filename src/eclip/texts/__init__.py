"""Texts and their features: prompt templates, encoding with checks, and the words of a vocabulary."""
