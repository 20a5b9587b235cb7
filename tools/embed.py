"""Make a shipped bundle from a trained model: `python tools/embed.py MODEL TRAIN TEST OUT [--classifier FILE]`.

Made here is everything in `src/latestart/assets/mnist` but the weights of the model, which `latestart train` wrote, the
reader of digits, which `latestart experiment attributes` wrote, and the second feature space, which `tools/second.py`
makes: the half-precision copy, the Gaussian prior, the classifier and its feature statistics, and the images for the
checks.
"""

import argparse
import json
from pathlib import Path

import torch

from latestart import zoo
from latestart.classifiers.feature_space import keep_space
from latestart.data import Images, load_images, save_png
from latestart.denoisers.folders import SIDECAR, load_model, save_model
from latestart.features import Classifier
from latestart.files import save_tensors
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.train import train_classifier


def embed(model: Path, train: Images, test: Images, out: Path, classifier: Path | None) -> None:
    """Write the bundle's files to `out`; a model card that is there is left as it is."""
    out.mkdir(parents=True, exist_ok=True)
    network, scheduler = load_model(model)
    save_model(network.half(), scheduler, out, json.loads((model / SIDECAR).read_text()))
    Gaussian.fit(train.batches(), basis="dense").save(out / "prior.safetensors")
    mixture = Mixture.fit(train, components=30, basis="lowrank", rank=64)
    mixture.save(out / "mixture.safetensors", dtype=torch.float16)
    trained = Classifier.load(classifier) if classifier else train_classifier(train)
    score = keep_space(trained, train, test, out)
    g = torch.Generator().manual_seed(0)
    seen, held = torch.randperm(len(train), generator=g)[:2000], torch.randperm(len(test), generator=g)[:4000]
    parts = {"train": train[seen], "heldout-a": test[held[:2000]], "heldout-b": test[held[2000:]]}
    for name, images in parts.items():
        save_png(out / f"{name}.png", zoo.pack(images))
    save_tensors(out / "labels.safetensors", "labels", {name: part.labels.byte() for name, part in parts.items()}, {})
    print(f"classifier: {score} images of the test set")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classifier", type=Path)
    args = parser.parse_args()
    with torch.inference_mode(mode=args.classifier is not None):
        embed(args.model, load_images(args.train), load_images(args.test), args.out, args.classifier)
