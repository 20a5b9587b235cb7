"""Pure functions on images and features."""
