"""Must a network that is only used below its start learn the levels above it? Pairs of networks, and their samples."""
