"""What the tests of fixed points share: small denoisers, and the dense twin of a point cloud in NumPy."""

import numpy as np
import torch

from latestart.denoisers.exact import PointCloud

CRITERIA = ("density", "sde")
TWO = PointCloud(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_mean_and_covariance(points, y, sigma):
    """The posterior at y in NumPy, from its definition."""
    logits = -((points - y) ** 2).sum(1) / (2 * sigma**2)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    mean = weights @ points
    return mean, (points - mean).T @ ((points - mean) * weights[:, None])


class Linear:
    """A denoiser `D(y) = M y` with any M, whose Jacobian is M."""

    dtype, device, sigma_range = torch.float64, torch.device("cpu"), (0.01, 100.0)

    def __init__(self, matrix, shape=None):
        self.matrix, self.shape = matrix, shape or (len(matrix),)

    def __call__(self, y, sigma):
        return (y.flatten(1) @ self.matrix.T).view_as(y)
