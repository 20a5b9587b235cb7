"""Does another start distribution do as well as the Gaussian? Nine kinds, each at its own best start."""
