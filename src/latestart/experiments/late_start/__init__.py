"""Quality against the start of full-length DDPM, beside the critical levels: how late can one start?"""
