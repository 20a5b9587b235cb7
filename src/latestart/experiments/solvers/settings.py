"""The settings of the comparison of samplers. Nothing heavy is imported."""

from dataclasses import dataclass

from latestart.experiments.table1.settings import EVERY, MIXTURE, start_times
from latestart.lab.grid import FULL, GAUSSIAN
from latestart.lab.setup import FEWEST, SweepSetup
from latestart.sampling.names import PRIOR, SAMPLERS, SPACINGS
from latestart.settings import setting

__all__ = ["KINDS", "SolversSettings"]

KINDS = (FULL, GAUSSIAN, MIXTURE)
LATE = {GAUSSIAN: (400, 500, 600, 700), MIXTURE: (200, 300, 400, 500)}  # of 1,000


@dataclass(frozen=True, kw_only=True)
class SolversSettings(SweepSetup):
    """The prior solver and the other samplers, each at its own best start, spacing, last level and clipping.

    Every way is scanned with few samples, the best ways of each sampler are measured with all, and the best one of
    each is drawn again with the next seed. Each cell is kept the moment it is done.

    Raises:
        ValueError: a sampler or a kind of start that there is not, or start times of a kind that is not asked for.
    """

    statistics: str | None = setting(
        None, "Where the feature statistics of the images are kept; default: OUT/statistics.safetensors."
    )
    gaussian: str | None = setting(None, "File of the Gaussian; default: the one next to the model.", of="file")
    mixture: str | None = setting(None, "File of the mixture; default: the one next to the model.", of="file")
    nfe: tuple[int, ...] = setting((3, 5), "Network evaluations for each sample.", least=2)
    starts: tuple[str, ...] = setting(KINDS, "Kinds of start: none (full noise), gaussian, mixture.", choices=KINDS)
    samplers: tuple[str, ...] = setting(
        ("ddpm", "ddim", "dpm++", "unipc", "deis", "ipndm", PRIOR), "Samplers.", choices=(*SAMPLERS, PRIOR)
    )
    t_start: dict[str, tuple[int, ...]] | None = setting(
        None,
        "Where late starts begin, in the scheduler's t: 200,500 for both kinds, or gaussian=500,600;mixture=300.",
        read=start_times,
    )
    spacing: tuple[str, ...] = setting(
        ("trailing", "leading", "karras", "log-snr", "karras+1", "log-snr+1"), "Spacings.", choices=tuple(SPACINGS)
    )
    last: tuple[int, ...] = setting((40, 80), "Times of the last evaluation, beside the spacings' own.", least=0)
    clip: tuple[bool, ...] = setting((False, True), "Clip the predicted image: false, true, or both.")
    inside: tuple[str, ...] = setting((), "Priors inside the prior solver; default: the Gaussian.")
    eta: tuple[float, ...] = setting((0.0,), "Shares of noise of the prior solver.", least=0, most=1)
    order: tuple[int, ...] = setting((2,), "Orders of the prior solver: 1, 2.", least=1, most=2)
    substeps: tuple[int, ...] = setting(
        (0,), "Small steps of the prior solver with a mixture's own denoiser inside; 0: its Gaussian.", least=0
    )
    scan: int = setting(300, "Samples of the scan.", least=FEWEST)
    keep: int = setting(3, "Ways of each sampler that are measured with all samples.", least=1)

    def check(self) -> None:
        """Give start times without a kind to both kinds; refuse those of other kinds."""
        if self.scan > self.samples:
            raise ValueError(f"scan: expected at most the {self.samples} samples of a figure, received {self.scan}")
        given = dict(self.t_start or {})
        late = [kind for kind in self.starts if kind != FULL]
        given |= dict.fromkeys(late, given.pop(EVERY)) if EVERY in given else {}
        for kind, times in given.items():
            if kind not in late:
                raise ValueError(f"t-start: received {times} for {kind}, expected some of {', '.join(late) or 'none'}")
            if min(times, default=0) < 1:
                raise ValueError(f"t-start: expected times of at least 1, in the scheduler's t, received {times}")
        object.__setattr__(self, "t_start", {kind: given.get(kind, LATE[kind]) for kind in late})

    def prior(self, kind: str) -> str:
        """Return the name that cells have for the prior of a kind: its own, or that of a file."""
        return {GAUSSIAN: self.gaussian, MIXTURE: self.mixture}.get(kind) or kind

    @property
    def insides(self) -> tuple[str, ...]:
        """Names of the priors inside the prior solver."""
        return tuple(map(self.prior, self.inside or (GAUSSIAN,)))
