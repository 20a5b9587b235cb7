"""How late can one start? Quality against the start of full-length DDPM, beside the critical levels."""
