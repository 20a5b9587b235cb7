"""Where a model decides, and whether a late start can be relied on: `analyze` and `check` over one set of criteria."""
