"""Classes to label maps: the words of classes, windows over large images, and one label a pixel."""
