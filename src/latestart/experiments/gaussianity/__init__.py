"""Is the early distribution Gaussian? Tests of normality at falling noise, beside the divergence in nats."""
