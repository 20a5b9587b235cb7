"""Small problems for `tune`: exact models and a trained network, with their evaluations counted, in few candidates."""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from diffusers import DDPMScheduler, UNet2DModel

import latestart as ls
from latestart.denoisers.around import Around
from latestart.tuning import candidates as home
from two_clusters import CLUSTERS, rng

FEW = {"gaussian": (0.1,), "mixture": (0.5,)}  # nats at the starts


@contextmanager
def few(solvers=("ddim", "ddpm", "unipc", "euler"), ladder=FEW):
    """Few candidates: those of some solvers, from one start of each prior."""
    with patch.object(home, "SOLVERS", solvers), patch.object(home, "LADDER", ladder):
        yield


@contextmanager
def counted(model):
    """Count the samples that a module is called with, however it is wrapped, in a list of calls."""
    calls = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    handle.remove()


def clusters(n=1000, seed=1):
    """Images of the two clusters, `(n, 4)`, float32."""
    return CLUSTERS.sample(n, rng(seed)).float()


def saved(recipe, folder):
    """Return the bytes of a recipe's file."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe.save(folder / "saved.safetensors")
    return (folder / "saved.safetensors").read_bytes()


def checks(n, seed=0):
    """Pictures 8 x 8 of black and white tiles 4 x 4, `(n, 1, 8, 8)` in [-1, 1], with a little noise."""
    tiles = 1.4 * torch.randint(2, (n, 1, 2, 2), generator=rng(seed)) - 0.7
    rows = tiles.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (rows + 0.05 * torch.randn(n, 1, 8, 8, generator=rng(seed + 1))).clamp(-1, 1)


def bytes_of(images):
    return (127.5 * (images + 1)).round().to(torch.uint8)


def trained_unet(steps=60, seed=0):
    """A tiny network, trained for a moment around the Gaussian of pictures of `checks`, and its scheduler."""
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.conv_out.weight.data.zero_()
    unet.conv_out.bias.data.zero_()
    scheduler, data = DDPMScheduler(clip_sample=False), checks(1024, 5)
    model = Around(unet, ls.Gaussian.fit(data, dtype=torch.float32), scheduler)
    optimizer = torch.optim.Adam(unet.parameters(), 4e-3)
    for _ in range(steps):
        x_0, t = data[torch.randint(len(data), (32,))], torch.randint(1000, (32,))
        noise = torch.randn_like(x_0)
        loss = (model(scheduler.add_noise(x_0, noise, t), t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False), scheduler
