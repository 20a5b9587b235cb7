"""Gaussians that are diagonal in their basis, and the streaming sums that fit them."""
