"""Drawing of results; computes nothing."""
