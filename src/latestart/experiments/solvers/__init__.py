"""Samplers against each other, each at its own best, from full noise and from late starts: `experiment solvers`."""
