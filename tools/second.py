"""Make a bundle's second feature space: `python tools/second.py TRAIN TEST OUT [--classifier FILE]`.

A classifier of another architecture than the first one is trained, a mixer, so that a gain which shows in the one space
alone is seen to be one of that space. Written are its weights and the statistics of its features of both sets.
"""

import argparse
from pathlib import Path

from latestart import zoo
from latestart.classifiers.feature_space import keep_space
from latestart.data import load_images
from latestart.features import Classifier
from latestart.train import train_classifier

EPOCHS = 10

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classifier", type=Path)
    args = parser.parse_args()
    train, test = load_images(args.train), load_images(args.test)
    made = (
        Classifier.load(args.classifier) if args.classifier else train_classifier(train, EPOCHS, architecture="mixer")
    )
    score = keep_space(made, train, test, args.out, zoo.SECOND)
    print(f"second classifier: {score} images of the test set")
