"""The ways to sample that are compared, and the choice of their starts.

    full noise    each fast sampler with leading and trailing spacing, unclipped and, where it can, clipped
    late start    from each prior, unclipped and clipped, at the starts given; or at the one that `choose_start` finds
                  for that sampler and prior, chosen once and kept in starts/
    reference     DDPM in many steps from full noise, with the next seed, since there is nothing to choose

All but the reference have equal network evaluations. Ways without a start, or whose sampler cannot spend the
evaluations, are left out with the reason.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from latestart.denoisers.adapter import as_network
from latestart.experiments.diversity.settings import DiversitySettings
from latestart.files import read_json, write_json
from latestart.fingerprints import key_of
from latestart.lab.cells import Planned, first_line, plan
from latestart.lab.experiment import Lab
from latestart.lab.grid import Cell
from latestart.lab.store import Store
from latestart.lab.subjects import Subject
from latestart.sampling.choose import choose_start
from latestart.sampling.names import TIMES
from latestart.sampling.samplers import can_clip, make_sampler

__all__ = ["chosen_starts", "planned_ways"]

REFERENCE = "ddpm"


def planned_ways(
    settings: DiversitySettings, subject: Subject, choices: list[dict[str, Any]]
) -> tuple[list[Planned], dict[str, str]]:
    """Plan each way once; return those with steps, and the reasons why others have none.

    Args:
        settings: of the experiment.
        subject: the model.
        choices: the starts of `chosen_starts`; empty where starts are given.

    Raises:
        ValueError: no fast way has any steps.
    """
    cells = []
    for sampler in settings.samplers:
        plain, clips = _cell(settings, sampler), (False, True) if can_clip(sampler) else (False,)
        cells += [replace(plain, spacing=spacing, clip=clip) for spacing, clip in product(TIMES[:2], clips)]
        chosen = {one["prior"]: (one["t_start"],) for one in choices if one["sampler"] == sampler}
        for prior in settings.priors:
            starts = settings.starts or chosen.get(prior, ())
            cells += [replace(plain, prior=prior, t_start=start, clip=clip) for start, clip in product(starts, clips)]
    if settings.reference:
        cells.append(replace(_cell(settings, REFERENCE), nfe=settings.reference, seed=settings.seed + 1))
    planned = plan(dict.fromkeys(cells), {settings.model: subject})
    able = [one for one in planned if one.steps is not None]
    unable = {one.cell.describe(): one.reason for one in planned if one.steps is None}
    if not any(one.cell.nfe == settings.nfe for one in able):
        raise ValueError(f"there is no way to measure, {_first(unable)}")
    return able, unable


def _cell(settings: DiversitySettings, sampler: str) -> Cell:
    return Cell.of(settings, sampler=sampler, nfe=settings.nfe)


def chosen_starts(
    settings: DiversitySettings, subject: Subject, lab: Lab
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Choose a start for every sampler and prior once, kept in starts/; none where starts are given.

    Returns:
        The starts, and the reasons why others could not be chosen.

    Raises:
        ValueError: no start could be chosen.
    """
    choices: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for sampler, prior in () if settings.starts else product(settings.samplers, settings.priors):
        what = f"{settings.model}, {sampler}, NFE {settings.nfe}, late from {prior}"
        try:
            choices.append(_chosen_start(settings, subject, lab, sampler, prior))
        except Exception as error:  # whatever a sampler or a criterion raises: the others are still worth measuring
            refused[what] = f"no start could be chosen: {first_line(error)}"
            lab.tell(f"failed: {what}: {refused[what]}")
    if refused and not choices:
        raise ValueError(f"there is no late start to measure, {_first(refused)}")
    return choices, refused


def _first(reasons: dict[str, str]) -> str:
    what, reason = next(iter(reasons.items()))
    return f"the first being {what}: {reason}"


def _chosen_start(settings: DiversitySettings, subject: Subject, lab: Lab, sampler: str, prior: str) -> dict[str, Any]:
    """Return the start of one sampler and prior, from its file or chosen now."""
    (distribution, print_), judge = subject.priors[prior], subject.judge
    (planned,) = plan([_cell(settings, sampler)], {settings.model: subject})
    if (steps := planned.steps) is None:
        raise ValueError(planned.reason)

    def make(path: Path) -> None:
        if distribution is None:
            raise ValueError("a start is chosen for a prior; for N(0, I) give --t-start")
        lab.tell(f"choosing a start for {sampler} from {prior}")
        unseen = None if judge.reference.copying is None else judge.reference.copying[1]
        choice = choose_start(
            subject.network,
            make_sampler(sampler, subject.scheduler, spacing=TIMES[0]),
            distribution,
            unseen,
            steps,
            features=None if unseen is None else judge.extract,
            labels=unseen.labels if unseen is not None and as_network(subject.network).classes else None,
            seed=settings.seed,
        )
        found = {"t_start": choice.t_start, "nfe": choice.nfe, "how": choice.how}
        write_json(path, {"sampler": sampler, "prior": prior, **found})

    data = (judge.reference.fingerprint, judge.features)
    key = key_of([subject.weights, print_ or prior, sampler, steps, *data, settings.seed])
    return Store(lab.out / "starts", "{}.json", lab.tell).kept(key, _read_start, make)


def _read_start(path: Path) -> dict[str, Any]:
    known = read_json(path)
    if known is None or "t_start" not in known:
        raise ValueError("expected the start of a sampler")
    return known
