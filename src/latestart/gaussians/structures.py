"""The structures of a Gaussian's covariance by name, and which of them suits a set of images."""

from latestart.gaussians.basis import Basis, Dense, Diagonal, Isotropic
from latestart.gaussians.cosine_dense import CosineDense
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.spectral import Channel, Cosine, Fourier

__all__ = ["basis_class"]

BASES: dict[str, type[Basis]] = {
    cls.name: cls for cls in (Dense, Diagonal, Isotropic, Channel, Fourier, Cosine, CosineDense, LowRank)
}


def basis_class(name: str) -> type[Basis]:
    """The class of bases called `name`. Raises `ValueError` naming the known ones."""
    if name not in BASES:
        raise ValueError(f"unknown basis {name!r}: expected one of {', '.join(map(repr, BASES))}")
    return BASES[name]
