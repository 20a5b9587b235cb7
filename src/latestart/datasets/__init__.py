"""Published data sets, in the layouts in which they are published: read in chunks, by one entry."""
