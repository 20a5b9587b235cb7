"""One run of a scheduler, from noise to data, and the rehearsal that shows whether it arrives.

Most of what a scheduler cannot do shows only when it is run: a step that divides by zero, a time outside of the
schedule, a prediction type that a class does not know. So each is rehearsed first, on a few numbers and with the exact
network of data at one point, 0, whose every prediction is known:

    D(y, sigma) = 0,    F = (D - c_skip y) / c_out            (`denoisers/conventions.py`)

Whatever the sampler, its steps then end at 0. One that raises, gives NaN or ends elsewhere is refused before a network
is evaluated. A rehearsal costs about as much as one evaluation of a tiny network.
"""

import copy
import inspect
import warnings
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import as_model
from latestart.gaussians.basis import Isotropic
from latestart.gaussians.gaussian import Gaussian
from latestart.sampling.endings import finished
from latestart.sampling.guard import prior_inside
from latestart.sampling.seeds import sample_generator

__all__ = ["Run", "initial_sample", "rehearse", "uses_variances", "without_variances"]

MEMORY = ("timestep_back", "old_pred_original_sample")  # CogVideoX's DPM solver leaves it to the caller
SHAPE = (1, 5, 3)  # of a sample of a rehearsal
ROWS = 2
ARRIVED = 0.5  # within which a rehearsal must end, of data that are usually in [-1, 1]


def initial_sample(scheduler: Any, z: Tensor) -> Tensor:
    """The start of a full run from white noise `z`, (B, *shape), as pipelines draw it: `init_noise_sigma z`."""
    return z * float(getattr(scheduler, "init_noise_sigma", 1.0))


class Run:
    """One run of a scheduler from noise to data; it gives `step` all the arguments that the class takes.

        run = Run(scheduler, generators)
        for t in scheduler.timesteps:
            x = run.step(model(run.model_input(x, t), t), t, x)

    Args:
        scheduler: a diffusers scheduler whose times are set and that has not stepped since.
        generators: the noise of stochastic schedulers, one generator for all samples or one for each.
        eta: the share of noise where the class knows it (DDIM); None leaves the class's default.
    """

    def __init__(
        self,
        scheduler: Any,
        generators: torch.Generator | list[torch.Generator] | None = None,
        eta: float | None = None,
    ) -> None:
        self.scheduler, self.generators = scheduler, generators
        offered = {"generator": generators, "eta": eta, "return_dict": False}
        given = {name: value for name, value in offered.items() if value is not None} | dict.fromkeys(MEMORY)
        self._options = {name: given[name] for name in inspect.signature(scheduler.step).parameters if name in given}
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # else a class whose first two times are equal begins at the second
        if generators is not None and hasattr(scheduler, "noise_sampler_seed"):
            # DPMSolverSDE draws Brownian paths, by seeds of their own
            scheduler.noise_sampler = None
            if isinstance(generators, torch.Generator):
                scheduler.noise_sampler_seed = generators.initial_seed()
            else:
                scheduler.noise_sampler_seed = [one.initial_seed() for one in generators]

    def model_input(self, x: Tensor, t: Any) -> Tensor:
        """The input of the network for the sample `x`, (B, *shape), at time `t`."""
        return self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else x

    def step(self, output: Tensor, t: Any, x: Tensor) -> Tensor:
        """The sample one step below time `t`, from the network's output and the sample `x`, both (B, *shape).

        Learned variances, a second half of the output's channels, are handed to the schedulers that use them.
        """
        if not uses_variances(self.scheduler):
            output = output[:, : x.shape[1]]
        elif output.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"the {type(self.scheduler).__name__} takes the variances that a network has learned, and this network "
                f"gives {output.shape[1]} channels, none of them variances: expected {2 * x.shape[1]}, or a scheduler "
                "with variance_type='fixed_small'"
            )
        result = self.scheduler.step(model_output=output, timestep=t, sample=x, **self._options)
        result = finished(self.scheduler, t, result)
        if MEMORY[0] in self._options:
            self._options.update(zip(MEMORY, (t, result[1])))
        return result[0]


def uses_variances(scheduler: Any) -> bool:
    """Whether a scheduler's steps take the variances that a network has learned."""
    # an attribute of its own, not of its configuration: solvers of ODEs read that one to cut them off
    own = vars(getattr(scheduler, "cut", scheduler)).get("variance_type")
    return isinstance(own, str) and own.startswith("learned")


def without_variances(scheduler: Any) -> Any:
    """Set a scheduler to a network whose variances are cut off: some classes would cut to three channels themselves."""
    if not uses_variances(scheduler) and str(scheduler.config.get("variance_type")).startswith("learned"):
        getattr(scheduler, "cut", scheduler).register_to_config(variance_type=None)
    return scheduler


def rehearse(scheduler: Any, start: float) -> bool:
    """Run a scheduler to data at one point, 0; return whether its steps drew from the generators of the samples.

    Args:
        scheduler: whose times are set; it is not changed.
        start: the standard deviation of the noise that it starts from, in its own space.

    Raises:
        ValueError: it fails, or does not arrive, with the error or the distance.
        ImportError: it needs a package that is not installed.
    """
    network, name = as_model(PointCloud(torch.zeros(1, *SHAPE)), scheduler), type(scheduler).__name__
    copied = without_variances(copy.deepcopy(scheduler))
    if prior_inside(scheduler) is not None:  # of other images and classes than these
        copied.prior, copied.labels = Gaussian(torch.zeros(SHAPE), Isotropic(SHAPE), torch.ones(1)), None
    times = [float(t) for t in copied.timesteps]
    if not all(abs(t) < float("inf") for t in times):
        raise ValueError(f"{name} gives times that are not finite: {times}; with other settings it may not")
    network.convention.noise.sigma(torch.tensor(times))  # raises for a time outside of the schedule, and names it
    generators = [sample_generator(0, k) for k in range(ROWS)]
    x = start * torch.stack([torch.randn(SHAPE, generator=g) for g in generators])
    before = generators[0].get_state()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            run = Run(copied, generators)
            for t in copied.timesteps:
                out = network(run.model_input(x, t), float(t)).sample
                x = run.step(torch.cat([out, torch.zeros_like(out)], 1) if uses_variances(copied) else out, t, x)
    except ImportError:
        raise
    except Exception as error:  # whatever a class does with settings that it was not made for
        raise ValueError(f"{name} fails with these settings: {type(error).__name__}: {error}") from error
    if not x.isfinite().all():
        raise ValueError(
            f"{name} gives samples that are not finite with these settings, over the times {_shown(times)}"
        )
    if float(x.abs().max()) > ARRIVED:
        raise ValueError(
            f"{name} does not sample what a network predicts with these settings: data that are all 0 come out as up "
            f"to {float(x.abs().max()):.3g}, over the times {_shown(times)}"
        )
    return not torch.equal(before, generators[0].get_state())


def _shown(times: list[float]) -> str:
    return ", ".join([f"{t:g}" for t in times[:6]] + ["..."] * (len(times) > 6))
