"""Training of the two small networks that the library needs: a diffusion model, and a classifier for its features.

Diffusion: with `x_t = alpha_t x_0 + std_t eps` and `t` uniform, minimise `E |target - network(x_t, t)|^2`, where the
target is eps, v or x_0 by the scheduler's prediction type (Ho et al. 2020; Salimans and Ho 2022); the weights that are
kept are an exponential moving average (EMA).

With `min_snr` the error is that of x_0, with the weight `min(SNR_t + 1, min_snr)`, whatever the network predicts:
`E w_t |x_0 - D(x_t)|^2`, where `SNR = 1 / sigma^2`. Without the cap that is the error of v. It is Min-SNR-gamma (Hang
et al. 2023) with SNR + 1 for SNR, which leaves the highest levels their share; a baseline from full noise needs them.
It matters for a network that predicts x_0, whose plain error is almost all at high noise.

`around` a Gaussian the network predicts what that one's denoiser leaves, in units of its root mean square r, and the
error is that of the network's own output, `E |x_0 - D|^2 / r^2`: each level weighs as much (`denoisers/around.py`).

A network that will only be used below a late start need not know the levels above it. With `max_sigma` the schedule is
cut to the times `t` with `sigma(t) <= max_sigma`, and `t` is uniform over those. The cut schedule is written beside the
network as the one that it was trained with, so that all that asks which levels it knows is told the truth.

Every random number of step k comes from a generator seeded by (seed, k). A run that was cut off and resumed is
therefore the run that was not: the same batches, the same noise, the same weights.

Several processes (`torchrun`) share each batch, image by image. The loss is the mean over the whole batch, whatever
its shares, so that their weights are those of one process up to rounding.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor, nn

from latestart.checks import ARCHITECTURES, checked_seed, derived_seed, seeded
from latestart.data import Images, Range
from latestart.denoisers.around import Around, residual
from latestart.denoisers.folders import load_model, save_model
from latestart.denoisers.patches import Unshuffled
from latestart.device import own_device
from latestart.features import Classifier
from latestart.files import load_tensors, save_tensors
from latestart.gaussians.gaussian import Gaussian, load_gaussian
from latestart.inputs.front import as_images
from latestart.inputs.ranges import warn_of_unit_range
from latestart.noise import Noise
from latestart.processes import Processes, processes
from latestart.train_config import TrainConfig

__all__ = ["TIMES", "TrainConfig", "half", "train", "train_classifier", "training_schedule"]

STATE = "training.safetensors"
LOCK = ".training.lock"  # held while a run writes to its folder
TIMES = 1000  # of the whole schedule
APART = 0.5  # the ends of the values of a Gaussian and of the training images, in units of [-1, 1]
Progress = Callable[[int, int, float], None]
LEARNING_RATE = 3e-3  # the highest of classifiers


def build_network(shape: tuple[int, ...], config: TrainConfig) -> nn.Module:
    """An untrained diffusers `UNet2DModel` for images `(C, H, W)`, on patches of `config.patch` pixels.

    Raises:
        ValueError: the image is not a whole number of patches, or cannot be halved between the resolutions.
    """
    if len(shape) != 3:
        raise ValueError(f"a network is built for images (C, H, W), received {shape}")
    channels, height, width = shape
    unit = config.patch * 2 ** (len(config.channels) - 1)
    if height % unit or width % unit:
        raise ValueError(
            f"images of {height} x {width} cannot be cut in patches of {config.patch} and halved "
            f"{len(config.channels) - 1} times: both sides must be multiples of {unit}"
        )
    levels = len(config.channels)
    network: Any = UNet2DModel(
        sample_size=(height // config.patch, width // config.patch),
        in_channels=channels * config.patch**2,
        out_channels=channels * config.patch**2,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        attention_head_dim=min(32, config.channels[-1]),
        norm_num_groups=int(np.gcd(16, np.gcd.reduce(config.channels))),
        num_class_embeds=config.classes or None,
    )
    return network if config.patch == 1 else Unshuffled(network, config.patch)


def training_schedule(config: TrainConfig) -> DDPMScheduler:
    """The scheduler that a network is trained with: linear betas over 1,000 times, or the first of them.

    With `config.max_sigma` those are the times whose level is at most that.

    Raises:
        ValueError: fewer than two times are left.
    """
    settings: dict[str, Any] = {"prediction_type": config.prediction, "clip_sample": False}
    whole: Any = DDPMScheduler(num_train_timesteps=TIMES, **settings)
    if config.max_sigma is None:
        return whole
    sigma = Noise.from_scheduler(whole).sigma(torch.arange(TIMES, dtype=torch.float64))
    count = int((sigma <= config.max_sigma).sum())
    if count < 2:
        raise ValueError(
            f"max_sigma={config.max_sigma:g} leaves fewer than two noise levels to train on: expected at least "
            f"{sigma[1]:.3g}, of the schedule's {sigma[0]:.3g} to {sigma[-1]:.4g}"
        )
    return DDPMScheduler(num_train_timesteps=count, trained_betas=whole.betas[:count].tolist(), **settings)


def train(
    images: Any, out: str | Path, config: TrainConfig, save_every: int = 500, progress: Progress | None = None
) -> nn.Module:
    """Train a diffusion model and write it to the folder `out`; continue where a run with the same `config` stopped.

    `out` is at every moment a folder that `UNet2DModel.from_pretrained` opens (the EMA weights), with the state of the
    training beside it (`training.safetensors`).

    Args:
        images: the training set `(N, C, H, W)`, anything that `as_images` takes; its labels are used when
            `config.classes` is not 0.
        out: the folder.
        config: the run.
        save_every: steps between two checkpoints.
        progress: called as `progress(step, steps, loss)` after each step.

    Raises:
        ValueError: the images do not fit the network, labels are missing or out of range, the batch is too small for
            the processes, `out` holds another run, or another run writes to it now.
        FloatingPointError: the loss is not finite.
    """
    data, alike, out = as_images(images).collected(), processes(), Path(out)
    _check_labels(data, config)
    if config.batch_size < alike.count:
        raise ValueError(
            f"a batch of {config.batch_size} cannot be shared by {alike.count} processes: expected at least one image "
            "for each"
        )
    ends = _ends(data)
    warn_of_unit_range(data.bare, data.shape, ends)
    network = build_network(data.shape, config)
    _initialise(network, seeded(config.seed))
    scheduler = training_schedule(config)
    if config.init and not (out / STATE).exists():
        _begin_from(network, config.init)
    if config.around:
        network = _around(network, data.shape, ends, config.around, scheduler)
    with _alone(out, alike):
        run = _Run(images=data, out=out, config=config, network=network, scheduler=scheduler, processes=alike)
        return run.to_end(save_every, progress)


@contextmanager
def _alone(out: Path, run: Processes) -> Iterator[None]:
    """A folder into which no other run trains meanwhile."""
    from filelock import FileLock, Timeout

    lock = FileLock(out / LOCK)
    try:
        if run.first:
            out.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process trains into {out} now: wait for it, or choose another folder") from None
    try:
        yield
    finally:
        if run.first:
            (out / LOCK).unlink(missing_ok=True)
            lock.release()


def _accelerator(precision: str, processes: Processes) -> Any:
    """The accelerator: it moves the network to this process' device, and its gradients between the processes.

    Raises:
        RuntimeError: it knows of other processes than there are; each would train alone.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # it remembers precision and device of the last run of this process
    AcceleratorState._reset_state(reset_partial_state=processes.count == 1)
    accelerator = Accelerator(mixed_precision=precision, cpu=own_device().type == "cpu")
    if accelerator.num_processes != processes.count:
        raise RuntimeError(
            f"accelerate knows of {accelerator.num_processes} processes, this run has {processes.count}: each would "
            "train alone"
        )
    return accelerator


def _ends(images: Images) -> Range:
    """The lowest and the highest value, in the model's range; `ValueError` where they are not finite."""
    parts = [part.aminmax() for part in images.batches()]
    low, high = min(float(part.min) for part in parts), max(float(part.max) for part in parts)
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("the training images hold NaN or infinite values")
    return low, high


def _check_labels(images: Images, config: TrainConfig) -> None:
    if not config.classes:
        return
    if images.labels is None:
        raise ValueError(f"a network with {config.classes} classes needs labels, the images have none")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= config.classes:
        raise ValueError(f"labels run from {low} to {high}, the network has {config.classes} classes")


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's own default initialisation, drawn from `generator` whatever was drawn before."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def _around(network: nn.Module, shape: tuple[int, ...], mine: Range, path: str, scheduler: Any) -> nn.Module:
    """The network around the Gaussian in a file, which must speak of images of that shape and range of values."""
    gaussian = load_gaussian(path)
    if gaussian.shape != shape:
        raise ValueError(f"{path} is of images {gaussian.shape}, the training images are {shape}")
    theirs = gaussian.value_range or mine
    if max(abs(a - b) for a, b in zip(mine, theirs)) > APART:
        told = [f"{low:g} to {high:g}" for low, high in (theirs, mine)]
        raise ValueError(f"{path} is of values from {told[0]}, the training images have values from {told[1]}")
    return Around(network, gaussian, scheduler)


def _begin_from(network: nn.Module, folder: str) -> None:
    """Take over the weights of the model in `folder`; `ValueError` if it is of another build."""
    model = load_model(folder)[0]
    theirs = (model.network if isinstance(model, Around) else model).state_dict()
    mine = network.state_dict()
    wrong = [name for name in mine if name not in theirs or theirs[name].shape != mine[name].shape]
    if wrong or len(theirs) != len(mine):
        raise ValueError(
            f"the model in {folder} is of another build than the one asked for: see {(wrong or list(theirs))[0]}"
        )
    network.load_state_dict(theirs)


@dataclass(eq=False, kw_only=True)
class _Run:
    images: Images
    out: Path
    config: TrainConfig
    network: nn.Module
    scheduler: Any
    processes: Processes
    loss: float = float("nan")
    seconds: float = 0.0
    _clock: float = 0.0

    def __post_init__(self) -> None:
        """Record the run's identity as it begins: later on the Gaussian's file may be another's, or gone."""
        config, pixels = self.config, self.images.pixels.cpu().contiguous()
        held = hashlib.sha256(pixels.view(torch.uint8).numpy().data)
        if self.images.value_range is not None:
            held.update(repr(self.images.value_range).encode())
        self._identity = {
            **asdict(config),
            "channels": list(config.channels),
            "around": config.around and hashlib.sha256(Path(config.around).read_bytes()).hexdigest()[:8],
            "images": [*pixels.shape, held.hexdigest()[:8]],
        }
        self.accelerator = _accelerator(config.mixed_precision, self.processes)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=1e-4, fused=True)
        self.ema = EMAModel(self.parameters, decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)

    def to_end(self, save_every: int, progress: Progress | None) -> nn.Module:
        """Train from where an earlier run stopped; returns the network with the EMA weights."""
        start, steps, first = self.resume(), self.config.steps, self.processes.first
        wrapped, prepared = self.accelerator.prepare(self.network, self.optimizer)
        self.ema.to(self.accelerator.device)
        for step in range(start, steps):
            loss = _step(step, self, wrapped, prepared)
            self.ema.step(self.parameters)
            if progress is not None and first:
                progress(step + 1, steps, loss)
            if first and ((step + 1) % save_every == 0 or step + 1 == steps):
                self.save(step + 1)
        self.accelerator.wait_for_everyone()  # nobody reads before all is written
        self.ema.copy_to(self.parameters)
        return self.accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False).eval()

    def resume(self) -> int:
        """Load the state of an earlier run of the same configuration; returns the step to go on from."""
        self._clock = time.monotonic()
        path = self.out / STATE
        if not path.exists():
            return 0
        tensors, metadata = load_tensors(path, "training state")
        theirs = {**metadata["config"], "images": metadata["images"]}
        other = [name for name, now in self._identity.items() if theirs.get(name) != now]
        if other:
            told = ", ".join(f"{name} {theirs.get(name)} (now {self._identity[name]})" for name in other)
            raise ValueError(f"{path} is the state of another run: {told}; choose another folder, or the same settings")
        self._restore(tensors, metadata)
        return metadata["step"]

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        count = len(self.parameters)
        with torch.no_grad():
            for k, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{k}"])
        names = ("step", "exp_avg", "exp_avg_sq")
        state = {k: {name: tensors[f"{name}.{k}"] for name in names} for k in range(count)}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.ema.load_state_dict(
            {**self.ema.state_dict(), "shadow_params": [tensors[f"ema.{k}"] for k in range(count)], **metadata["ema"]}
        )
        self.loss, self.seconds = metadata["loss"], metadata["seconds"]

    def save(self, step: int) -> None:
        """Write the model as it would be used (EMA), and then the state to go on from."""
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        record = {"training": {**asdict(self.config), "step": step, "loss": self.loss, "seconds": round(self.seconds)}}
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        save_model(self.network, self.scheduler, self.out, record)
        self.ema.restore(self.parameters)
        tensors: dict[str, Tensor] = {f"parameter.{k}": p for k, p in enumerate(self.parameters)}
        tensors |= {f"ema.{k}": p for k, p in enumerate(self.ema.shadow_params)}
        for k, parameter in enumerate(self.parameters):
            tensors |= {f"{name}.{k}": value for name, value in self.optimizer.state[parameter].items()}
        config = dict(self._identity)
        metadata = {"step": step, "images": config.pop("images"), "config": config}
        metadata |= {"loss": self.loss, "seconds": self.seconds}
        metadata["ema"] = {"optimization_step": self.ema.optimization_step}
        save_tensors(self.out / STATE, "training state", tensors, metadata)


def _step(step: int, run: _Run, network: nn.Module, optimizer: Any) -> float:
    config, accelerator = run.config, run.accelerator
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * _schedule(step, config)
    x_0, labels, t, eps = _draw(step, run.images, run.scheduler, config)
    count = accelerator.num_processes
    mine = slice(accelerator.process_index, None, count)
    x_0, t, eps = (part[mine].to(accelerator.device) for part in (x_0, t, eps))
    x = run.scheduler.add_noise(x_0, eps, t)
    target = x_0 if config.prediction == "sample" else eps
    if config.prediction == "v_prediction":
        target = run.scheduler.get_velocity(x_0, eps, t)
    extra = {} if labels is None else {"class_labels": labels[mine].to(accelerator.device)}
    with accelerator.autocast():
        out = network(x, t, **extra).sample
    errors = nn.functional.mse_loss(out.float(), target, reduction="none").flatten(1).mean(1)
    gaussian = run.network.gaussian if isinstance(run.network, Around) else None
    # gradients are averaged over the processes, so that these shares add up to the mean over the batch
    loss = (errors * _weights(t, run.scheduler, config, gaussian)).sum() * (count / config.batch_size)
    optimizer.zero_grad()
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    value = float(accelerator.reduce(loss.detach(), reduction="mean"))
    if not np.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {step}; try a lower learning rate")
    run.loss = value if np.isnan(run.loss) else 0.99 * run.loss + 0.01 * value
    return run.loss


def _weights(t: Tensor, scheduler: Any, config: TrainConfig, gaussian: Gaussian | None = None) -> Tensor:
    """Weights `(B,)` of the squared errors of the target at the times `t`.

    On those of x_0 it is `min(SNR + 1, min_snr)`; around a Gaussian `1 / r^2`, so that each level weighs as much.
    """
    if config.min_snr is None and gaussian is None:
        return torch.ones_like(t, dtype=torch.float32)
    snr = compute_snr(scheduler, t)
    of_x_0 = {"sample": torch.ones_like(snr), "epsilon": snr, "v_prediction": snr + 1}[config.prediction]
    if gaussian is not None:
        sigma = snr.double().rsqrt()
        return (residual(gaussian, sigma.to(gaussian.device)).square().reciprocal().to(of_x_0) / of_x_0).float()
    return (snr + 1).clamp(max=config.min_snr) / of_x_0


def _schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a half cosine down to 0, as a share of the learning rate."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    return warm * 0.5 * (1 + float(np.cos(np.pi * step / config.steps)))


def _draw(
    step: int, images: Images, scheduler: Any, config: TrainConfig
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Images, labels, times and noise of one step, from (seed, step) alone."""
    g = seeded(derived_seed(config.seed, step))
    index = torch.randint(len(images), (config.batch_size,), generator=g)
    t = torch.randint(scheduler.config.num_train_timesteps, (config.batch_size,), generator=g)
    chosen = images[index]
    x_0 = chosen.floats().float()
    labels = chosen.labels if config.classes else None
    return x_0, labels, t, torch.randn(x_0.shape, generator=g)


def train_classifier(
    images: Any,
    epochs: int = 12,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
    mixed_precision: str = "no",
    architecture: str = ARCHITECTURES[0],
) -> Classifier:
    """Train the classifier whose last hidden layer is a data set's feature space.

    Adam under a one-cycle schedule, with shifts of up to two pixels as augmentation.

    Args:
        images: `(N, C, H, W)` with labels, anything that `as_images` takes.
        epochs: passes over the images.
        batch_size: images a step.
        seed: of the weights, the order and the shifts.
        progress: called as `progress(step, steps, loss)` after each step.
        mixed_precision: "bf16" for half precision, "no" for float32.
        architecture: of the classifier; see `Classifier`.

    Raises:
        ValueError: the images have no labels, are fewer than a batch, or do not fit the architecture.
    """
    data = as_images(images).collected()
    if (labels := data.labels) is None:
        raise ValueError("a classifier needs labels, the images have none")
    if len(data) < batch_size:
        raise ValueError(f"expected at least {batch_size} images to train on, received {len(data)}")
    device = own_device()
    with torch.random.fork_rng():
        torch.manual_seed(checked_seed(seed))
        model = Classifier(data.shape, int(labels.max()) + 1, architecture).to(device).train()

        def loss(index: Tensor) -> Tensor:
            with half(mixed_precision, device):
                logits = model(_shifted(data[index].floats().float()).to(device))
            return nn.functional.cross_entropy(logits.float(), labels[index].to(device))

        one_cycle(model, len(data), epochs, batch_size, loss, progress)
    return model.eval()


def one_cycle(
    model: nn.Module, count: int, epochs: int, batch_size: int, loss: Callable[[Tensor], Tensor],
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Train a model by Adam under a one-cycle schedule, on whole batches in an order drawn for each epoch.

    Args:
        model: in training mode.
        count: number of images.
        epochs: passes over them.
        batch_size: images a step.
        loss: returns the loss of the images with the indices given, int64 `(batch_size,)`.
        progress: called as `progress(step, steps, loss)` after each step.
    """
    per_epoch = count // batch_size
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * per_epoch)
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(count).split(batch_size)
        found = loss(order[step % per_epoch])
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, epochs * per_epoch, float(found.detach()))


def half(precision: str, device: torch.device) -> torch.autocast:
    """The context of half precision, or of none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != "no")


def _shifted(x: Tensor, most: int = 2) -> Tensor:
    down, right = (int(torch.randint(0, 2 * most + 1, ())) for _ in range(2))
    padded = nn.functional.pad(x, (most,) * 4, value=float(x.min()))
    return padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]
