"""The levels at which a model decides, and the safety of a late start: `analyze` and `check` over one set of criteria."""
