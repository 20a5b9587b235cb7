"""Readings of a way's samples: sampled once, read, and kept the moment that is done.

A file holds what the classifier and the features make of the images, so that all figures are made anew at every call,
except the share of copies, for which all pixels are needed. Several processes share the ways by their cost.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latestart.classifiers.readers import Reader
from latestart.data import in_unit_range, to_pixels
from latestart.evaluation.quality import Estimate
from latestart.files import load_tensors, save_tensors
from latestart.lab.cells import Meter, Planned, describe, measured
from latestart.lab.experiment import Lab, Progress
from latestart.lab.store import Print, Store, is_of, key_of
from latestart.lab.subjects import Subject
from latestart.lab.sweep import attempt, own_work

__all__ = ["KIND", "KeptReadings", "Readings"]

KIND = "diversity-cell"
SHOWN = 16


class Readings(NamedTuple):
    """The stored form of a way's images.

    Attributes:
        features: `(N, F)`.
        classes: of each attribute, class indices or probabilities of all images.
        images: the first 16, uint8.
        copied: the share of copies; None without unseen images, and in files from before copies were counted.
    """

    features: Tensor
    classes: dict[str, Tensor]
    images: Tensor
    copied: Estimate | None


class KeptReadings:
    """The readings of ways in a folder.

    Args:
        subject: the model.
        reader: of attributes.
        batch_size: samples evaluated at once.
        lab: the folder and the processes.

    Attributes:
        failed: ways that could not be sampled, and why.
    """

    def __init__(self, subject: Subject, reader: Reader, batch_size: int, lab: Lab) -> None:
        self.subject, self.reader, self.batch_size, self.lab = subject, reader, batch_size, lab
        self.failed: dict[str, str] = {}
        self.store = Store(lab.out / "ways", "{}.safetensors", lab.tell)

    def measure(self, planned: Sequence[Planned], progress: Progress | None = None) -> None:
        """Sample every way that is missing.

        Args:
            planned: the ways.
            progress: called as `progress(evaluations, total, way)` with this process' share.
        """
        run = self.lab.run
        missing = run.firsts(lambda: [k for k, one in enumerate(planned) if self.found(one) is None])
        work, meter = own_work([planned[k] for k in missing], run, progress)
        tried = {
            describe(one.cell): attempt(one, meter, self.lab, partial(self._sample, one, meter))[1] for one in work
        }
        failed = {way: reason for way, reason in tried.items() if reason}
        for theirs in run.gather(failed):  # nobody reads before all is written
            self.failed |= theirs

    def found(self, planned: Planned) -> Readings | None:
        """Return the readings of a way; None if there are none."""
        return self.store.found(self._key(planned), partial(self._load, planned))

    def path(self, planned: Planned) -> Path:
        """Return the file of a way."""
        return self.store.path(self._key(planned))

    def _key(self, planned: Planned) -> Print:
        return key_of(self._configuration(planned))

    def _configuration(self, planned: Planned) -> dict[str, Any]:
        return {**planned.configuration, "classifier": self.reader.name}

    def _load(self, planned: Planned, path: Path) -> Readings:
        tensors, metadata = load_tensors(path, KIND)
        if not is_of(metadata.get("configuration"), self._configuration(planned)):
            raise ValueError(f"it holds another way than {describe(planned.cell)}")
        classes = {name: tensors[f"classes.{name}"] for name in self.reader.values}
        copied = Estimate(*tensors["copied"].tolist()) if "copied" in tensors else None
        return Readings(tensors["features"], classes, tensors["images"], copied)

    def _sample(self, planned: Planned, meter: Meter) -> None:
        judge: Any = self._read  # readings of the images in place of their figures
        began = time.monotonic()
        outcome = measured(replace(self.subject, judge=judge), planned, self.batch_size, meter)
        readings: Any = outcome.figures
        tensors = {"features": readings.features, "images": readings.images}
        tensors |= {f"classes.{name}": classes for name, classes in readings.classes.items()}
        if readings.copied is not None:
            tensors["copied"] = torch.tensor(tuple(asdict(readings.copied).values()), dtype=torch.float64)
        seconds = round(time.monotonic() - began, 3)
        metadata = {"configuration": self._configuration(planned), "sigma": outcome.sigma, "seconds": seconds}
        save_tensors(self.path(planned), KIND, tensors, metadata)

    def _read(self, images: Tensor) -> Readings:
        judge = self.subject.judge
        copied = None if judge.copying is None else judge.copying(images).copied
        return Readings(judge.extract(in_unit_range(images)), self.reader(images), to_pixels(images[:SHOWN]), copied)
