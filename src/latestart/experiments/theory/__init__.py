"""The paper's figures of the theory: two points on a line, spheres, the potential between samples, bifurcations."""
