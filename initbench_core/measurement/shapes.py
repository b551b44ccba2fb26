"""The shapes at which BatchNorm+ReLU is measured: a 2-D family, the layers of real networks, and awkward ones."""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from initbench_core.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")
MEMORY = ("contiguous", "channels_last")
# torchvision's, at the image size they were published with.
REAL_MODELS = ("resnet50", "mobilenet_v2", "densenet121", "efficientnet_b0")
IMAGE = (3, 224, 224)
ROWS = (128, 1024, 4096, 65_536, 262_144, 1_048_576)
CHANNELS = (3, 18, 64, 128, 256, 411, 512, 1024, 4096)


@dataclass(frozen=True)
class Shape:
    """One tensor to normalize.

    Attributes:
        sizes: [N, C] or [N, C, H, W].
        dtype: a name of `DTYPES`.
        memory: "contiguous" or, for [N, C, H, W], "channels_last".
    """

    sizes: tuple[int, ...]
    dtype: str = "float32"
    memory: str = "contiguous"

    @property
    def channels(self) -> int:
        """C."""
        return self.sizes[1]

    @property
    def num_bytes(self) -> int:
        """Size of the tensor."""
        return math.prod(self.sizes) * getattr(torch, self.dtype).itemsize

    def __str__(self) -> str:
        """Return a label that `parse` reads: "128x64x56x56 bfloat16 channels_last"."""
        memory = "" if self.memory == "contiguous" else f" {self.memory}"
        return f"{'x'.join(map(str, self.sizes))} {self.dtype}{memory}"


def parse(text: str) -> Shape:
    """Return the shape of a label such as "4096x64", "4096x64 bfloat16" or "32x64x56x56 float32 channels_last".

    Raises:
        ConfigError: the text is no shape that can be measured; the message says what is.
    """
    words = text.split()
    sizes = tuple(map(int, words[0].split("x"))) if words and re.fullmatch(r"\d+(x\d+)+", words[0]) else ()
    dtype, memory = (*words[1:], *("float32", "contiguous")[len(words) - 1 :])[:2] if sizes else ("", "")
    sound = len(sizes) in (2, 4) and 0 not in sizes and len(words) <= 3 and dtype in DTYPES and memory in MEMORY
    if not sound or (memory == "channels_last" and len(sizes) != 4):
        raise ConfigError(
            f"no shape {text!r}: write NxC or NxCxHxW, then one of {', '.join(DTYPES)}, and for NxCxHxW channels_last"
        )
    if math.prod(sizes) == sizes[1]:
        raise ConfigError(f"shape {text!r} has one value per channel: batch norm trains on two or more")
    return Shape(sizes, dtype, memory)


def family(dtype: str = "float32", *, most_bytes: int = 2**30) -> Iterator[Shape]:
    """Yield the 2-D family, every count of rows by every count of channels up to `most_bytes`."""
    for rows in ROWS:
        for channels in CHANNELS:
            shape = Shape((rows, channels), dtype)
            if shape.num_bytes <= most_bytes:
                yield shape


def awkward(dtype: str = "float32") -> Iterator[Shape]:
    """Yield what breaks kernels: one channel, channels and planes (S = 49) that no vector divides, too many rows.

    880,802 rows are one more than cuDNN's batch norm takes, 2^20 + 1 one more than a power of two.
    """
    for sizes in ((65_536, 1), (65_536, 18), (65_536, 411), (880_802, 3), (2**20 + 1, 16), (128, 2048, 7, 7)):
        yield Shape(sizes, dtype)


@functools.cache
def model_layers(model: str, batch: int) -> Counter[tuple[int, ...]]:
    """Count the input sizes of a torchvision model's batch norms, by one forward pass on the meta device.

    Args:
        model: a name of torchvision.models, built with its defaults.
        batch: images, each of `IMAGE`.

    Returns:
        How many batch norms see each size.

    Raises:
        ConfigError: torchvision has no such model.
    """
    from torchvision import models

    if model not in models.list_models(module=models):
        raise ConfigError(f"no model {model!r} in torchvision: choose for example from {', '.join(REAL_MODELS)}")
    sizes: Counter[tuple[int, ...]] = Counter()

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes[tuple(inputs[0].shape)] += 1

    with torch.device("meta"):
        network = models.get_model(model, weights=None)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_pre_hook(count)
        with torch.no_grad():
            network(torch.empty(batch, *IMAGE))
    return sizes


def real(batch: int, dtype: str = "float32", memory: str = "contiguous") -> Counter[Shape]:
    """Count the batch norms of all `REAL_MODELS` by shape, at one batch size and memory format."""
    counts: Counter[Shape] = Counter()
    for model in REAL_MODELS:
        for sizes, occurrences in model_layers(model, batch).items():
            counts[Shape(sizes, dtype, memory)] += occurrences
    return counts
