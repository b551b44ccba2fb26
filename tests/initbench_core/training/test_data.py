"""Data sets: real, balanced, split without overlap, deterministic; missing or damaged ones explained."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from initbench_core.errors import UserError
from initbench_core.training.data import (
    DATASETS,
    TRAINING_IMAGES,
    DataSource,
    Split,
    class_entropy,
    described,
    digits,
    image_stand_in,
)


def test_digits_are_real_shuffled_and_balanced() -> None:
    data = digits()
    sizes = [len(part.x) for part in (data.train, data.validation, data.test)]
    assert sizes == [3200, 800, 1000]
    assert data.train.x.shape[1:] == (1, 28, 28)
    assert data.train.x.min() == 0
    assert data.train.x.max() == 1
    # The file is sorted by class; shuffled, a class is close to a tenth of every part.
    for part in (data.train, data.validation, data.test):
        assert torch.bincount(part.y).double().div(len(part.y)).sub(0.1).abs().max() < 0.03
    # Real digits: ones use less ink than zeros.
    ink = [data.train.x[data.train.y == k].mean() for k in (0, 1)]
    assert ink[1] < 0.6 * ink[0]


def test_parts_do_not_overlap() -> None:
    data = digits()
    rows = torch.cat([part.x.flatten(1) for part in (data.train, data.validation, data.test)])
    assert len(torch.unique(rows, dim=0)) == 5000


def test_the_stand_in_is_deterministic_and_named() -> None:
    data, again = image_stand_in(), image_stand_in.__wrapped__()
    assert data.name == "stand_in_3x32x32"
    assert torch.equal(data.train.x, again.train.x)
    assert data.train.x.shape[1:] == (3, 32, 32)
    assert [len(p.x) for p in (data.train, data.validation, data.test)] == [4500, 500, 1000]


def test_titles_tell_the_size() -> None:
    assert described("digits5k") == "digits5k (3,200 training images)"
    for data in (digits(), image_stand_in()):
        assert described(data.name) == f"{data.name} ({len(data.train.x):,} training images)"


def test_constant_predictors() -> None:
    y = torch.tensor([0, 0, 0, 1])
    assert class_entropy(y) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def write_mnist(folder: Path, name: str = "MNIST") -> None:
    """A tiny data set in MNIST's own file format; Fashion-MNIST's is the same."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 60), ("t10k", 20)):
        images = np.arange(count * 784, dtype=np.uint32).astype(np.uint8).tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)


@pytest.fixture
def _tiny_sets_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mnist", "fashion_mnist"):
        monkeypatch.setitem(TRAINING_IMAGES, name, 48)


@pytest.mark.usefixtures("_tiny_sets_are_whole")
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvisions_sets_are_read_where_they_are(tmp_path: Path, name: str, folder: str) -> None:
    write_mnist(tmp_path, folder)
    data = DataSource(tmp_path).load(name)
    assert data.name == name
    assert data.train.x.shape == (48, 1, 28, 28)
    assert len(data.validation.x) == 12
    assert len(data.test.x) == 20
    assert isinstance(data.test, Split)


def test_a_part_of_a_set_does_not_pass_for_it(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(UserError, match="is a part of the set, 60 images"):
        DataSource(tmp_path).load("mnist")


def test_the_study_takes_the_chosen_set_or_the_digits_that_are_there(tmp_path: Path) -> None:
    assert DataSource().images() == "digits5k"
    write_mnist(tmp_path)
    assert DataSource(tmp_path).mnist() == DataSource(tmp_path).images() == "mnist"
    assert DataSource(tmp_path, dataset="fashion_mnist").images() == "fashion_mnist"
    assert DataSource(tmp_path, dataset="digits5k").images() == "digits5k"
    with pytest.raises(UserError, match="give --data-dir"):
        DataSource(dataset="fashion_mnist").load("fashion_mnist")


def test_every_set_to_choose_has_a_size() -> None:
    assert all(described(name).startswith(f"{name} (") for name in DATASETS)


def test_without_it_the_digits_serve(tmp_path: Path) -> None:
    assert DataSource().mnist() == "digits5k"
    assert DataSource(tmp_path).mnist() == "digits5k"
    assert DataSource(tmp_path).cifar10() == "stand_in_3x32x32"


def test_a_damaged_mnist_is_one_line(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    image = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(UserError, match=r"MNIST under .* is missing or damaged") as caught:
        DataSource(tmp_path).load("mnist")
    assert "\n" not in str(caught.value)


def test_a_damaged_cifar_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": [], "labels": []}))
    (folder / "junk.gz").write_bytes(gzip.compress(b"x"))
    assert DataSource(tmp_path).cifar10() == "cifar10"
    with pytest.raises(UserError, match=r"CIFAR10 under .* is missing or damaged"):
        DataSource(tmp_path).load("cifar10")
