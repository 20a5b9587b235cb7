"""Tuning: the search for the best way to sample a model in a few evaluations, which never loses to full noise."""
