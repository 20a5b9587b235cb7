"""Readings of a way's samples: sampled once, read, and kept the moment that is done.

A file holds what the classifier and the features make of the images, so that all figures are made anew at every call,
except the share of copies and the variance, for which all pixels are needed. Several processes share the ways by their
cost.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latestart.classifiers.readers import Reader
from latestart.data import to_pixels, to_unit
from latestart.evaluation.quality import Estimate
from latestart.files import load_tensors, save_tensors
from latestart.fingerprints import Print, is_of, key_of
from latestart.lab.cells import Meter, Planned, measured
from latestart.lab.experiment import Lab, Progress
from latestart.lab.judge import Reading
from latestart.lab.store import Store
from latestart.lab.subjects import Subject
from latestart.lab.sweep import attempt, own_work

__all__ = ["KIND", "KeptReadings", "Readings"]

KIND = "diversity-cell"
ESTIMATES = ("copied", "variance")  # of a reading, each in a tensor of three numbers
SHOWN = 16


class Readings(NamedTuple):
    """The stored form of a way's images.

    Attributes:
        read: by the judge, without figures that files of earlier versions lack.
        classes: of each attribute, class indices or probabilities of all images.
        images: the first 16, uint8.
    """

    read: Reading
    classes: dict[str, Tensor]
    images: Tensor


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
            one.cell.describe(): attempt(one, meter, self.lab, partial(self._sample, one, meter))[1] for one in work
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
            raise ValueError(f"it holds another way than {planned.cell.describe()}")
        classes = {name: tensors[f"classes.{name}"] for name in self.reader.values}
        second = tensors.get("second") if metadata.get("second") == self.subject.judge.second_features else None
        known = {name: Estimate(*tensors[name].tolist()) for name in ESTIMATES if name in tensors}
        return Readings(Reading(features=tensors["features"], second=second, **known), classes, tensors["images"])

    def _sample(self, planned: Planned, meter: Meter) -> None:
        judge: Any = self._read  # readings of the images in place of their figures
        began = time.monotonic()
        outcome = measured(replace(self.subject, judge=judge), planned, self.batch_size, meter)
        readings: Any = outcome.figures
        tensors = {"features": readings.read.features, "images": readings.images}
        tensors |= {f"classes.{name}": classes for name, classes in readings.classes.items()}
        if readings.read.second is not None:
            tensors["second"] = readings.read.second
        for name in ESTIMATES:
            if (estimate := getattr(readings.read, name)) is not None:
                tensors[name] = torch.tensor(astuple(estimate), dtype=torch.float64)
        seconds = round(time.monotonic() - began, 3)
        metadata: dict[str, Any] = {"configuration": self._configuration(planned)}
        metadata |= {"second": self.subject.judge.second_features}
        metadata |= {"sigma": outcome.sigma, "seconds": seconds}
        save_tensors(self.path(planned), KIND, tensors, metadata)

    def _read(self, samples: Tensor) -> Readings:
        read, images = self.subject.judge.read(samples), to_unit(samples)
        return Readings(read, self.reader(images), to_pixels(images[:SHOWN]))
