"""Find the moment at which a diffusion model makes up its mind, and start sampling just before it.

The public names resolve lazily: importing this package loads neither torch nor diffusers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Noise": "noise",
    "Gaussian": "gaussians.gaussian",
    "Mixture": "gaussians.mixture",
    "Prior": "gaussians.prior",
    "load_prior": "gaussians.priors",
    "Moments": "gaussians.moments",
    "GaussianMixture": "denoisers.exact",
    "Hypercube": "denoisers.exact",
    "PointCloud": "denoisers.exact",
    "Simplex": "denoisers.exact",
    "Sphere": "denoisers.exact",
    "TwoPoints": "denoisers.exact",
    "as_model": "denoisers.networks",
    "from_diffusers": "denoisers.networks",
    "load_model": "denoisers.folders",
    "as_network": "denoisers.adapter",
    "late_start": "sampling.late_start",
    "start_sample": "sampling.late_start",
    "generate": "sampling.generate",
    "choose_start": "sampling.choose",
    "make_sampler": "sampling.samplers",
    "check": "diagnosis.check",
    "frechet": "evaluation.quality",
    "copying": "evaluation.copying",
    "diversity": "evaluation.diversity",
    "gaussianity": "evaluation.gaussianity",
    "choose_components": "sampling.components",
    "Images": "data",
    "load_images": "data",
    "as_images": "inputs.front",
    "nats": "theory.nats",
    "potential": "theory.potential",
    "fixed_point": "theory.branches",
    "leading_eigenvalue": "theory.jacobian",
    "bifurcation_tree": "theory.bifurcation",
}
_MODULES = {"critical": "theory.critical", "zoo": "zoo"}

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"latestart.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'latestart' has no attribute {name!r}")
    return getattr(import_module(f"latestart.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
