"""The levels at which a model decides, and the safety of a late start, by one set of criteria."""
