"""Denoisers: the one contract, exact models and networks."""
