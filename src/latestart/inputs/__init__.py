"""The front door: images from whatever a user holds them in, and what range their values are in."""
