"""Moments: the sums of a stream of images, and the Gaussian that has them.

    moments = Moments((1, 28, 28))
    for batch in batches:
        moments.update(batch)
    prior = moments.gaussian()

Sums of deviations and of their products (`latestart.gaussians.sums` has the mathematics) take the memory of one
covariance, however many images pass. They merge in any order and any split, over processes too, are saved between
batches so that an interrupted fit continues, and serve images and features alike.
"""

from pathlib import Path

import torch
from torch import Tensor

from latestart.files import load_tensors, require_finite, save_tensors, sound
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.sums import Sums
from latestart.inputs.ranges import warn_of_unit_range
from latestart.processes import Processes

__all__ = ["Moments"]


class Moments(Sums):
    """Streaming, mergeable moments: `update`, `merge`, then `gaussian`."""

    def gaussian(self) -> Gaussian:
        """The Gaussian with these moments, its mean and basis in the dtype of the products.

        Raises:
            ValueError: fewer than two images.

        Warns:
            UserWarning: floats that never leave [0, 1].
        """
        warn_of_unit_range(self.bare, self.shape, self.value_range)
        return Gaussian.of(self)

    def combine(self, processes: Processes) -> None:
        """Add up with the sums of the other processes of a run, by one all-reduce; all of them must call it.

        The sums of all are moved to the first mean at hand before they are added.

        Raises:
            ValueError: on every process, that they disagree on the shape of an image or on the kind of sums.
        """
        mine = {"shape": self.shape, "basis": self.basis, "rank": self.rank, "seed": self.seed}
        processes.agree("the images and the prior", {**mine, "products": str(self.products)})
        known = processes.gather((self.count, self.shift.cpu(), self.low, self.high, self.bare))
        counted = [shift for count, shift, *_ in known if count]
        if processes.count == 1 or not counted:
            return
        self._move(counted[0].to(self.first.device))
        numbers = torch.tensor([self.count, self.updates], dtype=torch.float64, device=self.first.device)
        numbers, self.first, self.second = processes.total([numbers, self.first, self.second])
        self.count, self.updates = (int(number) for number in numbers)
        self.low, self.high = min(low for _, _, low, _, _ in known), max(high for _, _, _, high, _ in known)
        self.bare = all(bare for count, *_, bare in known if count)

    def _move(self, shift: Tensor) -> None:
        """Sums about another shift, exactly: `second' = second - n q(m) + n q(m + old shift - new shift)`."""
        if self.count == 0:
            self.second = torch.zeros(self.structure.size, dtype=torch.float64, device=self.first.device)
        elif not torch.equal(shift, self.shift):
            mean, moved = self.first / self.count, self.shift.double() - shift.double()
            self.structure.accumulate(self.second, mean.unsqueeze(0), -self.count)
            self.structure.accumulate(self.second, (mean + moved).unsqueeze(0), self.count)
            self.first = self.first + self.count * moved
        self.shift = shift

    def save(self, path: str | Path) -> None:
        """Write the sums to a safetensors file, whole or not at all, so that a later run can continue them."""
        tensors = {"shift": self.shift, "first": self.first, "second": self.second}
        names = ("shape", "basis", "rank", "seed", "products", "count", "updates", "value_range", "bare")
        metadata = {name: getattr(self, name) for name in names}
        metadata["products"] = str(self.products).removeprefix("torch.")  # in its place, which the file keeps
        save_tensors(path, "moments", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Moments":
        """Read sums that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is a pickle (never loaded), is damaged or foreign, or does not hold sound sums.
        """
        tensors, metadata = load_tensors(path, "moments")
        require_finite(path, tensors, ("shift", "first", "second"))
        with sound(path, "moments"):
            products = getattr(torch, metadata["products"])
            moments = cls(metadata["shape"], metadata["basis"], metadata["rank"], products, metadata.get("seed", 0))
            moments.count, moments.updates = metadata["count"], metadata["updates"]
            moments.low, moments.high = metadata["value_range"] or (moments.low, moments.high)
            moments.bare = bool(metadata.get("bare", False))
            for name, size in zip(("shift", "first", "second"), moments._sizes()):
                if tuple(tensors[name].shape) != size:
                    raise ValueError(f"{name} has the shape {tuple(tensors[name].shape)}, expected {size}")
                setattr(moments, name, tensors[name])
        return moments
