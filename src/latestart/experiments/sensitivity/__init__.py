"""The window of starts that are nearly as good as the best, in t and in nats."""
