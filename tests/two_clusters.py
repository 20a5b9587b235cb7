"""Two clusters at +-2 on one axis of four, of which every figure is known, and networks of them that err."""

import math
from types import SimpleNamespace

import scipy.integrate
import torch
from diffusers import DDPMScheduler

from latestart import Gaussian, Noise, as_model
from latestart.denoisers.exact import GaussianMixture
from latestart.gaussians.basis import Diagonal, Isotropic

SCHEDULER = DDPMScheduler(clip_sample=False)
NOISE = Noise.from_scheduler(SCHEDULER)
SIZE, WIDTH = 2.0, 0.05
QUICK = ("nats", "speciation", "uturn")  # criteria that follow no branch


def rng(seed=0):
    """Far from the seeds that the library is given: data and noise from one generator would be the same numbers."""
    return torch.Generator().manual_seed(10_000 + seed)


def gaussian(variances):
    values = torch.tensor(variances, dtype=torch.float64)
    return Gaussian(torch.zeros(len(values), dtype=torch.float64), Diagonal((len(values),)), values)


def _clusters():
    centre = torch.tensor([SIZE, 0.0, 0.0, 0.0], dtype=torch.float64)
    spread = torch.tensor([WIDTH], dtype=torch.float64)
    return GaussianMixture([Gaussian(s * centre, Isotropic((4,)), spread) for s in (1.0, -1.0)])


CLUSTERS = _clusters()
MATCHED = gaussian([SIZE**2 + WIDTH, WIDTH, WIDTH, WIDTH])  # with their moments
MODEL = as_model(CLUSTERS, SCHEDULER)
IMAGES = CLUSTERS.sample(600, rng(1))
LABELS = (IMAGES[:, 0] < 0).long()


def direct_r2(sigma, n=100_000):
    x = CLUSTERS.sample(n, rng(7))
    y = x + sigma * torch.randn(x.shape, generator=rng(8), dtype=torch.float64)
    d_p, d_q = CLUSTERS(y, sigma), MATCHED(y, sigma)
    return 1 - ((d_p - d_q).square().sum(1).mean() / (d_p - d_p.mean(0)).square().sum(1).mean()).item()


def direct_nats(sigma):
    """KL from the matched Gaussian, by quadrature on the axis of the clusters."""
    variance = WIDTH + sigma**2
    total = SIZE**2 + variance

    def integrand(y):
        p = sum(math.exp(-((y - s * SIZE) ** 2) / (2 * variance)) for s in (1, -1)) / math.sqrt(8 * math.pi * variance)
        return p * (math.log(p) + y**2 / (2 * total) + 0.5 * math.log(2 * math.pi * total)) if p > 0 else 0.0

    edge = SIZE + 9 * math.sqrt(variance)
    return scipy.integrate.quad(integrand, -edge, edge, limit=200, points=(-SIZE, SIZE))[0]


def worse(above, top=1000):
    """A network of the clusters with an error at all times above `above`, below `top`."""
    low, high = NOISE.sigma(float(above)), math.inf if top == 1000 else NOISE.sigma(float(top))
    return as_model(Erring(CLUSTERS, lambda level: (level > low) & (level < high)), SCHEDULER)


class Erring:
    """A denoiser with an error of `size(level)`, which depends on other directions than the truth does."""

    shape, dtype, device, sigma_range = (4,), torch.float64, torch.device("cpu"), (0.0, math.inf)

    def __init__(self, denoiser, size):
        self.denoiser, self.size = denoiser, size

    def __call__(self, y, sigma):
        level = torch.as_tensor(sigma, dtype=y.dtype).expand(len(y))[:, None]
        return self.denoiser(y, sigma) + self.size(level) * torch.tanh(y.flip(1) / level)


class Conditional(torch.nn.Module):
    """A class-conditional network of the two clusters: exact, given the class."""

    def __init__(self):
        super().__init__()
        self.parts = [as_model(part, SCHEDULER) for part in CLUSTERS.components]
        self.config = SimpleNamespace(num_class_embeds=2, in_channels=4)
        self.sample_shape, self.dtype, self.device = (4,), torch.float64, torch.device("cpu")

    def forward(self, sample, timestep, class_labels):
        outs = [part(sample, timestep).sample for part in self.parts]
        return SimpleNamespace(sample=torch.where((class_labels == 0)[:, None], *outs))
