"""Classifiers: readers of attributes, the one that is trained on known attributes, and that of a feature space."""
