"""The ways to sample that an experiment of diversity compares, and how each is chosen.

    full noise    each fast sampler with leading and trailing spacing, unclipped and, where it can, clipped
    late start    from each prior, unclipped and clipped, at the starts given; or at the one that `choose_start` names
                  for that sampler and prior, chosen once and kept in starts/
    reference     DDPM in many steps from full noise, with the next seed, since there is nothing to choose

All but the reference are at equal network evaluations. A way for which no start can be chosen, or at which the sampler
cannot spend the evaluations, is left out and told with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from latestart.denoisers.adapter import as_network
from latestart.files import read_json, write_json
from latestart.lab.cells import Planned, describe, first_line, plan
from latestart.lab.grid import FULL, Cell, Grid
from latestart.lab.store import kept_at, key_of
from latestart.lab.subjects import Subject
from latestart.sampling.choose import choose_start
from latestart.sampling.names import TIMES
from latestart.sampling.samplers import can_clip, make_sampler

NFE, REFERENCE = 5, "ddpm"
LENGTH = 200  # steps of the reference
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: the name of a shipped model, or a folder.
        samplers: the fast ones.
        nfe: their network evaluations for each sample.
        priors: of the late starts: `gaussian`, `mixture`, `isotropic`, or files.
        starts: in the scheduler's t; by default one for each sampler and prior, by `choose_start`.
        reference: steps of DDPM from full noise; 0 leaves it out.
        samples: of each way.
        seed: what is best is chosen with; its figures, and the reference's, are of the next.
        classifier: as `readers.open_reader` takes it.
        features, images, held_out: as a sweep's grid has them.
        batch_size: samples evaluated at once.
        mixed_precision: `bf16` evaluates the network in half precision.
        scheduler: of a model folder without one.
    """

    model: str = "mnist"
    samplers: tuple[str, ...] = ("ddim", "pndm")
    nfe: int = NFE
    priors: tuple[str, ...] = ("gaussian",)
    starts: tuple[float, ...] = ()
    reference: int = LENGTH
    samples: int = 1000
    seed: int = 0
    classifier: str | None = None
    features: str | None = None
    images: str | None = None
    held_out: str | None = None
    batch_size: int = 256
    mixed_precision: str = "no"
    scheduler: str | None = None

    def grid(self) -> Grid:
        """The model, the priors and the data, as a sweep opens them.

        Raises:
            ValueError: a name that is not known, a number that makes no sense, or full noise among the priors.
        """
        if FULL in self.priors:
            raise ValueError(f"full noise is always measured: expected priors other than {FULL}")
        return Grid.of_settings(
            self,
            sampler=self.samplers,
            nfe=(self.nfe,),
            prior=(FULL, *self.priors),
            t_start=self.starts or (1.0,),
        )


def planned_ways(
    settings: Settings, subject: Subject, choices: list[dict[str, Any]]
) -> tuple[list[Planned], dict[str, str]]:
    """The ways with their steps, each once; and those that have none, with the reason.

    Args:
        settings: what is measured.
        subject: the model.
        choices: the starts of `chosen`, where none are given.

    Raises:
        ValueError: no fast way has any steps.
    """
    starts: dict[tuple[str, str], tuple[float, ...]] = {
        (one["sampler"], one["prior"]): (one["t_start"],) for one in choices
    }
    cells = [cell for sampler in settings.samplers for cell in _of(settings, sampler, starts)]
    if settings.reference:
        cells.append(replace(_cell(settings, REFERENCE, settings.reference), seed=settings.seed + 1))
    planned = plan(dict.fromkeys(cells), {settings.model: subject})
    able, unable = [], {}
    for one in planned:
        if one.steps is None:
            unable[describe(one.cell)] = one.reason
        else:
            able.append(one)
    if not any(one.cell.nfe == settings.nfe for one in able):
        raise ValueError(f"there is no way to measure, {_first(unable)}")
    return able, unable


def chosen(
    settings: Settings, subject: Subject, folder: Path, tell: Tell
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The start of every sampler and prior, each chosen once and kept in a folder; none where starts are given.

    Returns:
        The starts that could be chosen, and why others could not.

    Raises:
        ValueError: none could.
    """
    choices: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    if settings.starts:
        return choices, refused
    for sampler, prior in product(settings.samplers, dict.fromkeys(settings.priors)):
        what = f"{settings.model}, {sampler}, NFE {settings.nfe}, late from {prior}"
        try:
            choices.append(_choice(settings, subject, folder, tell, sampler, prior))
        except Exception as error:  # whatever a sampler or a criterion raises: the others are still worth measuring
            refused[what] = f"no start could be chosen: {first_line(error)}"
            tell(f"failed: {what}: {refused[what]}")
    if not choices:
        raise ValueError(f"there is no late start to measure, {_first(refused)}")
    return choices, refused


def _first(reasons: dict[str, str]) -> str:
    what, reason = next(iter(reasons.items()))
    return f"the first being {what}: {reason}"


def _of(settings: Settings, sampler: str, starts: dict[tuple[str, str], tuple[float, ...]]) -> list[Cell]:
    """The cells of one fast sampler: from full noise, and late from each prior."""
    clips = (False, True) if can_clip(sampler) else (False,)
    full = [
        _cell(settings, sampler, settings.nfe, spacing=spacing, clip=clip)
        for spacing, clip in product(TIMES[:2], clips)
    ]
    late = [
        _cell(settings, sampler, settings.nfe, prior, start, clip=clip)
        for prior in dict.fromkeys(settings.priors)
        for start, clip in product(settings.starts or starts.get((sampler, prior), ()), clips)
    ]
    return full + late


def _cell(
    settings: Settings,
    sampler: str,
    nfe: int,
    prior: str = FULL,
    start: float | None = None,
    spacing: str = TIMES[0],
    clip: bool = False,
) -> Cell:
    return Cell(settings.model, sampler, nfe, prior, start, spacing, clip, settings.samples, settings.seed)


def _choice(settings: Settings, subject: Subject, folder: Path, tell: Tell, sampler: str, prior: str) -> dict[str, Any]:
    """The start of one sampler and prior, from its file or chosen now."""
    (distribution, print_), judge = subject.priors[prior], subject.judge
    steps = _steps(settings, subject, sampler)
    data = (judge.reference.fingerprint, judge.features)
    named = [subject.weights, print_ or prior, sampler, steps, *data, settings.seed]
    path = kept_at(folder, "{}.json", key_of(named))
    if isinstance(known := read_json(path), dict) and "t_start" in known:
        return known
    if distribution is None:
        raise ValueError("a start is chosen for a prior; for N(0, I) give --t-start")
    tell(f"choosing a start for {sampler} from {prior}")
    unseen = None if judge.reference.copying is None else judge.reference.copying[1]
    conditional = as_network(subject.network).classes
    choice = choose_start(
        subject.network,
        make_sampler(sampler, subject.scheduler, spacing=TIMES[0]),
        distribution,
        unseen,
        steps,
        features=None if unseen is None else judge.extract,
        labels=unseen.labels if conditional and unseen is not None else None,
        seed=settings.seed,
    )
    kept = {"sampler": sampler, "prior": prior, "t_start": choice.t_start, "nfe": choice.nfe, "how": choice.how}
    write_json(path, kept)
    return kept


def _steps(settings: Settings, subject: Subject, sampler: str) -> int:
    """Steps at which a sampler costs the evaluations asked for."""
    (one,) = plan([_cell(settings, sampler, settings.nfe)], {settings.model: subject})
    if one.steps is None:
        raise ValueError(one.reason)
    return one.steps
