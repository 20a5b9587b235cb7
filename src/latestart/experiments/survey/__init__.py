"""Every cell of a grid of models, samplers, evaluations, starts and priors: the command `latestart sweep`."""
