"""Priors from files, whatever their kind."""

from pathlib import Path

from latestart.files import kind_of
from latestart.gaussians.gaussian import Gaussian, load_gaussian
from latestart.gaussians.mixture import Mixture, load_mixture

__all__ = ["load_prior"]


def load_prior(path: str | Path) -> Gaussian | Mixture:
    """Read a prior that `Gaussian.save` or `Mixture.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a pickle (never loaded), is damaged or foreign, or does not hold a sound prior.
    """
    return load_mixture(path) if kind_of(path) == "mixture" else load_gaussian(path)
