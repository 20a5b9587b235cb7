"""The settings of the figures of the theory."""

from dataclasses import dataclass
from pathlib import Path

from latestart.lab.setup import OneModel, Pictures
from latestart.settings import Settings, seed_setting, setting

__all__ = ["BifurcationSettings", "LineSettings", "PotentialSettings", "SphereSettings"]


@dataclass(frozen=True, kw_only=True)
class LineSettings(Settings):
    """Two points at +-1: potential, fixed points and paths, exact and of small networks trained here."""

    seeds: int = setting(5, "Networks to train, for the interval of their level.", least=1)
    steps: int = setting(2000, "Optimiser steps of each.", least=1)
    samples: int = setting(500, "Paths of the reverse SDE.", least=1)
    seed: int = seed_setting("The first training seed, and that of the paths.")


@dataclass(frozen=True, kw_only=True)
class SphereSettings(Settings):
    """Uniform spheres: critical levels against the closed form, branches, potential, norms of paths."""

    dims: tuple[int, ...] = setting((2, 8, 32, 128), "Numbers of dimensions, between commas.", least=1)
    radius: float = setting(4.0, "Radius of the sphere.")
    samples: int = setting(64, "Paths of the reverse SDE.", least=1)
    seed: int = seed_setting("Seed of the paths.")


@dataclass(frozen=True, kw_only=True)
class Cloud(Pictures):
    """The images of a point cloud."""

    images: Path | None = setting(
        None, "Images of the point cloud, labelled for the tree; default: those of the shipped model.", of="file"
    )
    limit: int | None = setting(None, "Use only so many of the images, drawn by the seed.", least=2)


@dataclass(frozen=True, kw_only=True)
class PotentialSettings(Cloud, OneModel):
    """The potential of a network between two of its samples, beside that of the exact point cloud."""

    limit: int | None = setting(10_000, "Use only so many of the images, drawn by the seed.", least=2)
    samples: int = setting(8, "Samples of each model; all their pairs are looked at.", least=2)
    t_low: float | None = setting(None, "Lowest time, in the scheduler's t.")
    t_high: float | None = setting(None, "Highest time, in the scheduler's t.")
    seed: int = seed_setting("Seed of the samples, and of the images drawn.")


@dataclass(frozen=True, kw_only=True)
class BifurcationSettings(Cloud):
    """Draw how one fixed point becomes many: the paper's diagram, and the tree of decisions of a set of images."""

    leaves: int = setting(12, "Branches at most.", least=1)
    criterion: str = setting("sde", "Dynamics of the fixed points.", choices=("sde", "density"))
    t_low: float = setting(480.0, "Time at which the tree ends, of 1,000 (linear betas).")
    t_high: float = setting(640.0, "Time at which it begins: at so much noise there is one branch.")
    step: float = setting(0.1, "Distance of two levels, in log sigma.")
    seed: int = seed_setting("Seed of the images drawn.")
