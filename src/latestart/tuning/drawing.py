"""The samples of candidates: drawn once, kept in a folder as what tuning needs of them, and shared by processes.

    search/KEY-FIRST-LAST.safetensors    features, ratios for copies and moments of part of a candidate's samples
    final/KEY.safetensors                the features of a finalist's samples, their figures, and a few of the samples

A file is written whole or not at all, so that a run that was killed goes on. Under `torchrun` every process draws its
share of the candidates, and reads the files of the others.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.conditions import Conditions
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import Estimate
from latestart.files import load_tensors, save_tensors
from latestart.fingerprints import key_of
from latestart.lab.cells import Meter, Metered, first_line
from latestart.lab.judge import Judge, Reading
from latestart.lab.sweep import shares
from latestart.network_features import Space
from latestart.processes import Processes
from latestart.records import Record
from latestart.sampling.loop import draw
from latestart.sampling.probing import BlockNoise
from latestart.sampling.ways import Way
from latestart.tuning.candidates import Candidate
from latestart.tuning.search import BLOCK

__all__ = ["Drawing", "Final"]

KIND = "tuning-samples"
SHOWN = 32  # samples of a finalist that are kept


@dataclass(eq=False, repr=False)
class Final(Record):
    """The final draw of a candidate: what its figures are made of, and its first samples."""

    reading: Reading
    shown: Tensor


@dataclass(eq=False, repr=False)
class Drawing(Record):
    """Draws the samples of candidates in a folder.

    Args:
        model: the network; `evaluated` counts.
        scheduler: the one that it was trained with.
        priors: by name, with the one inside the prior solver.
        candidates: all.
        judge: of the samples.
        space: makes features of samples.
        energy: the distance to the images' features in the search.
        noise: even noise in blocks.
        conditions: of the samples, in turn.
        seed: of the search; the final draw has the next.
        folder: of the files; None keeps them in memory.
        about: all that the samples depend on beside candidate, range and seed.
        run: the processes.
        meter: counts the evaluations as they are made.
        batch_size: samples evaluated at once.
    """

    model: Any
    scheduler: Any
    priors: dict[str, Any]
    candidates: Sequence[Candidate]
    judge: Judge
    space: Space
    energy: EnergyTo
    noise: BlockNoise
    conditions: Conditions
    seed: int
    folder: Path | None
    about: dict[str, Any]
    run: Processes
    meter: Meter
    batch_size: int = 256
    parts: dict[int, list[dict[str, Tensor]]] = field(default_factory=dict)
    drawn: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    wasted: int = 0

    @property
    def cost(self) -> int:
        """Return the evaluations of a sample, with those of its features."""
        return int(self.about["nfe"]) + self.space.cost

    @property
    def spent(self) -> int:
        """Return the evaluations of the search so far, with those of candidates that failed."""
        return sum(self.drawn.values()) * self.cost + self.wasted

    def search(self, jobs: list[tuple[int, int]]) -> None:
        """Draw the first n samples of candidates `(k, n)`, as far as they are not drawn yet, by all processes."""
        todo = [(k, self.drawn.get(k, 0), n) for k, n in jobs if n > self.drawn.get(k, 0) and k not in self.reasons]
        mine = shares([(last - first) for _, first, last in todo], self.run.count)[self.run.index]
        found = {j: self._part(*todo[j]) for j in mine}
        for others in self.run.gather(found):
            for j, part in others.items():
                k, _, last = todo[j]
                if "reason" in part:
                    self.reasons[k] = bytes(part["reason"].tolist()).decode()
                    self.wasted += int(part["spent"])
                else:
                    self.parts.setdefault(k, []).append(part)
                    self.drawn[k] = last

    def distance(self, k: int, n: int) -> Estimate:
        """Return the energy distance of the first n samples of a candidate to the images.

        Its interval is 1.96 standard errors of the jackknife over blocks to either side.
        """
        value, without = self.energy.by_blocks(self._rows(k, "features")[:n], BLOCK)
        error = float(((len(without) - 1) * without.var(correction=0)).sqrt())
        return Estimate(value, value - 1.96 * error, value + 1.96 * error)

    def failed(self, k: int) -> str:
        """Return the reason why a candidate gives no samples, or nothing."""
        return self.reasons.get(k, "")

    def variance(self, k: int) -> float | None:
        """Return the total variance of a candidate's samples in the search over that of the images."""
        total = self.judge.reference.variance
        if total is None:
            return None
        sums = sum(part["sum"] for part in self.parts[k])
        squares, n = sum(float(part["squares"]) for part in self.parts[k]), self.drawn[k]
        assert isinstance(sums, Tensor)
        return (squares - float(sums.square().sum()) / n) / (n - 1) / total

    def final(self, jobs: list[int], samples: int, ways: Sequence[Candidate]) -> list[Final | str]:
        """Return the final draws of candidates, or the reasons why they failed.

        Args:
            jobs: indices into `ways`.
            samples: of each.
            ways: candidates.
        """
        mine = shares([1] * len(jobs), self.run.count)[self.run.index]
        found: dict[int, Final | str] = {j: self._final(ways[jobs[j]], samples) for j in mine}
        everywhere = {j: one for others in self.run.gather(found) for j, one in others.items()}
        return [everywhere[j] for j in range(len(jobs))]

    def _rows(self, k: int, name: str) -> Tensor:
        return torch.cat([part[name] for part in self.parts[k]])

    def _part(self, k: int, first: int, last: int) -> dict[str, Tensor]:
        one = self.candidates[k]
        path = self._path("search", one, f"-{first}-{last}")
        if (known := _read(path)) is not None:
            self.meter.settle(int(known["spent"]) if "reason" in known else (last - first) * self.cost)
            return known
        try:
            made = self._measured(one, first, last)
        except Exception as error:  # whatever schedulers do with settings that they were not made for
            spent, reason = self.meter.running, list(first_line(error).encode())
            made = {"reason": torch.tensor(reason, dtype=torch.uint8), "spent": torch.tensor(spent)}
            self.meter.settle(spent)
        _keep(path, made)
        return made

    def _measured(self, one: Candidate, first: int, last: int) -> dict[str, Tensor]:
        """Draw samples by even noise, and return what the search needs of them."""
        blocks = torch.cat([self.noise(b) for b in range(first // BLOCK, last // BLOCK)], 1)
        x = self._samples(one, last - first, first, self.seed, blocks)
        values = x.flatten(1).double()
        return {
            "features": self.space(x), "sum": values.sum(0), "squares": values.square().sum(),
        }  # fmt: skip

    def _final(self, one: Candidate, samples: int) -> Final | str:
        path = self._path("final", one, f"-{samples}")
        try:
            if (known := _read(path)) is None:
                known = {"samples": self._samples(one, samples, 0, self.seed + 1)}
                _keep(path, known)
            else:
                self.meter.settle(samples * self.cost)
            x = known["samples"]
            return Final(self.judge.read(x), x[:SHOWN])
        except Exception as error:
            return first_line(error)

    def _samples(self, one: Candidate, n: int, first: int, seed: int, blocks: Tensor | None = None) -> Tensor:
        """Return samples on the processor, in the model's value range."""
        way, steps = one.way, one.steps
        self.meter.note = way.describe()
        begun = way.begun(self.scheduler, steps, self._inside(way)) if one.begun is None else one.begun
        index = torch.arange(first, first + n)
        mine = self.conditions[index % self.conditions.count] if self.conditions.count else self.conditions
        given: dict[str, Any] = {} if blocks is None else {"noise": blocks[0], "step_noise": blocks[1:]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of schedulers, about settings that are tried on purpose
            result = draw(
                Metered(self.model, self.meter), begun, self.priors.get(way.prior), n, steps, seed=seed,
                labels=mine.labels, model_kwargs=mine.kwargs, first=first, batch_size=self.batch_size, **given,
            )  # fmt: skip
        if result.nfe != int(self.about["nfe"]):
            raise RuntimeError(f"{result.nfe} evaluations were spent on each sample, expected {self.about['nfe']}")
        self.meter.settle(n * self.cost)
        return result.samples.cpu()

    def _inside(self, way: Way) -> Any:
        return None if way.within is None else self.priors[way.within]

    def _path(self, where: str, one: Candidate, part: str) -> Path | None:
        if self.folder is None:
            return None
        key = key_of({**self.about, "way": one.way.record(), "steps": one.steps, "seed": self.seed})
        return self.folder / where / f"{key}{part}.safetensors"


def _read(path: Path | None) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None where there is none, or a damaged one."""
    try:
        return None if path is None else load_tensors(path, KIND)[0]
    except (FileNotFoundError, ValueError):
        return None


def _keep(path: Path | None, tensors: dict[str, Tensor]) -> None:
    if path is not None:
        save_tensors(path, KIND, tensors, {})
