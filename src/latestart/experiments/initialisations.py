"""Does another start distribution do as well? Nine of them, each at its own best start, at equal evaluations.

    isotropic   N(0, I), at late starts and at the top of the schedule
    uniform     the box along the principal axes with the mean and the covariance of the noised data
    diagonal    the Gaussian of the images with a variance for each value
    lowrank     that with their leading directions, and one variance for all others
    gaussian    that with their whole covariance (or as much of it as `Gaussian.fit` takes)
    labels      a Gaussian for each class of the images, weighted by how many there are
    mixture     the mixture of Gaussians beside the model, or one of 30 components; `mixture:K` has K
    flow        the Gaussian reshaped by a normalising flow, fitted to the noised images
    images      training images under noise: the distribution that all of these stand for, and so the limit

For each, a deterministic sampler with 3, 5 and 10 evaluations begins at every start of a grid, with the white noise of
one seed; the start with the lowest Frechet distance is then measured again with the noise of the next seed, and only
that is reported: a lowest of many noisy figures is too low, and what is measured anew is not. (The images that the
flow, the mixture and the others were fitted to are the same in both.) A quality is no quality where it is bought by
copies: where the best start copies in either draw, in that the interval of its share of copies lies above 0.02, the
best of those that do not is drawn again too, and reported beside it.

The ratios to the Gaussian are of paired bootstrap replicates: sample i has the same white noise in all rows. The noised
images are drawn from the very images that copies are looked for in, so that none escapes. The floor is what images
score that the model has not seen; their share of copies is that of every second held-out image, told by the others with
as many training images, and is 0.01 but for chance: an image held against itself would never be a copy.

A kind of start that cannot be fitted, or measured anywhere, has failed, and is told with its reason; the others go on.

Expected, at 3 evaluations on the shipped MNIST model: the noised images are lowest at low starts, where they are
copies. With the right two moments the shape matters little where one Gaussian is a good start, near t = 500: the
uniform start is nearly as good as the Gaussian, 32 directions are as good as all, and the diagonal is worse. What is
gained beyond the Gaussian is gained at lower levels by what knows of the clusters: the mixture has 0.3 of its distance,
ten Gaussians by their labels as little, and 100 components 0.25, all without copies, where noised images that are no
copies have 0.5; a small flow, though likelier than the Gaussian by two nats at sigma = 1.45, hardly gains.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from latestart import zoo
from latestart.data import Images, load_images
from latestart.denoisers.adapter import as_network
from latestart.device import own_device
from latestart.evaluation.copying import CopyingFrom
from latestart.evaluation.quality import Estimate
from latestart.experiments.starts import Box, Flow, FlowConfig, NoisedImages, Reshaped, fit_flow, kept, require_zuko
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.mixture import COMPONENTS, Mixture
from latestart.gaussians.priors import load_prior
from latestart.lab.cells import Outcome, first_line, plan
from latestart.lab.grid import FULL, Cell, Grid
from latestart.lab.judge import Figures, over
from latestart.lab.selection import choose
from latestart.lab.store import fingerprint
from latestart.lab.subjects import SHIPPED, Subject, open_subjects
from latestart.lab.sweep import Sweep
from latestart.processes import Processes
from latestart.sampling.late_start import late_start, start_level

KINDS = ("isotropic", "uniform", "diagonal", "lowrank", "gaussian", "labels", "mixture", "flow", "images")
COUNTED = "mixture:"  # and how many components
STARTS = (200, 300, 400, 500, 600, 700, 800)  # in the scheduler's t, of 1,000
EVALUATIONS = (3, 5, 10)
RANK = 32  # of the low-rank Gaussian

Tell = Callable[[str], None]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Setting:
    """What is compared, and how.

    Attributes:
        kinds: of start distributions (`KINDS`); `mixture:K` has K components, whatever lies beside the model.
        starts: the grid, in the scheduler's t; `isotropic` also starts at the top of the schedule.
        nfe: network evaluations for each sample.
        samples: drawn from each start.
        seed: of the white noise that starts are chosen by; the next one is that of the figures reported.
        sampler: its short name.
        rank: leading directions of the low-rank Gaussian.
        components: of the mixture, where none lies beside the model.
        flow: the learned start.

    Raises:
        ValueError: a kind that is not known, or a number that makes no sense.
    """

    kinds: tuple[str, ...] = KINDS
    starts: tuple[float, ...] = STARTS
    nfe: tuple[int, ...] = EVALUATIONS
    samples: int = 500
    seed: int = 0
    sampler: str = "ddim"
    rank: int = RANK
    components: int = COMPONENTS
    flow: FlowConfig = field(default_factory=FlowConfig)

    def __post_init__(self) -> None:
        if wrong := [kind for kind in self.kinds if kind not in KINDS and not counted(kind)]:
            known = f"{', '.join(KINDS)}, and mixtures of other numbers of components, such as {COUNTED}100"
            raise ValueError(f"there is no start distribution {wrong[0]!r}; there are {known}")
        if not (self.kinds and self.starts and self.nfe):
            raise ValueError("expected at least one kind, one start and one number of evaluations")


def counted(kind: str) -> int:
    """How many components a kind `mixture:K` asks for; 0 for any other."""
    number = kind.removeprefix(COUNTED)
    return int(number) if number != kind and number.isdecimal() else 0


@dataclass(frozen=True)
class Point:
    """One start of the grid: in the scheduler's t as asked for, its level, and its figures."""

    t_start: float
    sigma: float
    figures: Figures


Place = tuple[str, int, float]  # kind, evaluations and start
Pick = tuple[str, int, Point, bool]  # kind, evaluations, the start, and whether it is the best that does not copy


@dataclass(frozen=True)
class Row:
    """A start distribution at its best start.

    Attributes:
        kind: of start distribution.
        nfe: evaluations for each sample.
        t_start, sigma: the start, in the scheduler's t, and its level.
        clean: whether it was chosen among the starts that do not copy, after the best of all did.
        edge: "low" or "high" where it is the end of the grid, so that a better one may lie beyond it; else "".
        chosen: the distance by which it was chosen, lowest of many and so too low.
        figures: with the noise of another seed.
        relative: the distance over that of the Gaussian at its own best start, with the interval of paired replicates.
    """

    kind: str
    nfe: int
    t_start: float
    sigma: float
    clean: bool
    edge: str
    chosen: Estimate
    figures: Figures
    relative: Estimate | None = None

    def record(self) -> dict[str, Any]:
        """All figures but the replicates, for JSON."""
        plain = {name: getattr(self, name) for name in ("kind", "nfe", "t_start", "sigma", "clean", "edge")}
        relative = None if self.relative is None else asdict(self.relative)
        return {**plain, "chosen_by": asdict(self.chosen), "relative": relative, **estimates(self.figures)}


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        setting: what was asked.
        model, features: their names.
        curves: by kind and evaluations, the starts of the grid, rising, with the noise of `setting.seed`.
        rows: the best starts, by evaluations and kind, with the noise of the next seed.
        floor: the figures of images that the model has not seen, or None without such.
        unseen: how many these are: as many as samples, if there are so many.
        fitted: by kind, what it is and how many images it was fitted to.
        failed: what could not be fitted or measured, by its name, with the reason.
        gains: of the flow over the Gaussian that it reshapes, as `(sigma, nats)` on held-out images; or empty.
    """

    setting: Setting
    model: str
    features: str
    curves: dict[tuple[str, int], list[Point]]
    rows: list[Row]
    floor: Figures | None
    unseen: int
    fitted: dict[str, str]
    failed: dict[str, str]
    gains: list[tuple[float, float]]


def run(
    model: str,
    out: Path,
    setting: Setting | None = None,
    images: str | None = None,
    held_out: str | None = None,
    features: str | None = None,
    batch_size: int = 256,
    mixed_precision: str = "no",
    tell: Tell = lambda _: None,
    progress: Progress | None = None,
    scheduler: str | None = None,
) -> Result:
    """Compare start distributions for one model; a run that was cut off goes on from its folder.

    Args:
        model: the name of a shipped model, or a folder; the Gaussian and the mixture that lie beside it are taken, and
            others fitted to the images.
        out: folder of all that is kept: every cell, and what was fitted.
        setting: what is compared.
        images: the training set, as `load_images` reads it; by default the 2,000 images of the shipped model.
        held_out: images that the model has not seen, to tell copies by.
        features: of the Frechet distance, as in a sweep; the model's own by default.
        batch_size: samples evaluated at once.
        mixed_precision: `bf16` evaluates the network in half precision.
        tell: told what is worth knowing.
        progress: told (done, total, what), of the flow's steps and then of the evaluations of each of both seeds.

    Raises:
        ImportError: the flow is asked for and zuko is not installed.
        ValueError: what does not exist or does not fit; a class-conditional model; all has failed.
    """
    setting = setting or Setting()
    if "flow" in setting.kinds:
        require_zuko()
    asked = Grid(
        model=(model,), sampler=(setting.sampler,), nfe=setting.nfe, prior=(FULL,), t_start=setting.starts,
        samples=setting.samples,
        features=features, images=images, held_out=held_out, batch_size=batch_size,
        mixed_precision=mixed_precision, scheduler=scheduler,
    )  # fmt: skip
    subject = open_subjects(asked, out / "statistics.safetensors", Processes(), tell)[model]
    folder = Path(model) if Path(model).is_dir() else zoo.load(model).path
    data = load_images(images) if images is not None else zoo.Bundle(model, folder).images("train")
    return compare(model, subject, data, out, setting, folder, batch_size, tell, progress)


def compare(
    model: str,
    subject: Subject,
    data: Images,
    out: Path,
    setting: Setting,
    folder: Path | None = None,
    batch_size: int = 256,
    tell: Tell = lambda _: None,
    progress: Progress | None = None,
) -> Result:
    """`run`, for a model that is open and its training images; priors are looked for in `folder`."""
    if as_network(subject.network).classes:
        raise ValueError(f"{model} is class-conditional: these start distributions know no classes")
    known = _Starts(subject, data, out, setting, folder, tell, progress)
    priors, failed = _made(known, setting.kinds, tell)
    subject, able = replace(subject, priors=priors), replace(setting, kinds=tuple(priors))

    def measured(cells: list[Cell]) -> dict[Cell, Outcome]:
        return _measured(cells, {model: subject}, out, batch_size, tell, progress)

    first = measured(list(_grid(model, subject, able)))
    curves = _curves(first)
    second: dict[Cell, Outcome] = {}
    again: dict[Place, Figures] = {}
    while fresh := _drawn_next(model, setting, _picks(curves, again), second):
        second |= measured(fresh)
        again = {_place(cell): outcome.figures for cell, outcome in second.items() if outcome.figures is not None}
    picks = [(pick, (*pick[:2], pick[2].t_start)) for pick in _picks(curves, again)]
    rows = [_row(pick, curves[pick[:2]], again[place]) for pick, place in picks if place in again]
    failed |= _missing(first) | _missing(second)
    if not rows:
        what, reason = next(iter(failed.items()))
        raise ValueError(f"no start distribution could be measured, the first being {what}: {reason}")
    floor, unseen = _floor(subject, setting)
    return Result(
        setting, model, subject.judge.features, curves, list(_related(rows)), floor, unseen, known.told, failed,
        known.gains,
    )  # fmt: skip


def _made(known: "_Starts", kinds: tuple[str, ...], tell: Tell) -> tuple[dict[str, tuple[Any, str]], dict[str, str]]:
    """The start distributions that could be made, and why others could not."""
    priors, failed = {}, {}
    for kind in kinds:
        try:
            prior, print_ = known.made(kind)
            priors[kind] = (None if prior is None else prior.to(own_device())), print_
        except Exception as error:  # whatever a fit raises: the other kinds are still worth measuring
            failed[kind] = first_line(error)
            tell(f"failed: {kind}: {failed[kind]}")
    if not priors:
        kind, reason = next(iter(failed.items()))
        raise ValueError(f"no start distribution could be made, the first being {kind}: {reason}")
    return priors, failed


class _Starts:
    """The start distributions by their names, each with its fingerprint; what is fitted is kept in the folder."""

    def __init__(
        self,
        subject: Subject,
        data: Images,
        out: Path,
        setting: Setting,
        folder: Path | None,
        tell: Tell,
        progress: Progress | None,
    ) -> None:
        self.subject, self.data, self.setting, self.folder = subject, data, setting, folder
        self.out, self.tell, self.progress = out / "starts", tell, progress
        self.images, self.told, self.gains = fingerprint(data.pixels), {}, []  # type: ignore[var-annotated]
        self._known: dict[str, tuple[Any, str]] = {}

    def made(self, kind: str) -> tuple[Any, str]:
        """A start distribution as a sweep's subject has it; made once."""
        if kind not in self._known:
            count = counted(kind)
            self._known[kind] = self._mixture_of(count) if count else getattr(self, f"_{kind}")()
        prior, _ = self._known[kind]
        self.told.setdefault(kind, "N(0, I)" if prior is None else repr(prior))
        return self._known[kind]

    def _isotropic(self) -> tuple[Any, str]:
        return None, ""

    def _diagonal(self) -> tuple[Any, str]:
        return self._kept("diagonal", lambda: Gaussian.fit(self.data, "diagonal"), load_prior)

    def _lowrank(self) -> tuple[Any, str]:
        rank = self.setting.rank
        return self._kept("lowrank", lambda: Gaussian.fit(self.data, "lowrank", rank), load_prior, rank)

    def _gaussian(self) -> tuple[Any, str]:
        return self._beside("gaussian") or self._kept("gaussian", lambda: Gaussian.fit(self.data), load_prior)

    def _mixture(self) -> tuple[Any, str]:
        return self._beside("mixture") or self._mixture_of(self.setting.components)

    def _mixture_of(self, count: int) -> tuple[Any, str]:
        def fit() -> Mixture:
            self.tell(f"fitting a mixture of {count} Gaussians to {len(self.data)} images")
            return Mixture.fit(self.data, count)

        return self._kept("mixture", fit, load_prior, count)

    def _labels(self) -> tuple[Any, str]:
        """A Gaussian for each class; no class is asked for, as of any other mixture."""
        labels = self.data.labels
        if labels is None:
            raise ValueError("the training images have no labels")

        def fit() -> Mixture:
            by_class = Mixture.fit(self.data, labels=labels)
            return Mixture(by_class.components, by_class.weights)

        return self._kept("labels", fit, load_prior, labels)

    def _uniform(self) -> tuple[Any, str]:
        base, known = self._base()
        self.told["uniform"] = f"a box along {Reshaped(base, Box()).vectors.shape[1]} eigenvectors of {base}"
        return Reshaped(base, Box()), fingerprint("uniform", known)

    def _flow(self) -> tuple[Any, str]:
        (base, known), config = self._base(), self.setting.flow
        levels = self._levels()
        settings = (known, *levels, *asdict(config).values())
        flow, own = self._kept("flow", lambda: self._fitted(base, levels), Flow.load, *settings)
        self.gains = flow.gains
        r = flow.config.directions
        self.told["flow"] = f"a flow on {r} eigenvectors of {base}, fitted to {len(self.data)} images"
        return Reshaped(base, flow, r), fingerprint("flow", known, own)

    def _fitted(self, base: Gaussian, levels: tuple[float, float]) -> Flow:
        def told(step: int, steps: int, gain: float) -> None:
            if self.progress is not None:
                self.progress(step, steps, f"fitting a flow, {gain:.3f} nats over the Gaussian")

        self.tell(f"fitting a flow to {len(self.data)} images")
        return fit_flow(self.data, base, levels, self.setting.flow, told)

    def _images(self) -> tuple[Any, str]:
        copying = self.subject.judge.reference.copying
        chosen = self.data if copying is None else copying[0]
        self.told["images"] = f"{len(chosen)} training images under noise"
        return NoisedImages(chosen), fingerprint("images", chosen.pixels)

    def _base(self) -> tuple[Gaussian, str]:
        """The Gaussian whose leading eigenvectors are known: the whole one if it is dense, else the low-rank one."""
        gaussian = self.made("gaussian")
        return gaussian if isinstance(gaussian[0].basis, Dense | LowRank) else self.made("lowrank")

    def _levels(self) -> tuple[float, float]:
        """The lowest and the highest level that a run of the grid begins at."""
        scheduler, steps = self.subject.scheduler, self.setting.nfe
        low, high = min(self.setting.starts), max(self.setting.starts)
        lowest = min(start_level(late_start(scheduler, low, n)) for n in steps)
        return lowest, max(start_level(late_start(scheduler, high, n)) for n in steps)

    def _beside(self, kind: str) -> tuple[Any, str] | None:
        """The path of a file beside the model, or None."""
        path = None if self.folder is None else self.folder / SHIPPED[kind]
        if path is None or not path.is_file():
            return None
        return load_prior(path), fingerprint(path.read_bytes())

    def _kept(self, kind: str, fit: Callable[[], Any], load: Callable[[Path], Any], *settings: Any) -> tuple[Any, str]:
        """Load the fit to these images with these settings, or make it."""
        return kept(self.out, kind, fit, load, self.images, *settings)


def _grid(model: str, subject: Subject, setting: Setting) -> Iterable[Cell]:
    """Every kind at every start, with the first seed."""
    top = float(len(subject.scheduler.alphas_cumprod))
    for kind in setting.kinds:
        starts = dict.fromkeys((*sorted(setting.starts), *((top,) if kind == "isotropic" else ())))
        for nfe in setting.nfe:
            yield from (_cell(model, setting, kind, nfe, start, setting.seed) for start in starts)


def _cell(model: str, setting: Setting, kind: str, nfe: int, start: float, seed: int) -> Cell:
    return Cell(model, setting.sampler, nfe, kind, float(start), "trailing", False, setting.samples, seed)


def _measured(
    cells: list[Cell],
    subjects: dict[str, Subject],
    out: Path,
    batch_size: int,
    tell: Tell,
    progress: Progress | None,
) -> dict[Cell, Outcome]:
    """The outcome of each cell that can be measured."""
    cells = list(dict.fromkeys(cells))
    planned = plan(cells, subjects)
    sweep = Sweep(planned, subjects, out, batch_size, tell=tell)
    sweep.measure(retry=True, progress=progress)
    return {one.cell: sweep.outcome(one) for one in planned}


def _curves(outcomes: dict[Cell, Outcome]) -> dict[tuple[str, int], list[Point]]:
    """By kind and evaluations, the starts that could be measured; none that has no such start."""
    curves: dict[tuple[str, int], list[Point]] = {}
    for cell, outcome in outcomes.items():
        if outcome.figures is not None and outcome.sigma is not None and cell.t_start is not None:
            point = Point(cell.t_start, outcome.sigma, outcome.figures)
            curves.setdefault((cell.prior, cell.nfe), []).append(point)
    return curves


def _missing(outcomes: dict[Cell, Outcome]) -> dict[str, str]:
    """Why starts could not be measured, those of one kind and one reason together."""
    groups: dict[tuple[str, int, int, str], list[str]] = {}
    for cell, outcome in outcomes.items():
        if outcome.figures is None:
            groups.setdefault((cell.prior, cell.nfe, cell.seed, outcome.reason), []).append(f"{cell.t_start:g}")
    return {
        f"{kind} at {nfe} evaluations, t = {', '.join(starts)}, seed {seed}": reason
        for (kind, nfe, seed, reason), starts in groups.items()
    }


def _picks(curves: dict[tuple[str, int], list[Point]], again: Mapping[Place, Figures]) -> Iterator[Pick]:
    """The best start of each curve; where it copies, also the best of those that do not. See `judge.choose`."""
    for (kind, nfe), curve in curves.items():

        def drawn(point: Point, kind: str = kind, nfe: int = nfe) -> Figures | None:
            return again.get((kind, nfe, point.t_start))

        choice = choose(curve, lambda point: point.figures, drawn)
        yield kind, nfe, choice.best, False
        if choice.clean is not None:
            yield kind, nfe, choice.clean, True


def _drawn_next(model: str, setting: Setting, picks: Iterable[Pick], known: Collection[Cell]) -> list[Cell]:
    """The cells of the next seed that picks need and that were not drawn yet."""
    cells = [_cell(model, setting, *pick[:2], pick[2].t_start, setting.seed + 1) for pick in picks]
    return [cell for cell in cells if cell not in known]


def _place(cell: Cell) -> Place:
    assert cell.t_start is not None
    return cell.prior, cell.nfe, cell.t_start


def _row(pick: Pick, curve: list[Point], again: Figures) -> Row:
    kind, nfe, point, clean = pick
    ends = {curve[0].t_start: "low", curve[-1].t_start: "high"}
    edge = ends.get(point.t_start, "") if len(curve) > 1 and not clean else ""
    return Row(kind, nfe, point.t_start, point.sigma, clean, edge, point.figures.frechet, again)


def _related(rows: list[Row]) -> Iterable[Row]:
    """The rows in the order of evaluations, each over the Gaussian of the same number."""
    base = {row.nfe: row.figures for row in rows if row.kind == "gaussian" and not row.clean}
    for row in sorted(rows, key=lambda row: row.nfe):
        known = base.get(row.nfe)
        yield row if known is None else replace(row, relative=over(row.figures, known))


def _floor(subject: Subject, setting: Setting) -> tuple[Figures | None, int]:
    """The figures of unseen images, and their number, at most that of the samples."""
    copying = subject.judge.reference.copying
    if copying is None:
        return None, 0
    unseen = Images(torch.cat([copying[1].pixels, copying[2].pixels]))[: setting.samples]
    return replace(subject.judge(unseen.unit()), copied=unseen_copies(*copying)), len(unseen)


def unseen_copies(train: Images, held_out: Images, second: Images) -> Estimate | None:
    """The share of copies among every second held-out image, with the others as the held-out set; None if there is one.

    The images that samples are told by cannot be told by themselves: each is at no distance from its own set.
    """
    near, far = held_out[1::2], held_out[::2][: len(held_out) // 2]
    return CopyingFrom(train[: len(far)], far, second)(near).copied if len(near) else None


def estimates(figures: Figures) -> dict[str, Any]:
    """The figures for JSON, without replicates."""
    named = {name: getattr(figures, name) for name in ("frechet", "precision", "recall", "coverage", "copied")}
    return {name: value and asdict(value) for name, value in named.items()}


def results(result: Result) -> dict[str, Any]:
    """All figures of the experiment, ready for `results.json`."""
    setting = result.setting
    plain = {name: getattr(setting, name) for name in ("sampler", "samples", "rank", "components")}
    return {
        "model": result.model,
        "features": result.features,
        **plain,
        "seed_chosen_by": setting.seed,
        "seed_reported": setting.seed + 1,
        "fitted": result.fitted,
        "flow": asdict(setting.flow) if "flow" in setting.kinds else None,
        "flow_gain": [{"sigma": sigma, "nats": nats} for sigma, nats in result.gains],
        "floor": None if result.floor is None else {"images": result.unseen, **estimates(result.floor)},
        "failed": result.failed,
        "rows": [row.record() for row in result.rows],
        "grid": [
            {"kind": kind, "nfe": nfe, "t_start": p.t_start, "sigma": p.sigma, **estimates(p.figures)}
            for (kind, nfe), curve in result.curves.items()
            for p in curve
        ],
    }
