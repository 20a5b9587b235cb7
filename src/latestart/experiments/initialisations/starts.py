"""The start distributions by their kinds, with their fingerprints; all that is fitted is kept in the folder.

    starts/KIND-KEY.safetensors    a fit; the key is of the training images and of the fit's own settings

A Gaussian and a mixture that lie beside the model are taken as they are. All fits are made on the processor.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from latestart.data import Images
from latestart.device import own_device
from latestart.experiments.initialisations.settings import InitialisationSettings, counted
from latestart.fingerprints import Print, fingerprint
from latestart.gaussians.basis import Dense
from latestart.gaussians.flow import Flow, FlowConfig, fit_flow
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.noised import NoisedImages
from latestart.gaussians.priors import load_prior
from latestart.gaussians.reshaped import Box, Reshaped
from latestart.lab.cells import first_line
from latestart.lab.experiment import Lab, Progress
from latestart.lab.subjects import Subject, beside, kept_fit, open_prior
from latestart.sampling.late_start import late_start, start_level

__all__ = ["Made", "Starts", "flow_of"]


@dataclass(frozen=True, eq=False)
class Made:
    """A start distribution (None for N(0, I)), its fingerprint, and what it is, in words."""

    prior: Any
    known: str
    words: str


@dataclass(eq=False, kw_only=True)
class Starts:
    """The start distributions of one model and its training images.

    Args:
        settings: of the experiment.
        subject: the model.
        data: its training images.
        lab: place of the fits.
        progress: called as `progress(done, total, note)` with the steps of the flow's fit.
    """

    settings: InitialisationSettings
    subject: Subject
    data: Images
    lab: Lab
    progress: Progress
    made: dict[str, Made] = field(default_factory=dict, init=False)

    @cached_property
    def images(self) -> Print:
        """Return the fingerprint of the training images."""
        return fingerprint(self.data.pixels)

    def priors(self) -> tuple[dict[str, tuple[Any, str]], dict[str, str]]:
        """Return the start distributions as a `Subject` has them, and why others could not be made.

        Raises:
            ValueError: there are none.
        """
        failed = self.lab.run.firsts(self._failed)  # the other processes find the files of the first
        able = {kind: self.get(kind) for kind in self.settings.distributions if kind not in failed}
        if not able:
            kind, reason = next(iter(failed.items()))
            raise ValueError(f"no start distribution could be made, the first being {kind}: {reason}")
        here = own_device()
        return {k: (None if one.prior is None else one.prior.to(here), one.known) for k, one in able.items()}, failed

    def get(self, kind: str) -> Made:
        """Return a start distribution by its kind, made once."""
        if kind not in self.made:
            self.made[kind] = self._make(kind)
        return self.made[kind]

    def _failed(self) -> dict[str, str]:
        """Make all; the reasons why some cannot be."""
        failed = {}
        for kind in self.settings.distributions:
            try:
                self.get(kind)
            except Exception as error:  # whatever a fit raises: the other kinds are still worth measuring
                failed[kind] = first_line(error)
                self.lab.tell(f"failed: {kind}: {failed[kind]}")
        return failed

    def _make(self, kind: str) -> Made:
        settings = self.settings
        gaussians: dict[str, Any] = {"diagonal": ("diagonal",), "lowrank": ("lowrank", settings.rank), "gaussian": ()}
        others = {"labels": self._labels, "uniform": self._uniform, "flow": self._flow, "images": self._images}
        if kind == "isotropic":
            return Made(None, "", "N(0, I)")
        if kind in beside(settings.model):
            prior, known = open_prior(settings.model, kind)
            return Made(prior.to("cpu"), known, repr(prior))
        if kind in gaussians:
            return self._kept(kind, lambda: Gaussian.fit(self.data, *gaussians[kind]), *gaussians[kind][1:])
        return others[kind]() if kind in others else self._mixture(counted(kind) or settings.components)

    def _mixture(self, count: int) -> Made:
        def fit() -> Mixture:
            self.lab.tell(f"fitting a mixture of {count} Gaussians to {len(self.data)} images")
            return Mixture.fit(self.data, count)

        return self._kept("mixture", fit, count)

    def _labels(self) -> Made:
        """A Gaussian for each class; samples take the classes in no order, as those of any other mixture."""
        labels = self.data.labels
        if labels is None:
            raise ValueError("the training images have no labels")

        def fit() -> Mixture:
            by_class = Mixture.fit(self.data, labels=labels)
            return Mixture(by_class.components, by_class.weights)

        return self._kept("labels", fit, labels)

    def _uniform(self) -> Made:
        base = self._base()
        box = Reshaped(base.prior, Box())
        words = f"a box along {box.vectors.shape[1]} eigenvectors of {base.prior}"
        return Made(box, fingerprint("uniform", base.known), words)

    def _flow(self) -> Made:
        base, levels, config = self._base(), self._levels(), flow_of(self.settings)

        def fit() -> Flow:
            self.lab.tell(f"fitting a flow to {len(self.data)} images")
            return fit_flow(self.data, base.prior, levels, config, advance)

        def advance(step: int, steps: int, gain: float) -> None:
            self.progress(step, steps, f"fitting a flow, {gain:.3f} nats over the Gaussian")

        flow = self._kept("flow", fit, base.known, *levels, *asdict(config).values(), load=Flow.load)
        r = flow.prior.config.directions
        words = f"a flow on {r} eigenvectors of {base.prior}, fitted to {len(self.data)} images"
        return Made(Reshaped(base.prior, flow.prior, r), fingerprint("flow", base.known, flow.known), words)

    def _images(self) -> Made:
        """The images that copies are looked for in, so that no copy escapes."""
        copying = self.subject.judge.reference.copying
        chosen = self.data if copying is None else copying[0]
        known = fingerprint("images", chosen.pixels)
        return Made(NoisedImages(chosen), known, f"{len(chosen)} training images under noise")

    def _base(self) -> Made:
        """The Gaussian whose leading eigenvectors are known: the whole one if it is dense, else the low-rank one."""
        gaussian = self.get("gaussian")
        return gaussian if isinstance(gaussian.prior.basis, Dense | LowRank) else self.get("lowrank")

    def _levels(self) -> tuple[float, float]:
        """The lowest and the highest level that a run of the grid begins at."""
        runs = product(self.settings.starts, self.settings.nfe)
        levels = [start_level(late_start(self.subject.scheduler, start, steps)) for start, steps in runs]
        return min(levels), max(levels)

    def _kept(self, kind: str, fit: Callable[[], Any], *parts: Any, load: Callable[[Path], Any] = load_prior) -> Made:
        """The fit to these images with these settings, from its file or made now."""
        parts = (self.images, *parts)
        prior, known = kept_fit(self.lab.out / "starts", kind, parts, fit, load, self.lab.tell)
        return Made(prior, known, repr(prior))


def flow_of(settings: InitialisationSettings) -> FlowConfig:
    """Return the build of the flow and its fit."""
    return FlowConfig(directions=settings.flow_directions, steps=settings.flow_steps)
