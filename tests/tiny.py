"""A folder with all that a command about a network of one's own needs, at the smallest."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

import latestart as ls
from latestart.denoisers.folders import save_model
from latestart.features import Classifier
from latestart.lab.experiment import Lab


def tiny_folder(folder: Path) -> Path:
    """A network and a classifier of random weights, images of their shape, and of another, and a prior of these."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    save_model(unet, DDPMScheduler(clip_sample=False), folder / "model")
    Classifier((1, 8, 8), 2).save(folder / "classifier.safetensors")
    for name, seed in (("train", 0), ("unseen", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (220, 1, 8, 8), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=pixels)
    np.savez(folder / "other.npz", images=pixels[:, :, :4, :4])
    ls.Gaussian.fit(ls.load_images(folder / "train.npz"), basis="isotropic").save(folder / "prior.safetensors")
    return folder


@dataclass
class RecordingLab(Lab):
    """A lab that records the sentences told and the (done, total) of all progress."""

    told: list[str] = field(default_factory=list)
    spent: list[tuple[int, int]] = field(default_factory=list)


def recording_lab(folder: Path) -> RecordingLab:
    """A lab in a folder that records."""
    lab = RecordingLab(folder)

    @contextmanager
    def bar(title):
        yield lambda done, total, note="": lab.spent.append((done, total))

    lab.tell, lab.bar = lab.told.append, bar
    return lab
