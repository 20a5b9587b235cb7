"""Start distributions that are not priors: a uniform one, a learned one, and the noised training images themselves.

A start distribution carries white noise z to start samples y at the level sigma, in the coordinate y = x_0 + sigma eps.
The first two change the white noise of a Gaussian `N(m, C)` along r of its eigenvectors, the columns of V, where its
noised covariance `S = C + sigma^2 I` has the variances `l + sigma^2`:

    y = m + S^(1/2) (z + V (w - u)),     u = V^T z white,     w = f_sigma(u)

    box     f(u) = sqrt(3) (2 Phi(u) - 1)    each w_i uniform over [-sqrt 3, sqrt 3]: with r = D, y is uniform over the
                                             box along the principal axes that has the mean and the covariance of the
                                             noised data
    flow    f(u) = T_sigma^-1(u)             T a normalising flow, fitted to `w = V^T (y - m) / sqrt(l + sigma^2)` of
                                             the noised images y, by maximum likelihood

    log q(y) = log N(y; m, S) + log p_f(w) - log N(w; 0, I)

Whitened so, the data is the nearer to white noise the higher the level, and a flow that has learned nothing is the
Gaussian. One flow serves all levels: log sigma is its context, and every step of the fit draws levels and noise anew.

The third is what every fitted start distribution stands for, the noised images: with n images, i uniform,

    y = x_i + sigma z',     i = floor(n Phi(a . z)),     z' = z + (Phi^-1(frac(n Phi(a . z))) - a . z) a

where `a` is one fixed direction: the place of a . z within the i-th part of its distribution is uniform again, so that
z' is white and independent of i, and the white noise alone fixes the sample. It starts from the distribution that the
sampler was made for, and so is the limit of all others; it also starts from the images, and copies them.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from latestart.checks import checked_seed, seeded
from latestart.data import Images
from latestart.files import load_tensors, require_finite, save_tensors
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.prior import StartDistribution
from latestart.lab.store import fingerprint, kept_at
from latestart.sampling.seeds import sample_generator

KIND = "flow-start"
HELD_OUT = 0.1  # share of the images that the flow is chosen by
CHECKS, LEVELS, SEEN = 20, 6, 500  # of a fit, on those: how often, at how many levels, at how many noised images
CLIPPED = 5.0  # norm of a gradient
LEAST = 20  # images
EXTRA = "flows"  # of the package, which brings zuko

Progress = Callable[[int, int, float], None]


class Change(Protocol):
    """What white noise along some directions becomes at a level."""

    def __call__(self, u: Tensor, sigma: float) -> Tensor:
        """`w = f_sigma(u)`, `(B, r)`, for white u `(B, r)`."""
        ...

    def log_prob(self, w: Tensor, sigma: float) -> Tensor:
        """The log-density of w `(B, r)` in nats, `(B,)`."""
        ...


class Box:
    """White noise to uniform numbers of the same mean and variance."""

    def __call__(self, u: Tensor, sigma: float) -> Tensor:
        """`sqrt(3) (2 Phi(u) - 1)`, in the shape of u, at any level."""
        return math.sqrt(3) * (2 * torch.special.ndtr(u) - 1)

    def log_prob(self, w: Tensor, sigma: float) -> Tensor:
        """`-r log(2 sqrt 3)` within the box, else minus infinity, `(B,)`."""
        inside = (w.abs() <= math.sqrt(3)).all(1)
        return torch.where(inside, -w.shape[1] * math.log(2 * math.sqrt(3)), -math.inf)


class Reshaped(StartDistribution):
    """A Gaussian whose white noise is changed along its leading eigenvectors; see the module's docstring.

    Args:
        gaussian: of clean images, with a dense or a low-rank basis, whose first columns are the leading eigenvectors.
        change: what the noise along them becomes.
        directions: how many of them; all that the basis has if not given.
        sigma: the level at which this is the distribution.

    Raises:
        ValueError: a basis without eigenvectors, or fewer of them than asked for.
    """

    def __init__(self, gaussian: Gaussian, change: Change, directions: int | None = None, sigma: float = 0.0) -> None:
        self.vectors, self.variances = leading(gaussian, directions)
        self.gaussian, self.change, self.directions, self.sigma = gaussian, change, directions, sigma
        self._noised = gaussian.noised(sigma)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.gaussian.shape

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.gaussian.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that it computes in."""
        return self.gaussian.dtype

    def noised(self, sigma: float) -> "Reshaped":
        """The distribution at a level higher by the noise sigma: remade for it, not this one convolved."""
        return Reshaped(self.gaussian, self.change, self.directions, math.hypot(self.sigma, sigma))

    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to samples, whatever the labels."""
        u = z.flatten(1) @ self.vectors.to(z)
        w = self.change(u, self.sigma)
        return self._noised.push(z + ((w - u) @ self.vectors.T.to(z)).reshape(z.shape))

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density of y `(B, *shape)` in nats, float64 `(B,)`.

        Raises:
            ValueError: the level is 0 and the Gaussian has no density there.
        """
        w = whitened((y - self.gaussian.mean).flatten(1), self.vectors, self.variances + self.sigma**2)
        white = -0.5 * (w.double().square() + math.log(2 * math.pi)).sum(1)
        return self._noised.log_prob(y) + self.change.log_prob(w, self.sigma).double() - white

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Reshaped":
        """This distribution on another device, or with its Gaussian in another precision."""
        change = self.change.to(device) if isinstance(self.change, Flow) else self.change
        return Reshaped(self.gaussian.to(device, dtype), change, self.directions, self.sigma)


def leading(gaussian: Gaussian, directions: int | None = None) -> tuple[Tensor, Tensor]:
    """The leading eigenvectors of a Gaussian's covariance `(D, r)`, and their variances, float64 `(r,)`.

    Raises:
        ValueError: its basis has none, or fewer than asked for.
    """
    if not isinstance(gaussian.basis, Dense | LowRank):
        raise ValueError(
            f"expected a Gaussian whose leading eigenvectors are known, dense or lowrank, received {gaussian}"
        )
    vectors = gaussian.basis.vectors
    count = vectors.shape[1] if directions is None else directions
    if not 1 <= count <= vectors.shape[1]:
        raise ValueError(f"{gaussian} has {vectors.shape[1]} eigenvectors, expected 1 to so many, received {count}")
    return vectors[:, :count], gaussian.variances[:count]


def whitened(rows: Tensor, vectors: Tensor, variances: Tensor) -> Tensor:
    """Centred rows `(B, D)` along eigenvectors `(D, r)`, each over the root of its variance, `(B, r)`."""
    return rows @ vectors.to(rows) / variances.sqrt().to(rows)


class NoisedImages(StartDistribution):
    """Images, each as likely, under noise of the level sigma.

    Args:
        images: `Images`, or floating-point numbers in the model's value range `(N, *shape)`.
        sigma: the level.

    Raises:
        ValueError: no images.
    """

    def __init__(self, images: Images | Tensor, sigma: float = 0.0) -> None:
        if not len(images):
            raise ValueError("expected at least one image to start from, received none")
        self.images, self.sigma = images, sigma

    @property
    def device(self) -> torch.device:
        """Of the white noise that it is given: images are looked up where they are, and moved there."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the images as numbers."""
        return torch.float32 if isinstance(self.images, Images) else self.images.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "NoisedImages":
        """This distribution: a sample is where its noise is."""
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.images.shape[1:]) if isinstance(self.images, Tensor) else self.images.shape

    def noised(self, sigma: float) -> "NoisedImages":
        """The images under more noise: levels add in squares."""
        return NoisedImages(self.images, math.hypot(self.sigma, sigma))

    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to noised images; which image, the noise says, whatever the labels."""
        index, left = self.drawn(z)
        chosen = self.images[index.cpu()]
        floats = chosen.floats() if isinstance(chosen, Images) else chosen
        return floats.to(z) + self.sigma * left

    def drawn(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The index of each sample's image `(B,)`, and white noise of the shape of z that does not depend on it."""
        rows, n, eps = z.flatten(1).double(), len(self.images), torch.finfo(torch.float64).eps
        direction = rows.new_full((rows.shape[1],), rows.shape[1] ** -0.5)
        along = rows @ direction
        place = n * torch.special.ndtr(along)
        index = place.floor().clamp(0, n - 1)
        left = torch.special.ndtri((place - index).clamp(eps, 1 - eps))
        return index.long(), (rows + (left - along)[:, None] * direction).to(z).reshape(z.shape)


@dataclass(frozen=True)
class FlowConfig:
    """A neural spline flow (Durkan et al. 2019) with coupling layers, and its fit.

    Attributes:
        directions: r, how many leading eigenvectors it is on; fewer where the Gaussian has fewer.
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
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a flow: expected at least 1, received {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate of a flow: expected a number above 0, received {self.learning_rate}")


class Flow:
    """A normalising flow on whitened coordinates `(B, r)` at every level between two; a `Change`.

    Args:
        module: a zuko flow of r features whose context is one number, log sigma brought to [-1, 1].
        levels: the lowest and the highest level that it was fitted to; others are taken for the nearest of these.
        config: how it was made.
        gains: what it has learned, as `(sigma, nats)`: its gain over white noise at some levels, on held-out images.
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
        """`T_sigma^-1(u)`, `(B, r)`."""
        return self._at(u, sigma).transform.inv(u.to(self.dtype)).to(u)

    def log_prob(self, w: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density of w `(B, r)` in nats, `(B,)`; sigma a number or `(B,)`."""
        return self._at(w, sigma).log_prob(w.to(self.dtype)).to(w)

    def gain(self, w: Tensor, sigma: float | Tensor) -> Tensor:
        """The nats by which w `(B, r)` is likelier than as white noise, `(B,)`: in the mean, what was learned."""
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
        try:
            config, levels = FlowConfig(**metadata["config"]), tuple(metadata["levels"])
            module = build_flow(config)
            module.load_state_dict(tensors)
            return cls(
                module.requires_grad_(False), levels, config, [(sigma, nats) for sigma, nats in metadata["gains"]]
            )
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} does not hold a sound flow: {error}") from error


def kept(folder: Path, name: str, fit: Callable[[], Any], load: Callable[[Path], Any], *parts: Any) -> tuple[Any, str]:
    """What was fitted, from its file in a folder, or now; and the file's fingerprint.

    Args:
        folder: where it is kept.
        name: how its file is called, before a fingerprint of the parts.
        fit: makes what has a `save`.
        load: reads that again.
        parts: tensors, bytes, text and numbers that it depends on.
    """
    path = kept_at(folder, f"{name}-{{}}.safetensors", fingerprint(name, *parts))
    if not path.is_file():
        fit().save(path)
    return load(path), fingerprint(path.read_bytes())


def require_zuko() -> Any:
    """zuko's flows.

    Raises:
        ImportError: zuko is not installed, with what to do.
    """
    try:
        from zuko import flows
    except ImportError as error:
        raise ImportError(
            f"the learned start is a normalising flow of zuko, which is not installed: pip install 'latestart[{EXTRA}]'"
        ) from error
    return flows


def build_flow(config: FlowConfig) -> nn.Module:
    """An untrained flow; its weights are drawn from the configuration's seed whatever was drawn before."""
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
    """Fit a flow to noised images, whitened by a Gaussian; what is kept is what held-out images found likeliest.

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
    config = _narrowed(config or FlowConfig(), gaussian)
    vectors, variances = leading(gaussian, config.directions)
    rows = _coordinates(images, gaussian, vectors)
    order = torch.randperm(len(rows), generator=seeded(config.seed))
    held_out = max(1, int(HELD_OUT * len(rows)))
    flow = Flow(build_flow(config), (low, high), config)
    unseen = rows[order[:held_out]]
    _train(flow, rows[order[held_out:]], unseen, variances, progress)
    flow.gains = [(sigma, _gain(flow, unseen, variances, sigma)) for sigma in _spread(low, high)]
    return flow


def _narrowed(config: FlowConfig, gaussian: Gaussian) -> FlowConfig:
    """On as many directions as the Gaussian has, if those are fewer."""
    most = len(leading(gaussian)[1])
    return FlowConfig(**{**asdict(config), "directions": min(config.directions, most)})


def _coordinates(images: Images | Tensor, gaussian: Gaussian, vectors: Tensor) -> Tensor:
    """Of each clean image along the eigenvectors, about the mean, `(N, r)`."""
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
    """One step of Adam on images, levels and noise that are the seed's and the step's alone."""
    config, generator = flow.config, sample_generator(flow.config.seed, step)
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
    w = _noised(some, variances, torch.full((SEEN,), sigma), sample_generator(flow.config.seed, flow.config.steps))
    return float(flow.gain(w, sigma).mean())


def _spread(low: float, high: float) -> list[float]:
    """Levels between two, evenly in their logarithm."""
    return list(dict.fromkeys(np.geomspace(low, high, LEVELS).tolist()))
