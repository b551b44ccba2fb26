"""What a trial draws depends on its seed alone, whether it runs by itself or with others."""

import random
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from initbench_core.networks.initialize import Initialized, initialize_
from initbench_core.training.setting import Setting

T = TypeVar("T")


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python and torch."""
    random.seed(seed)
    torch.manual_seed(seed)


def seeded(build: Callable[..., T], config: Any, *args: Any) -> T:
    """Return `build(config, *args)` with the global generators seeded by the configuration's seed, 0 where it has none.

    A trial that is run by itself begins the same way, so several of them built in a row draw the same weights.
    """
    seed_generators(getattr(config, "seed", 0))
    return build(config, *args)


def initialize_for_(setting: Setting, model: nn.Module, scheme: str, *, seed: int, **options: Any) -> list[Initialized]:
    """Fill a model's weights as `initialize_` does, on the device of the setting and by its backend.

    The weights are the same on every device and backend; on CUDA the model is filled where it is used, in one launch.
    Tensors among the options (the batch of LSUV) are moved to the device too.
    """
    moved: dict[str, Any] = {
        name: option.to(setting.device) if isinstance(option, torch.Tensor) else option
        for name, option in options.items()
    }
    return initialize_(model.to(setting.device), scheme, seed=seed, backend=setting.kernels, **moved)
