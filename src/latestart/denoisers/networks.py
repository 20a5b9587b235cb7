"""Diffusers networks as denoisers, and denoisers as diffusers networks.

What a network is shown and what its output stands for is told by the scheduler that it was trained with, beta-based,
EDM or flow matching: `denoisers/conventions.py` has the table.
"""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors import SafetensorError
from torch import Tensor, nn

from latestart.denoisers.around import NO_SIGNAL, Around, Inside
from latestart.denoisers.base import Denoiser, Level, check_sample, expand
from latestart.denoisers.conventions import Convention
from latestart.files import write_json
from latestart.gaussians.gaussian import load_gaussian

SIDECAR = "latestart.json"
AROUND = "around.safetensors"


class Unshuffled(Inside):
    """A network on `factor` x `factor` patches of the image, as a network on the image.

    The image `(C, H, W)` is given to the network as `(C factor^2, H / factor, W / factor)` (`pixel_unshuffle`), a
    permutation of the pixels: white noise stays white noise, and the process is the same.
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor
        inner: Any = network.config
        self.config = SimpleNamespace(
            **{
                **inner,
                "in_channels": inner.in_channels // factor**2,
                "out_channels": inner.out_channels // factor**2,
                "sample_size": _scaled(inner.sample_size, factor),
            }
        )

    def forward(self, sample: Tensor, timestep: Tensor | float, **kwargs: Any) -> SimpleNamespace:
        """As the network's own `forward`, on images."""
        inner = nn.functional.pixel_unshuffle(sample, self.factor)
        out = self.network(inner, timestep, **kwargs).sample
        return SimpleNamespace(sample=nn.functional.pixel_shuffle(out, self.factor))


def _scaled(size: int | list[int] | tuple[int, ...], factor: int) -> int | tuple[int, ...]:
    return size * factor if isinstance(size, int) else tuple(s * factor for s in size)


def sample_shape(model: Any) -> tuple[int, ...]:
    """The shape of the samples of a diffusers network `(C, H, W)`, from its configuration, or of an exact model.

    Raises:
        ValueError: the configuration does not say.
    """
    if hasattr(model, "sample_shape"):
        return tuple(model.sample_shape)
    size = model.config.sample_size
    if size is None:
        raise ValueError(f"the configuration of {type(model).__name__} has no sample_size: the shape is not known")
    height, width = (size, size) if isinstance(size, int) else size
    return (model.config.in_channels, height, width)


def save_model(model: nn.Module, scheduler: Any, path: str | Path, record: dict[str, Any] | None = None) -> None:
    """Write a network as a folder that `UNet2DModel.from_pretrained` opens, its scheduler and a record beside it.

    The folder holds `config.json`, `diffusion_pytorch_model.safetensors`, `scheduler/scheduler_config.json` and
    `latestart.json` (the size of the patches, and `record`); `around.safetensors` the Gaussian that it is around.
    """
    path = Path(path)
    patched = model.network if isinstance(model, Around) else model
    inner: Any = patched.network if isinstance(patched, Unshuffled) else patched
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=path) as folder:
        inner.save_pretrained(folder)
        _forget_origin(Path(folder) / "config.json")
        scheduler.save_pretrained(Path(folder) / "scheduler")
        if isinstance(model, Around):
            model.gaussian.save(Path(folder) / AROUND)
        for file in sorted(Path(folder).rglob("*.*")):
            target = path / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            file.chmod(0o644)
            file.replace(target)  # each file is the old one or the new one, never half of it
    patch = patched.factor if isinstance(patched, Unshuffled) else 1
    around = {"around": AROUND} if isinstance(model, Around) else {}
    write_json(path / SIDECAR, {"patch": patch, **around, **(record or {})})


def _forget_origin(config: Path) -> None:
    """Take out the folder that the network was loaded from: it means nothing elsewhere."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, Any]:
    """Open what `save_model` or `latestart train` wrote, or any diffusers `UNet2DModel` folder, in float32.

    Returns:
        The network on images, in evaluation mode, and its scheduler.

    Raises:
        ValueError: the folder is not that of a diffusers `UNet2DModel` with safetensors, or is damaged.
    """
    path = Path(path)
    unet = path / "unet" if (path / "unet").is_dir() else path
    if not (unet / "config.json").is_file():
        raise ValueError(f"expected a folder with a diffusers model (config.json) at {path}, found none")
    try:
        return _opened(path, unet, device)
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold a whole diffusers UNet2DModel with safetensors: {error}") from error


def _opened(path: Path, unet: Path, device: str | torch.device) -> tuple[nn.Module, Any]:
    kind = json.loads((unet / "config.json").read_text()).get("_class_name")
    if kind != "UNet2DModel":
        raise ValueError(f"expected a diffusers UNet2DModel at {unet}, its config.json names {kind!r}")
    options = {"use_safetensors": True, "low_cpu_mem_usage": False, "output_loading_info": True}
    opened, info = UNet2DModel.from_pretrained(unet, **options)
    model: nn.Module = opened.float()
    if info["missing_keys"] or info["unexpected_keys"]:
        raise ValueError(
            f"the weights in {unet} are not those of its config.json: missing {sorted(info['missing_keys'])[:3]}, "
            f"unexpected {sorted(info['unexpected_keys'])[:3]}"
        )
    sidecar = path / SIDECAR
    record: dict[str, Any] = json.loads(sidecar.read_text()) if sidecar.is_file() else {"patch": 1}
    if record["patch"] > 1:
        model = Unshuffled(model, record["patch"])
    folder = path / "scheduler"
    scheduler = DDPMScheduler.from_pretrained(folder) if folder.is_dir() else DDPMScheduler()
    if record.get("around"):
        model = Around(model, load_gaussian(path / AROUND).to(dtype=torch.float32), scheduler)
    model.max_sigma = record.get("training", {}).get("max_sigma")  # the highest level it knows, if not the schedule's
    return model.eval().to(device), scheduler


class NetworkDenoiser:
    """A diffusers network as a denoiser, `D(y, sigma)`; see `from_diffusers`."""

    def __init__(self, model: Any, scheduler: Any, labels: Tensor | int | None = None) -> None:
        self.model, self.labels = model, labels
        self.convention = Convention.of(scheduler)
        self.noise = self.convention.noise
        self.shape = sample_shape(model)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def sigma_range(self) -> tuple[float, float]:
        """The lowest and highest noise level of the scheduler the network was trained with."""
        return self.noise.sigma_range

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """`E[x_0 | y]`, `(B, *shape)`, for `y` `(B, *shape)` and `sigma` a number or `(B,)`; differentiable in `y`."""
        check_sample(y, self.shape)
        t = torch.as_tensor(self.noise.time(sigma), dtype=torch.float32, device=y.device).expand(len(y))
        sigma = expand(sigma, y)
        x = self.convention.coefficients(sigma)[0] * y
        # a network that has learned its variances gives them as a second half
        out = predict(self.model, x.to(self.dtype), t, self.labels).to(y.dtype)[:, : self.shape[0]]
        return self.convention.to_sample(out, y, sigma)


class Wrapped:
    """A network with a call of its own; in all else it is the network."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class HalfPrecision(Wrapped):
    """A network whose products are taken in bfloat16, by autocast, its output in float32."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> SimpleNamespace:
        """The network's own call."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return SimpleNamespace(sample=self.model(x, *args, **kwargs).sample.float())


class Velocity(Wrapped):
    """A network of a VP process that predicts the image, `x_0`, as one that predicts `v = (alpha x - x_0) / std`."""

    def __init__(self, model: Any, of_image: Any, of_velocity: Any) -> None:
        super().__init__(model)
        self.image, self.velocity = Convention.of(of_image), Convention.of(of_velocity)

    def __call__(self, x: Tensor, timestep: Tensor | float, *args: Any, **kwargs: Any) -> SimpleNamespace:
        """`v` `(B, *shape)` at `x` `(B, *shape)` and time `t`; learned variances, if any, behind it as they are."""
        out = self.model(x, timestep, *args, **kwargs).sample
        sigma = torch.as_tensor(self.image.noise.sigma(torch.as_tensor(timestep, dtype=torch.float64)))
        level = expand(sigma.clamp(max=NO_SIGNAL), x)  # where no signal is left (zero terminal SNR), v is -x_0
        y = x / self.image.coefficients(level)[0]
        x_0 = self.image.to_sample(out[:, : x.shape[1]], y, level)
        return SimpleNamespace(sample=torch.cat([self.velocity.from_sample(x_0, y, level), out[:, x.shape[1] :]], 1))


def of_velocity(network: Any, scheduler: Any) -> tuple[Any, Any]:
    """A network that predicts the image as one that predicts v, with its scheduler; any other as it is.

    Some samplers of diffusers (PNDM, Euler's with noise, KDPM2) refuse the image. Of v they take
    `x_0 = alpha x - std v`, so that an error of v counts least where v is least certain, at the lowest levels.
    """
    if scheduler.config.get("prediction_type") != "sample":
        return network, scheduler
    changed = {**scheduler.config, "_use_default_values": [], "prediction_type": "v_prediction"}
    of_v = type(scheduler).from_config(changed)
    return Velocity(network, scheduler, of_v), of_v


def predict(model: Any, x: Tensor, t: Tensor | float, labels: Tensor | int | None = None) -> Tensor:
    """The raw output of a diffusers network at `x` `(B, *shape)`, time `t` (its scheduler's units)."""
    if labels is None:
        return model(x, t).sample
    index = torch.as_tensor(labels, dtype=torch.long, device=x.device).expand(len(x))
    return model(x, t, class_labels=index).sample


def from_diffusers(model: Any, scheduler: Any, labels: Tensor | int | None = None) -> NetworkDenoiser:
    """A diffusers network with the scheduler that it was trained with, as a denoiser.

    Args:
        model: called as `model(x, t)` or `model(x, t, class_labels=...)`, returns an object with `.sample`.
        scheduler: any diffusers scheduler with betas (epsilon, v or sample prediction), of EDM, or of flow matching;
            gives the levels and what the output stands for.
        labels: for a class-conditional network, one class index or `(B,)` of them.

    Raises:
        ValueError: the prediction type, or the scheduler's kind, is not known.
    """
    return NetworkDenoiser(model, scheduler, labels)


class DenoiserModel(nn.Module):
    """A denoiser where a diffusers network is expected; see `as_model`."""

    def __init__(self, denoiser: Denoiser, scheduler: Any) -> None:
        super().__init__()
        self.denoiser, self.convention = denoiser, Convention.of(scheduler)
        shape = denoiser.shape
        size = shape[1:] if len(shape) == 3 else None
        self.config = SimpleNamespace(in_channels=shape[0], out_channels=shape[0], sample_size=size)
        self.sample_shape = tuple(shape)

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's precision."""
        return self.denoiser.dtype

    @property
    def device(self) -> torch.device:
        """The denoiser's device."""
        return self.denoiser.device

    def forward(self, sample: Tensor, timestep: Tensor | float, **_: Any) -> SimpleNamespace:
        """The prediction for a network's input `(B, *shape)` at time `t`, in the scheduler's convention."""
        # where no signal is left (zero terminal SNR), any level far above the data gives its mean
        sigma = torch.as_tensor(self.convention.noise.sigma(torch.as_tensor(timestep, dtype=torch.float64)))
        level = expand(sigma.clamp(max=NO_SIGNAL), sample)
        y = sample / self.convention.coefficients(level)[0]
        x_0 = self.denoiser(y, sigma.clamp(max=NO_SIGNAL))
        return SimpleNamespace(sample=self.convention.from_sample(x_0, y, level))


def as_model(denoiser: Denoiser, scheduler: Any) -> DenoiserModel:
    """An exact model where a network is expected: called as `model(x, t)`, returns an object with `.sample`.

    Input and output are in the scheduler's convention, so that any sampling code for diffusers networks runs on it.
    """
    return DenoiserModel(denoiser, scheduler)
