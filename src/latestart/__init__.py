"""Find the moment at which a diffusion model makes up its mind, and start sampling just before it.

The public names resolve lazily: importing this package loads neither torch nor diffusers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "noise": ("Noise",),
    "gaussians.gaussian": ("Gaussian",),
    "gaussians.mixture": ("Mixture",),
    "gaussians.prior": ("Prior",),
    "gaussians.priors": ("load_prior",),
    "gaussians.moments": ("Moments",),
    "denoisers.exact": ("GaussianMixture", "Hypercube", "PointCloud", "Simplex", "Sphere", "TwoPoints"),
    "denoisers.networks": ("as_model", "from_diffusers"),
    "denoisers.folders": ("load_model",),
    "denoisers.adapter": ("as_network",),
    "sampling.late_start": ("late_start", "start_sample"),
    "sampling.generate": ("generate",),
    "sampling.recipe": ("Recipe", "load_recipe"),
    "tuning.tune": ("tune",),
    "sampling.choose": ("choose_start",),
    "sampling.samplers": ("make_sampler",),
    "sampling.grids": ("grid_times",),
    "sampling.prior_solver": ("PriorMultistepScheduler",),
    "diagnosis.check": ("check",),
    "evaluation.quality": ("frechet",),
    "network_features": ("NetworkFeatures", "default_features"),
    "evaluation.copying": ("copying",),
    "evaluation.diversity": ("diversity",),
    "evaluation.gaussianity": ("gaussianity",),
    "sampling.components": ("choose_components",),
    "data": ("Images", "load_images"),
    "inputs.front": ("as_images",),
    "theory.nats": ("nats",),
    "theory.potential": ("potential",),
    "theory.branches": ("fixed_point",),
    "theory.jacobian": ("leading_eigenvalue",),
    "theory.bifurcation": ("bifurcation_tree",),
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}
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
