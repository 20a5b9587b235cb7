"""Exact denoisers: distributions whose `E[x_0 | y]` is known in closed form.

Point cloud: the data are n points `x_i` of equal weight, `y = x_0 + sigma eps`. Then

    p_sigma(y) = 1/n sum_i N(y; x_i, sigma^2 I)
    w_i(y)     = softmax_i(-|y - x_i|^2 / (2 sigma^2))
    E[x_0 | y] = sum_i w_i x_i

The sums run over chunks of the points with a running maximum (log-sum-exp), so that memory does not grow with n.
"""

import math

import torch
from torch import Tensor

from latestart.denoisers.base import Level, check_sample

CHUNK = 4096


class PointCloud:
    """The exact denoiser of data that are n given points, for example a whole training set.

    Args:
        points: `(n, *shape)`, in the model's value range.
        chunk: points looked at at once; memory is `O(B chunk + B D)` beside the points.

    Raises:
        ValueError: there are no points, or some are NaN or infinite.
    """

    sigma_range = (0.0, math.inf)

    def __init__(self, points: Tensor, chunk: int = CHUNK) -> None:
        if not len(points) or not points.is_floating_point() or not points.isfinite().all():
            raise ValueError(
                f"a point cloud needs at least one point, of finite floating-point numbers, received {points.dtype} "
                f"{tuple(points.shape)}"
            )
        self.points, self.chunk = points, chunk
        self.shape = tuple(points.shape[1:])
        self._flat = points.flatten(1)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the points."""
        return self.points.dtype

    @property
    def device(self) -> torch.device:
        """Where the points are."""
        return self.points.device

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """`E[x_0 | y]`, `(B, *shape)`, for `y` `(B, *shape)` and `sigma > 0`, a number or `(B,)`; differentiable."""
        return self._sums(y, sigma)[1].reshape(y.shape)

    def log_prob(self, y: Tensor, sigma: Level) -> Tensor:
        """`log p_sigma(y)` in nats, `(B,)`."""
        dim = self._flat.shape[1]
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device)
        log_total, _ = self._sums(y, sigma)
        return log_total - math.log(len(self._flat)) - 0.5 * dim * (2 * math.pi * level.square()).log()

    def _sums(self, y: Tensor, sigma: Level) -> tuple[Tensor, Tensor]:
        """`log sum_i exp(-|y - x_i|^2 / (2 sigma^2))`, `(B,)`, and the weighted mean of the points, `(B, D)`."""
        check_sample(y, self.shape)
        rows = y.flatten(1)
        level = torch.as_tensor(sigma, dtype=rows.dtype, device=rows.device).expand(len(rows)).unsqueeze(1)
        if not (level > 0).all():
            raise ValueError(f"the denoiser of a point cloud needs sigma > 0, received {sigma}")
        most, total, mean = (
            rows.new_full((len(rows), 1), -math.inf),
            rows.new_zeros(len(rows), 1),
            torch.zeros_like(rows),
        )
        for points in self._flat.to(rows).split(self.chunk):
            # |y|^2 is left out of the exponent until the end: it is common to all points
            logits = (rows @ points.T - 0.5 * points.square().sum(1)) / level.square()
            higher = torch.maximum(most, logits.amax(1, keepdim=True).detach())
            decay, weights = (most - higher).exp(), (logits - higher).exp()
            total, mean, most = total * decay + weights.sum(1, keepdim=True), mean * decay + weights @ points, higher
        log_total = (total.log() + most).squeeze(1) - 0.5 * rows.square().sum(1) / level.squeeze(1).square()
        return log_total, mean / total
