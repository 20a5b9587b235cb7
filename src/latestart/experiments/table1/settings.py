"""The settings of the paper's table and of its presets. Nothing heavy is imported."""

from dataclasses import dataclass, fields
from typing import Any

from latestart.experiments.table1.published import dataset_of, published
from latestart.lab.grid import FULL, GAUSSIAN, PLAIN
from latestart.lab.setup import SweepSetup
from latestart.sampling.names import PRIOR
from latestart.sampling.names import SAMPLERS as ALL_SAMPLERS
from latestart.settings import flag_of, setting

__all__ = [
    "DEMO", "EVERY", "GAUSSIAN", "LATE", "LATE_SOLVERS", "MIXTURE", "PAPER", "PARTS", "SAMPLERS", "STARTS",
    "Table1Settings", "start_times",
]  # fmt: skip

PAPER = "paper"  # the part, and the spacing of the paper's grid
PARTS = (PAPER, "exact", "solvers")
SAMPLERS = ("ddpm", "ddim", "pndm")  # the paper's
STARTS = (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)  # those that the paper chose from
MIXTURE = "mixture"
LATE = {PLAIN: (600, 700, 800), GAUSSIAN: (400, 500, 600, 700), MIXTURE: (200, 300, 400, 500)}  # of 1,000
LATE_SOLVERS = {PLAIN: (700,), GAUSSIAN: (500, 600), MIXTURE: (300, 400)}  # six solvers, three spacings of each
EVERY = "every"  # kind of late start
DEMO = "demo"  # the preset
PRESET: dict[str, Any] = {  # its settings; the first four are fixed, the others are defaults
    "parts": ("exact",),
    "starts": tuple(LATE),
    "clip": (False, True),
    "budget": None,
    "samplers": ("ddim", "ddpm", PRIOR),
    "t_start": {PLAIN: (600, 700), GAUSSIAN: (500, 600, 700), MIXTURE: (300, 400, 500)},
}
FIXED = ("parts", "starts", "clip", "budget")


def start_times(text: str) -> dict[str, tuple[int, ...]]:
    """Return start times by the kind of start, from `200,500` (of every kind) or `gaussian=400;mixture=200,300`.

    Raises:
        ValueError: times that are no whole numbers, or a kind given twice.
    """
    pairs = [part.partition("=") for part in (text if "=" in text else f"{EVERY}={text}").split(";")]
    try:
        given = {kind.strip(): tuple(int(time) for time in times.split(",")) for kind, _, times in pairs}
    except ValueError:
        raise ValueError(f"t-start: expected whole numbers between commas, received {text!r}") from None
    if len(given) < len(pairs):
        raise ValueError(f"t-start: expected each kind of start once, received {text!r}")
    return given


@dataclass(frozen=True, kw_only=True)
class Table1Settings(SweepSetup):
    """The paper's table 1 beside the paper's figures: full noise against late start, at 3, 5 and 10 evaluations.

    Each cell is kept the moment it is done; under `torchrun` its processes share them.

    Raises:
        ValueError: a part, sampler or kind of start that there is not; start times of a kind that is not asked for.
    """

    statistics: str | None = setting(
        None, "Where the feature statistics of the images are kept; default: OUT/statistics.safetensors."
    )
    gaussian: str | None = setting(None, "File of the Gaussian; default: the one next to the model.", of="file")
    mixture: str | None = setting(None, "File of the mixture; default: the one next to the model.", of="file")
    preset: str = setting(
        PAPER,
        "paper, or demo: DDIM, DDPM and the prior solver at equal evaluations, every way to start in one table.",
        choices=(PAPER, DEMO),
    )
    parts: tuple[str, ...] = setting(
        PARTS, "paper (as the paper did it), exact (at equal evaluations), solvers.", choices=PARTS
    )
    samplers: tuple[str, ...] = setting(
        SAMPLERS, "Of the parts `paper` and `exact`; prior is of the latter alone.", choices=(*SAMPLERS, PRIOR)
    )
    solvers: tuple[str, ...] = setting(
        ("dpm++", "unipc", "deis", "heun", "lms", "ipndm", PRIOR),
        "Samplers of the third part.",
        choices=(*ALL_SAMPLERS, PRIOR),
    )
    inside: tuple[str, ...] = setting(
        (), "Priors inside the prior solver: gaussian, mixture, or files; default: the Gaussian."
    )
    eta: tuple[float, ...] = setting((0.0,), "Shares of noise of the prior solver.", least=0, most=1)
    order: tuple[int, ...] = setting((2,), "Orders of the prior solver: 1, 2.", least=1, most=2)
    last: tuple[int, ...] = setting(
        (), "Times of the last evaluation in the third part; beside these, the spacing's own.", least=0
    )
    starts: tuple[str, ...] = setting(tuple(LATE), "Kinds of late start.", choices=tuple(LATE))
    t_start: dict[str, tuple[int, ...]] | None = setting(
        None,
        "Where late starts begin, in the scheduler's t: 200,500 for all kinds in --starts, or "
        "gaussian=400,500;mixture=200; default: some for each kind. The part `paper` has the paper's eleven, or those "
        "of paper=200,500.",
        read=start_times,
    )
    clip: tuple[bool, ...] = setting(
        (False, True), "Clip the predicted image: false, true, or both; not in the part `paper`."
    )
    nfe: tuple[int, ...] = setting((3, 5, 10), "Steps in the part `paper`, network evaluations in the others.", least=1)
    paper: str | None = setting(
        None,
        "Data set of the paper's figures that stand beside: mnist, cifar10, celeba32, celeba64, imagenet64; default: "
        "that of the model's name, if any.",
    )

    def check(self) -> None:
        """Give start times without a kind to every kind; refuse those of kinds that no part has."""
        published(self.dataset)
        if self.preset == DEMO:
            self._preset()
        if PAPER in self.parts and PRIOR in self.samplers:
            raise ValueError(f"samplers: {PRIOR} cannot step over the paper's grid: leave out the part {PAPER}")
        if PAPER in self.parts and min(self.nfe) < 2:
            raise ValueError(f"nfe: expected at least 2 steps on the paper's grid, received {min(self.nfe)}")
        given = dict(self.t_start or {})
        given |= dict.fromkeys(self.starts, given.pop(EVERY)) if EVERY in given else {}
        begun = (*self.late, *((PAPER,) if PAPER in self.parts else ()))
        for kind, times in given.items():
            if kind not in begun:
                raise ValueError(
                    f"t-start: received start times of {kind!r}, {', '.join(map(str, times))}, which the parts "
                    f"{', '.join(self.parts)} do not have with these kinds of start: expected some of "
                    f"{', '.join(begun)} (`{PAPER}` is the paper's own grid)"
                )
            if min(times, default=0) < 1:
                raise ValueError(
                    f"t-start: expected start times of at least 1, in the scheduler's t, received {times} for {kind}"
                )
        object.__setattr__(self, "t_start", given)

    def _preset(self) -> None:
        """Give the settings that were left alone the values of the demo; refuse others of those that it fixes."""
        for one in fields(self):
            if one.name not in PRESET:
                continue
            given, own = getattr(self, one.name), PRESET[one.name]
            if given == one.default:
                object.__setattr__(self, one.name, own)
            elif one.name in FIXED and given != own:
                raise ValueError(f"{flag_of(one)}: the preset {DEMO} has its own, received {given}")
        if odd := sorted(set(self.samplers) - set(PRESET["samplers"])):
            raise ValueError(f"samplers: the preset {DEMO} has {', '.join(PRESET['samplers'])}, received {odd[0]}")

    @property
    def dataset(self) -> str | None:
        """The data set whose figures in the paper stand beside, if any."""
        return dataset_of(self.model) if self.paper is None else self.paper

    @property
    def late(self) -> tuple[str, ...]:
        """Kinds of late start on exact grids; the part `paper` alone has none."""
        return self.starts if set(self.parts) != {PAPER} else ()

    @property
    def all_late(self) -> tuple[str, ...]:
        """All kinds of late start, of all parts."""
        return tuple(dict.fromkeys((*self.late, *((GAUSSIAN,) if PAPER in self.parts else ()))))

    def prior(self, kind: str) -> str:
        """Return the name that cells have for the prior of a kind of start: its own, or that of a file."""
        return {GAUSSIAN: self.gaussian, MIXTURE: self.mixture}.get(kind) or kind

    @property
    def insides(self) -> tuple[str, ...]:
        """Names of the priors inside the prior solver."""
        return tuple(map(self.prior, self.inside or (GAUSSIAN,)))

    @property
    def priors(self) -> tuple[str, ...]:
        """Names of all priors of the cells."""
        solved = ("solvers" in self.parts and PRIOR in self.solvers) or (
            "exact" in self.parts and PRIOR in self.samplers
        )
        inside = self.insides if solved else ()
        return tuple(dict.fromkeys((FULL, *map(self.prior, self.all_late), *inside)))

    def times(self, part: str, kind: str, top: int) -> tuple[float, ...]:
        """Return the starts of a kind of late start in a part, on a schedule of `top` times."""
        if given := (self.t_start or {}).get(PAPER if part == PAPER else kind):
            return tuple(map(float, given))
        if part == PAPER:  # whose highest time is the last of the schedule
            return tuple(float(min(round(t * top / 1000), top - 1)) for t in STARTS)
        return tuple(float(round(t * top / 1000)) for t in (LATE_SOLVERS if part == "solvers" else LATE)[kind])
