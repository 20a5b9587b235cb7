"""Do fast samplers forget a part of the data, and does a late start bring it back?"""
