"""The demo: the shipped model, tuned for a few evaluations: the command `latestart demo`."""
