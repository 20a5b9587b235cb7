"""The oracle: data whose every noised distribution is known, and a network that is exact on it.

Data `N(m, C)` in 8 dimensions, C with eigenvalues from 0.01 to 4, even in their logarithm, and a random eigenbasis.
Deterministic solvers are affine in their start here, so 9 points (the mean, and the mean displaced along each axis of
the start) give the mean and covariance of what they make, without sampling error. Stochastic solvers are affine in
their start and in all the noise that they draw: further points, each displaced in one draw, give the same for them.
"""

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from latestart.noise import Noise
from latestart.sampling.late_start import start_sample
from latestart.sampling.run import Run

DIM = 8


class GaussianData:
    """`N(m, C)` with everything that the tests ask of it, dense and in float64."""

    def __init__(self, dim: int = DIM, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.shape = (dim,)
        self.mean = torch.randn(dim, generator=generator, dtype=torch.float64)
        self.basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
        self.variances = torch.logspace(-2, torch.log10(torch.tensor(4.0)).item(), dim, dtype=torch.float64)

    def noised(self, sigma: float) -> "GaussianData":
        other = GaussianData.__new__(GaussianData)
        other.shape, other.mean, other.basis = self.shape, self.mean, self.basis
        other.variances = self.variances + sigma**2
        return other

    @property
    def covariance(self) -> Tensor:
        return self.basis @ torch.diag(self.variances) @ self.basis.T

    def push(self, z: Tensor) -> Tensor:
        root = self.basis @ torch.diag(self.variances.sqrt()) @ self.basis.T
        return self.mean + z.double() @ root

    def denoise(self, y: Tensor, sigma: float) -> Tensor:
        gain = self.basis @ torch.diag(self.variances / (self.variances + sigma**2)) @ self.basis.T
        return self.mean + (y - self.mean) @ gain

    def distance(self, mean: Tensor, covariance: Tensor) -> float:
        """The Gaussian 2-Wasserstein distance (not squared) of `N(mean, covariance)` to this one."""
        root = _root(self.covariance)
        cross = _root(root @ covariance @ root)
        squared = (mean - self.mean).square().sum() + (self.covariance + covariance - 2 * cross).trace()
        return float(squared.clamp_min(0).sqrt())


class Network:
    """The exact network of `GaussianData` for a scheduler, in its prediction type, and the count of its evaluations."""

    def __init__(self, data: GaussianData, scheduler: Any, prediction: str | None = None) -> None:
        self.data, self.noise = data, Noise.from_scheduler(scheduler)
        self.prediction = prediction or scheduler.config.get("prediction_type", "epsilon")
        self.nfe = 0
        self.level = functools.cache(lambda t: (self.noise.sigma(t), self.noise.alpha(t), self.noise.std(t)))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.nfe += 1
        sigma, alpha, std = self.level(float(t))
        # without any signal left the denoiser is the mean
        clean = self.data.denoise(x.double() / alpha, sigma) if alpha > 0 else self.data.mean.expand_as(x)
        noise = (x - alpha * clean) / std
        outputs: dict[str, Callable[[], Tensor]] = {
            "epsilon": lambda: noise,
            "sample": lambda: clean,
            "v_prediction": lambda: alpha * noise - std * clean,
            "flow": lambda: noise - clean,
        }
        return outputs[self.prediction]().to(x.dtype)


class EDMNetwork(Network):
    """The same behind EDM's preconditioning: it sees `c_in y`, and its output F makes `D = c_skip y + c_out F`."""

    def __init__(self, data: GaussianData, scheduler: Any) -> None:
        super().__init__(data, scheduler)
        self.sigma_data, self.sign = scheduler.config["sigma_data"], 1 if self.prediction == "epsilon" else -1

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.nfe += 1
        sigma, _, _ = self.level(float(t))
        total = sigma**2 + self.sigma_data**2
        y = x.double() * total**0.5
        c_skip, c_out = self.sigma_data**2 / total, self.sign * sigma * self.sigma_data / total**0.5
        return ((self.data.denoise(y, sigma) - c_skip * y) / c_out).to(x.dtype)


def run(scheduler: Any, network: Network, x: Tensor, seed: int = 0) -> Tensor:
    """The whole loop, from the scheduler's first time to data."""
    sampler = Run(scheduler, torch.Generator().manual_seed(seed))
    for t in scheduler.timesteps:
        x = sampler.step(network(sampler.model_input(x, t), t), t, x)
    return x


class UnitNoise:
    """In place of `randn_tensor`: 0 for every row but those that stand for this draw, which get the unit vectors.

    A run with it on `1 + dim + dim * draws` rows is the affine map of the start and of all noise, column by column.
    """

    def __init__(self, dim: int = DIM) -> None:
        self.dim, self.draws = dim, 0

    def __call__(self, shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, **_: Any) -> Tensor:
        noise = torch.zeros(tuple(shape), dtype=dtype)
        first = 1 + self.dim * (1 + self.draws)
        rows = noise[first : first + self.dim]
        rows += torch.eye(self.dim, dtype=dtype)[: len(rows)]
        self.draws += 1
        return noise


def columns(draws: int = 0, dim: int = DIM) -> Tensor:
    """0, the unit vectors, and a row of zeros for each dimension of each later draw of noise, as white noise."""
    z = torch.zeros(1 + dim * (1 + draws), dim, dtype=torch.float64)
    z[1 : dim + 1] = torch.eye(dim, dtype=torch.float64)
    return z


def error(data: GaussianData, late: Any, network: Network, monkeypatch: Any = None) -> float:
    """The distance to the data of what a scheduler makes of its late start, exactly (see `moments`)."""
    return data.distance(*moments(data, late, network, monkeypatch))


def moments(data: GaussianData, late: Any, network: Network, monkeypatch: Any = None) -> tuple[Tensor, Tensor]:
    """The mean and covariance of what a scheduler makes of its late start, exactly.

    With `monkeypatch` the noise of the scheduler's own steps is propagated too.
    """
    draws = 0
    if monkeypatch is not None:
        counter = UnitNoise()
        _replace_noise(late, counter, monkeypatch)
        run(copy.deepcopy(late), copy.copy(network), start_sample(late, data, columns()))
        draws = counter.draws
        _replace_noise(late, UnitNoise(), monkeypatch)
    x = run(late, network, start_sample(late, data, columns(draws))).double()
    linear = x[1:] - x[0]
    return x[0], linear.T @ linear


def _replace_noise(scheduler: Any, noise: UnitNoise, monkeypatch: Any) -> None:
    """For the samples of the oracle, which are vectors; a rehearsal of a scheduler has pictures."""

    def replaced(shape: Any, *args: Any, **kwargs: Any) -> Tensor:
        return noise(shape, *args, **kwargs) if len(shape) == 2 else randn_tensor(shape, *args, **kwargs)

    for module in {base.__module__ for base in type(scheduler).__mro__}:  # of our own classes, that of diffusers' too
        monkeypatch.setattr(sys.modules[module], "randn_tensor", replaced, raising=False)


def white(n: int, dim: int = DIM, seed: int = 1) -> Tensor:
    """n samples of white noise whose mean is exactly 0 and whose covariance (over n) exactly 1, (n, dim)."""
    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z -= z.mean(0)
    return z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / n)).T


def sampled_error(data: GaussianData, late: Any, network: Network, n: int = 4000) -> float:
    """The same distance, on n samples whose start has the right mean and covariance."""
    x = run(late, network, start_sample(late, data, white(n))).double()
    return data.distance(x.mean(0), torch.cov(x.T, correction=0))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
