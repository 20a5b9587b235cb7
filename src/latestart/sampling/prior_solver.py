"""A scheduler of diffusers that keeps the prior inside: it integrates the prior's part, the network adds the rest.

    scheduler = ls.make_sampler("prior", trained, prior)        # or ls.PriorMultistepScheduler(trained, prior)
    scheduler.set_timesteps(3)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample

The steps are those of `prior_steps.py`. The times and levels are spread by another scheduler of diffusers, its `grid`
(DPM-Solver++ on beta-based schedules, the model's own class on EDM's, Euler's on flow matching), so that every spacing
of theirs is one of this solver. A sample is `x_t = alpha_t y` at every time, as for DPM-Solver++.

By default the Gaussian of all images is inside, whatever the start: that of a mixture is `mixture.gaussian()`. With
`substeps` the prior's own denoiser is inside in its place, moved in small steps that cost no evaluation.
"""

import copy
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.conventions import Convention
from latestart.gaussians.prior import Prior, as_prior
from latestart.gaussians.priors import load_prior
from latestart.sampling.families import Beta, FlowMatching, level_spreader
from latestart.sampling.noisy_ddim import Eta, check_count, checked_eta, share_at
from latestart.sampling.prior_steps import Seen, Steps, steps_of
from latestart.sampling.spacings import is_curved

__all__ = ["IGNORED", "PRIOR_FILE", "PriorMultistepScheduler"]

PRIOR_FILE = "prior.safetensors"  # beside a saved configuration
SOLVER = ("solver_order", "eta", "substeps", "clip_sample", "clip_sample_range")  # its own settings; others: the grid's
IGNORED = frozenset((  # settings of the steps of a grid, which this solver replaces
    "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "thresholding", "sample_max_value",
    "dynamic_thresholding_ratio",
))  # fmt: skip
GRIDS = {  # by a setting of the configurations that say no class: those of schedulers that were never saved
    "trained_betas": str(Beta.grid),
    "sigma_data": "EDMEulerScheduler",
    "shift": str(FlowMatching.grid),
}
FAR = 1e9  # stands for a level without any signal: the prior's own part of D there is 1e-9 of the noise


class PriorMultistepScheduler(SchedulerMixin, ConfigMixin):
    """Multistep solver of the probability flow, or of a reverse SDE, exact for data that is the prior's.

    Args:
        trained: the scheduler that the model was trained with, beta-based, EDM or flow matching; its process,
            prediction type and spacing are kept.
        prior: a Gaussian, a mixture (its Gaussian of all is taken, or that of each class where `labels` are given), any
            other prior that denoises, or the path of a file.
        solver_order: 1, or 2, which extrapolates by the last two evaluations.
        eta: the share of noise, from 0 (deterministic) to 1 (the time reversal of the noising), or a sequence with one
            for each step of a run; the last step adds none.
        substeps: None for a Gaussian inside; a number puts the prior's own denoiser inside, moved in so many steps
            between two evaluations of the network. A prior without a Gaussian has 8 if not given.
        clip_sample: clip the predicted image at every step, to [-clip_sample_range, clip_sample_range].
        clip_sample_range: see there.
        labels: the class of each sample, an index or `(B,)`, of a mixture that knows classes; may be set later.

    Raises:
        TypeError: no scheduler, or no prior that denoises.
        ValueError: a scheduler of another kind, or settings out of range.
    """

    config_name = "scheduler_config.json"  # type: ignore[assignment]
    beside_config = ("prior", "labels", "grid_class")  # of the constructor's arguments, those that are no configuration
    order = 1  # evaluations of a step, as pipelines read it

    def __init__(
        self,
        trained: Any,
        prior: Any,
        solver_order: int = 2,
        eta: Eta = 0.0,
        substeps: int | None = None,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        labels: Any = None,
    ) -> None:
        if not clip_sample_range > 0:
            raise ValueError(f"clip_sample_range={clip_sample_range!r}: expected a number above 0")
        self.grid = level_spreader(trained)
        self.prior: Prior = as_prior(prior, "the prior solver")
        shared = {k: v for k, v in self.grid.config.items() if not k.startswith("_") and k not in IGNORED}
        self.register_to_config(
            **shared
            | {
                "grid": type(self.grid).__name__,
                "solver_order": whole_number("solver_order", solver_order, most=2),
                "eta": checked_eta(eta),
                "substeps": None if substeps is None else whole_number("substeps", substeps),
                "clip_sample": bool(clip_sample),
                "clip_sample_range": float(clip_sample_range),
            }
        )
        self.convention = Convention.of(self.grid)
        self.num_inference_steps: int | None = None
        self.timesteps, self.sigmas = self.grid.timesteps, getattr(self.grid, "sigmas", None)
        self.levels: list[float] = []
        self.labels = labels
        self._made: dict[Any, Steps] = {}  # without classes; shared by all copies
        self._of_classes: tuple[Any, float, Steps] | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._before: Seen | None = None
        self._rows = 0

    def __getattr__(self, name: str) -> Any:
        """The grid's attribute, where this class has none: betas, `alphas_cumprod`, the shift of a flow, ..."""
        if name.startswith("_") or name == "grid":
            raise AttributeError(f"'{type(self).__name__}' has no attribute {name!r}")
        return getattr(self.grid, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        for shared in (self.prior, self._made):  # large, and good for all copies
            memo[id(shared)] = shared
        copied = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(vars(self), memo))
        return copied

    @property
    def grid_class(self) -> type:
        """The class of the grid: of some spacings one that stands before a class of diffusers."""
        return type(self.grid)

    @classmethod
    def from_config(  # type: ignore[override]
        cls, config: Mapping[str, Any], prior: Any = None, *, grid_class: Any = None, **changes: Any
    ) -> Self:
        """The solver of a configuration: one of its own, or that of the scheduler that a model was trained with.

        Args:
            config: a scheduler's `config`, or what its file holds.
            prior: as for the constructor.
            grid_class: that of the grid, where it is another than the configuration's.
            changes: of the configuration, of this solver's or its grid's settings; and `labels`.

        Raises:
            ValueError: no prior, a class that is unknown, or a setting that neither has.
        """
        if prior is None:
            raise ValueError(
                f"{cls.__name__} needs a prior: give from_config(config, prior=...), or the path of its file"
            )
        own = {name: config[name] for name in SOLVER if "grid" in config and name in config}
        own |= {name: changes.pop(name) for name in (*SOLVER, "labels") if name in changes}
        told = next((name for key, name in GRIDS.items() if key in config), None)
        named = config.get("grid", config.get("_class_name", told))
        kind: Any = getattr(diffusers, named, None) if isinstance(named, str) else None
        if kind is None:
            raise ValueError(f"expected a diffusers scheduler's configuration, received one of the class {named!r}")
        kind = kind if grid_class is None else grid_class
        if unknown := sorted(set(changes) - (set(inspect.signature(kind).parameters) - IGNORED)):
            raise ValueError(f"{cls.__name__} over {named} has no setting {', '.join(unknown)}")
        known = {name: value for name, value in config.items() if not name.startswith("_")}
        known = {name: value for name, value in known.items() if "grid" not in config or name not in (*SOLVER, "grid")}
        return cls(kind.from_config(known, **changes), prior, **own)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, subfolder: str | None = None, *, prior: Any = None, **changes: Any
    ) -> Self:
        """The solver of a folder that `save_pretrained` wrote.

        Args:
            folder: it, or the folder of a pipeline.
            subfolder: of the pipeline.
            prior: None for the one that was saved beside the configuration.
            changes: as for `from_config`, and what `load_config` of diffusers takes.

        Raises:
            FileNotFoundError: the folder has no prior, and none is given.
            OSError: there is no configuration.
        """
        config, changes = cls.load_config(str(folder), subfolder=subfolder, return_unused_kwargs=True, **changes)
        if prior is None:
            path = Path(folder, subfolder or "", PRIOR_FILE)
            if not path.is_file():
                raise FileNotFoundError(
                    f"expected the prior of this scheduler at {path}, found none: save_pretrained writes it beside the "
                    "configuration; give another as from_pretrained(folder, prior=...)"
                )
            prior = load_prior(path)
        return cls.from_config(config, prior, **changes)

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the configuration, and the prior's file beside it.

        Raises:
            TypeError: a prior that has no `save`.
        """
        save = getattr(self.prior, "save", None)
        if save is None:
            raise TypeError(f"a {type(self.prior).__name__} has no file: save the configuration alone by save_config")
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        save(Path(save_directory, PRIOR_FILE))
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def over(self, grid: Any) -> Self:
        """This solver over the times and levels of another grid."""
        own = {name: self.config[name] for name in SOLVER}
        return type(self)(grid, self.prior, **own, labels=self.labels)

    @property
    def step_index(self) -> int | None:
        """Number of the next step in a run; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The step at which a run begins, where a pipeline has set one."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the step at which a run begins."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Set the times of a run, and forget the one before.

        Args:
            num_inference_steps: the number of steps, spread by the grid.
            device: of the times.
            timesteps: own times, falling, in its place.
            sigmas: own levels, falling: sigma, or tau of flow matching, as its schedulers take them. A last level of 0
                is the data, where every run ends; without one it is added.
            mu: the shift of a flow matching schedule that is shifted dynamically.

        Raises:
            ValueError: times or levels that rise, repeat or lie outside of the schedule, or none of them; a number of
                steps that is not whole, below 1 or above that of the schedule's times, or another than that of the
                shares of noise.
        """
        kind = self.convention.noise.kind
        own = timesteps if timesteps is not None else sigmas
        if own is not None and torch.as_tensor(own).ndim != 1:
            raise ValueError(f"expected a list of times or levels, received {own!r}")
        if timesteps is not None and sigmas is not None:
            raise ValueError("expected own timesteps or own sigmas, received both")
        if num_inference_steps is not None:
            most = len(self) if kind == "vp" else math.inf
            num_inference_steps = whole_number("num_inference_steps", num_inference_steps, most=most)
        elif own is None:
            raise ValueError("expected the number of steps, own timesteps or own sigmas, received none of them")
        if mu is not None and kind != "flow":
            raise ValueError(f"mu={mu!r}: levels of the kind {kind} have no shift")
        if timesteps is not None:
            times, levels = self._of_times(timesteps)
        elif sigmas is not None and not hasattr(self.grid, "scale_noise"):  # a flow's grid shifts them itself
            times, levels = self._of_sigmas(sigmas)
        else:
            times, levels = self._of_grid(num_inference_steps, sigmas, mu)
        check_count(self.config["eta"], len(times))
        levels = _falling([min(level, FAR) for level in levels])
        if levels[0] == FAR and self.convention.prediction == "epsilon":
            raise ValueError("where no signal is left, a network that predicts the noise says nothing of the image")
        self.timesteps, self.levels = times.to(device), levels + [0.0] * (len(levels) == len(times))
        self.sigmas = torch.tensor(self.levels, dtype=torch.float32)
        if kind == "flow":
            self.sigmas = self.sigmas / (1 + self.sigmas)
        self.num_inference_steps = len(times)
        self._step_index, self._begin_index, self._before = None, None, None

    def _of_times(self, timesteps: Sequence[float]) -> tuple[Tensor, list[float]]:
        """Own times, and their levels sigma."""
        noise, times = self.convention.noise, torch.as_tensor(timesteps, dtype=torch.float64)
        whole = noise.kind == "vp" and bool((times == times.round()).all())
        return times.to(torch.int64 if whole else torch.float32), torch.as_tensor(noise.sigma(times)).tolist()

    def _of_sigmas(self, sigmas: Sequence[float]) -> tuple[Tensor, list[float]]:
        """The times of own levels, sigma or a flow's tau, and the levels sigma, without a last one of 0."""
        noise, levels = self.convention.noise, [float(sigma) for sigma in sigmas]
        if noise.kind == "flow":
            levels = [tau / (1 - tau) if tau < 1 else math.inf for tau in levels]
        levels = levels[:-1] if levels and levels[-1] == 0 else levels
        return torch.as_tensor(noise.time(torch.tensor(levels, dtype=torch.float64))).float(), levels

    def _of_grid(
        self, steps: int | None, sigmas: Sequence[float] | None, mu: float | None
    ) -> tuple[Tensor, list[float]]:
        """The times and the levels sigma that the grid spreads; a lowest level above 0 is one more."""
        given = {name: value for name, value in {"mu": mu, "sigmas": sigmas}.items() if value is not None}
        self.grid.set_timesteps(steps, **given)
        noise, times = self.convention.noise, self.grid.timesteps
        spread = torch.as_tensor(self.grid.sigmas, dtype=torch.float64).cpu()
        *levels, last = (spread / (1 - spread) if noise.kind == "flow" else spread).tolist()
        if not is_curved(self.grid):  # exactly those that the network is told of
            levels = torch.as_tensor(noise.sigma(times.cpu().double())).tolist()
        return times, levels + [last] * (0 < last < levels[-1] * (1 - 1e-6))  # some end at the level of the last time

    def index_for_timestep(self, timestep: Any) -> int:
        """The first step from this time.

        Raises:
            ValueError: there is none.
        """
        found = (self.timesteps.cpu().double() == float(timestep)).nonzero().flatten()
        if not len(found):
            raise ValueError(f"{float(timestep):g} is none of this scheduler's times {self.timesteps.tolist()}")
        return int(found[0])

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The network's input `c_in y`; the sample itself but for EDM."""
        if self.convention.noise.kind != "edm":
            return sample
        return sample * self.convention.coefficients(self.levels[self._index(timestep)])[0]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The sample at the next time, and the predicted image.

        Args:
            model_output: the network's output for `scale_model_input(sample, timestep)`, `(B, *shape)`.
            timestep: the time.
            sample: `x_t`, `(B, *shape)`.
            generator: of the noise, where `eta` is above 0; a list has one for each sample.
            return_dict: False returns a tuple.

        Raises:
            ValueError: an output that is NaN or infinite, with the level; a sample of another shape than the prior's;
                an output of another shape than the sample's, or another number of samples than in the step before; a
                first time that is none of the run's, or a step after the last.
        """
        i = self._index(timestep)
        if i >= len(self.levels) - 1:
            raise ValueError(f"all {len(self.levels) - 1} steps of this run are done: set the times again")
        s, t = self.levels[i], self.levels[i + 1]
        steps = self._stepping(sample, share_at(self.config["eta"], i))
        wide = torch.promote_types(sample.dtype, torch.float32)
        if str(self.config.get("variance_type")).startswith("learned"):  # a second half of the channels
            model_output = model_output[:, : sample.shape[1]]
        if model_output.shape != sample.shape:
            raise ValueError(f"the output has the shape {tuple(model_output.shape)}, the sample {tuple(sample.shape)}")
        if self._before is not None and self._rows != len(sample):
            raise ValueError(f"this run has {self._rows} samples, received {len(sample)}: set the times again")
        self._rows = len(sample)
        y = sample.to(wide) / self._alpha(s)
        clean = self.convention.to_sample(model_output.to(wide), y, s)
        if not clean.isfinite().all():
            raise ValueError(
                f"the network's output is NaN or infinite at the level sigma = {s:.4g}, step {i + 1} of "
                f"{len(self.levels) - 1}"
            )
        if self.config["clip_sample"]:
            bound = self.config["clip_sample_range"]
            clean = clean.clamp(-bound, bound)
        if i < len(self.levels) - 2:

            def white() -> Tensor:
                return randn_tensor(y.shape, generator=generator, device=y.device, dtype=wide)

            y, self._before = steps.step(y, clean, s, t, self._before, white)
        else:
            y, self._before = clean + t / s * (y - clean), None  # what is held to the end would become contrast
        self._step_index = i + 1
        x = (y * self._alpha(t)).to(sample.dtype)
        clean = clean.to(sample.dtype)
        return DDIMSchedulerOutput(prev_sample=x, pred_original_sample=clean) if return_dict else (x, clean)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """`alpha_t x_0 + std_t eps` for images and white noise `(B, *shape)` at times `(B,)`."""
        times = torch.as_tensor(timesteps).cpu().double().reshape(-1)
        process, ones = self.convention.noise, [1] * (original_samples.ndim - 1)
        alpha, std = (part(times).to(original_samples).reshape(-1, *ones) for part in (process.alpha, process.std))
        return alpha * original_samples + std * noise

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def _index(self, timestep: Any) -> int:
        """The number of the present step."""
        if not self.levels:
            raise ValueError("this scheduler has no times yet: call set_timesteps first")
        if self._step_index is None:
            self._step_index = self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index
        return self._step_index

    def _alpha(self, sigma: float) -> float:
        return self.convention.noise.alpha_at(sigma)

    def _stepping(self, sample: Tensor, eta: float) -> Steps:
        """The steps of samples like this one, with a share of noise."""
        if tuple(sample.shape[1:]) != tuple(self.prior.shape):
            raise ValueError(
                f"the prior inside is for samples of shape {tuple(self.prior.shape)}, received {tuple(sample.shape)}"
            )
        prior, how = self.prior, {name: self.config[name] for name in ("solver_order", "substeps")} | {"eta": eta}
        if prior.own_labels(self.labels) is not None:
            if self._of_classes is None or self._of_classes[0] is not self.labels or self._of_classes[1] != eta:
                self._of_classes = self.labels, eta, steps_of(prior.to(sample.device), self.labels, **how)
            return self._of_classes[2]
        key = (id(prior), sample.device, *how.values())
        if key not in self._made:
            self._made[key] = steps_of(prior.to(sample.device), **how)
        return self._made[key]


def _falling(levels: list[float]) -> list[float]:
    """Levels that fall, down to one above 0.

    Raises:
        ValueError: they do not.
    """
    wrong = [(s, t) for s, t in pairwise([*levels, 1e-300]) if not math.inf > s > t > 0]
    if wrong or not levels:
        found = f"{wrong[0][0]:.6g} and then {wrong[0][1]:.6g}" if len(levels) > 1 else levels
        raise ValueError(
            f"expected finite noise levels that fall and stay above 0 up to the last step, received {found}"
        )
    return levels
