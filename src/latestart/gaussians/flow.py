"""A normalising flow that changes the white noise of a Gaussian into that of the noised images (`Reshaped`).

    f(u) = T_sigma^-1(u)     T a flow, fitted by maximum likelihood to `w = V^T (y - m) / sqrt(l + sigma^2)` of the
                             noised images y, for the eigenvectors V and the variances l of the Gaussian

Whitened so, the data is the nearer to white noise the higher the level, and a flow that has learned nothing is the
Gaussian. One flow serves all levels: log sigma is its context, and every step of the fit draws levels and noise anew.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latestart.checks import checked_seed, derived_seed, optional, seeded, whole_number
from latestart.data import Images
from latestart.files import load_tensors, require_finite, save_tensors, sound
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.reshaped import leading

__all__ = ["Flow", "FlowConfig", "build_flow", "fit_flow", "require_zuko"]

KIND = "flow-start"
HELD_OUT = 0.1  # share of the images that the flow is chosen by
CHECKS, LEVELS, SEEN = 20, 6, 500  # of a fit, on those: how often, at how many levels, at how many noised images
CLIPPED = 5.0  # norm of a gradient
LEAST = 20  # images
EXTRA = "flows"  # of the package, which brings zuko

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A neural spline flow (Durkan et al. 2019) with coupling layers, and its fit.

    Attributes:
        directions: r, the number of leading eigenvectors that it changes; fewer where the Gaussian has fewer.
        transforms: coupling layers.
        hidden: width of each layer's two hidden ones.
        bins: of the splines.
        steps, batch_size, learning_rate: of Adam, under half a cosine.
        seed: of weights, images, levels and noise.
    """

    directions: int = 32
    transforms: int = 3
    hidden: int = 96
    bins: int = 8
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("directions", "transforms", "hidden", "bins", "steps", "batch_size"):
            whole_number(name, getattr(self, name))
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: expected a number above 0")


class Flow:
    """A normalising flow on whitened coordinates `(B, r)` at every level between two; a `Change`.

    Args:
        module: a zuko flow of r features whose context is one number, log sigma brought to [-1, 1].
        levels: the lowest and the highest level that it was fitted to; a level beyond them counts as the nearest.
        config: its build and its fit.
        gains: its gain over white noise at some levels, on held-out images, as `(sigma, nats)`.
    """

    def __init__(
        self,
        module: nn.Module,
        levels: tuple[float, float],
        config: FlowConfig,
        gains: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.module, self.levels, self.config, self.gains = module.eval(), levels, config, list(gains)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that it computes in."""
        return next(self.module.parameters()).dtype

    def __call__(self, u: Tensor, sigma: float) -> Tensor:
        """Return `T_sigma^-1(u)`, `(B, r)`."""
        return self._at(u, sigma).transform.inv(u.to(self.dtype)).to(u)

    def log_prob(self, w: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the log-density of w `(B, r)` in nats, `(B,)`; sigma is a number or `(B,)`."""
        return self._at(w, sigma).log_prob(w.to(self.dtype)).to(w)

    def gain(self, w: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the nats by which w `(B, r)` is likelier than as white noise, `(B,)`: in the mean, its gain."""
        return self.log_prob(w, sigma) + 0.5 * (w.square() + math.log(2 * math.pi)).sum(1)

    def _at(self, rows: Tensor, sigma: float | Tensor) -> Any:
        low, high = (math.log(level) for level in self.levels)
        level = torch.as_tensor(sigma, dtype=self.dtype, device=rows.device).expand(len(rows)).log().clamp(low, high)
        return self.module((2 * (level - low) / max(high - low, 1e-6) - 1).unsqueeze(1))

    def to(self, device: torch.device | str | None = None) -> "Flow":
        """This flow on another device."""
        return Flow(copy.deepcopy(self.module).to(device), self.levels, self.config, self.gains)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, whole or not at all."""
        metadata = {"levels": self.levels, "config": asdict(self.config), "gains": self.gains}
        save_tensors(path, KIND, self.module.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Flow":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: zuko is not installed.
            ValueError: the file does not hold a sound flow.
        """
        tensors, metadata = load_tensors(path, KIND)
        numbers = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        require_finite(path, numbers, ())
        with sound(path, "flow"):
            config = FlowConfig(**metadata["config"])
            module = build_flow(config)
            module.load_state_dict(tensors)
            gains = [(sigma, nats) for sigma, nats in metadata["gains"]]
            return cls(module.requires_grad_(False), tuple(metadata["levels"]), config, gains)


def require_zuko() -> Any:
    """Return zuko's module of flows.

    Raises:
        ImportError: zuko is not installed; names the extra that brings it.
    """
    return optional(
        "zuko.flows",
        f"the learned start is a normalising flow of zuko, which is not installed: pip install 'latestart[{EXTRA}]'",
    )


def build_flow(config: FlowConfig) -> nn.Module:
    """Return an untrained flow; its weights are drawn from the configuration's seed, whatever was drawn before."""
    flows = require_zuko()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checked_seed(config.seed))
        return flows.NSF(
            config.directions,
            1,
            bins=config.bins,
            transforms=config.transforms,
            hidden_features=(config.hidden, config.hidden),
            passes=2,
        )


def fit_flow(
    images: Images | Tensor,
    gaussian: Gaussian,
    levels: tuple[float, float],
    config: FlowConfig | None = None,
    progress: Progress | None = None,
) -> Flow:
    """Fit a flow to noised images, whitened by a Gaussian; of its checks the one likeliest to held-out images is kept.

    Args:
        images: in the model's value range, `Images` or `(N, *shape)`; a tenth of them is held out.
        gaussian: of the clean images, with a dense or a low-rank basis.
        levels: lowest and highest noise level, in sigma; levels between are drawn evenly in their logarithm.
        config: the flow, and its fit.
        progress: called as `progress(step, steps, gain)`, the gain over the Gaussian on held-out images, in nats.

    Raises:
        ImportError: zuko is not installed.
        ValueError: too few images, images of another shape than the Gaussian's, or levels that are not in order.
        FloatingPointError: the loss is not finite.
    """
    require_zuko()
    low, high = levels
    if not 0 < low <= high < math.inf:
        raise ValueError(f"expected a lowest and a highest level, both positive and finite, received {levels}")
    if len(images) < LEAST:
        raise ValueError(f"expected at least {LEAST} images to fit a flow to, received {len(images)}")
    config = config or FlowConfig()
    config = replace(config, directions=min(config.directions, len(leading(gaussian)[1])))
    vectors, variances = leading(gaussian, config.directions)
    rows = _coordinates(images, gaussian, vectors)
    order = torch.randperm(len(rows), generator=seeded(config.seed))
    held_out = max(1, int(HELD_OUT * len(rows)))
    flow = Flow(build_flow(config), (low, high), config)
    unseen = rows[order[:held_out]]
    _train(flow, rows[order[held_out:]], unseen, variances, progress)
    flow.gains = [(sigma, _gain(flow, unseen, variances, sigma)) for sigma in _spread(low, high)]
    return flow


def _coordinates(images: Images | Tensor, gaussian: Gaussian, vectors: Tensor) -> Tensor:
    """Each clean image along the eigenvectors, about the mean, `(N, r)`."""
    batches = images.batches() if isinstance(images, Images) else images.split(1024)
    shape = images.shape if isinstance(images, Images) else tuple(images.shape[1:])
    if tuple(shape) != gaussian.shape:
        raise ValueError(f"the images are {tuple(shape)}, the Gaussian is for {gaussian.shape}")
    return torch.cat([(batch.float() - gaussian.mean).flatten(1) @ vectors for batch in batches])


def _train(flow: Flow, rows: Tensor, unseen: Tensor, variances: Tensor, progress: Progress | None) -> None:
    """Maximum likelihood in place; the weights kept are those of the best check on the unseen rows."""
    config, module = flow.config, flow.module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate)
    best, kept = -math.inf, copy.deepcopy(module.state_dict())
    for step in range(config.steps):
        _step(flow, optimizer, rows, variances, step)
        if (step + 1) % max(1, config.steps // CHECKS) == 0 or step + 1 == config.steps:
            gain = float(np.mean([_gain(flow, unseen, variances, sigma) for sigma in _spread(*flow.levels)]))
            if gain > best:
                best, kept = gain, copy.deepcopy(module.state_dict())
        if progress is not None:
            progress(step + 1, config.steps, best)
    module.load_state_dict(kept)
    module.eval().requires_grad_(False)


def _step(flow: Flow, optimizer: torch.optim.Optimizer, rows: Tensor, variances: Tensor, step: int) -> None:
    """Take a step of Adam on images, levels and noise that the seed and the step fix."""
    config, generator = flow.config, seeded(derived_seed(flow.config.seed, step))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    low, high = (math.log(level) for level in flow.levels)
    index = torch.randint(len(rows), (config.batch_size,), generator=generator)
    sigma = (low + (high - low) * torch.rand(config.batch_size, generator=generator)).exp()
    loss = -flow.log_prob(_noised(rows[index], variances, sigma, generator), sigma).mean()
    if not loss.isfinite():
        raise FloatingPointError(f"the flow's loss is {loss.item()} at step {step}; try a lower learning rate")
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(flow.module.parameters(), CLIPPED)
    optimizer.step()


def _noised(rows: Tensor, variances: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Clean coordinates `(B, r)` under noise of the levels `(B,)`, whitened."""
    level = sigma[:, None]
    noise = torch.randn(rows.shape, generator=generator)
    return (rows + level * noise) / (variances.to(rows) + level.square()).sqrt()


@torch.inference_mode()
def _gain(flow: Flow, rows: Tensor, variances: Tensor, sigma: float) -> float:
    """The mean gain of a flow over white noise at one level, in nats; always with the same noise."""
    some = rows.repeat(-(-SEEN // len(rows)), 1)[:SEEN]
    noise = seeded(derived_seed(flow.config.seed, flow.config.steps))
    w = _noised(some, variances, torch.full((SEEN,), sigma), noise)
    return float(flow.gain(w, sigma).mean())


def _spread(low: float, high: float) -> list[float]:
    """Levels between two, evenly in their logarithm."""
    return list(dict.fromkeys(np.geomspace(low, high, LEVELS).tolist()))
