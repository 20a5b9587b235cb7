"""Theory: potentials, fixed points and their stability, bifurcations, critical levels, and nats."""
