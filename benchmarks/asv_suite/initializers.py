"""Time of initialization: one layer by every scheme, and whole models."""

import functools
from typing import Any

import torch
from torch import nn

from .common import cuda_ms, need, project

# Of initbench_core.networks.initializers.
SCHEMES = (
    "zeros",
    "constant",
    "normal",
    "uniform",
    "torch_default",
    "lecun_normal",
    "lecun_uniform",
    "xavier_normal",
    "xavier_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "kaiming_normal_fan_out",
    "kaiming_uniform_fan_out",
    "truncated_normal",
    "truncated_normal_corrected",
    "kaiming_truncated_normal",
    "orthogonal",
    "dirac",
    "lsuv",
)
# One of each distribution.
MODEL_SCHEMES = ("kaiming_normal", "kaiming_uniform", "kaiming_truncated_normal")
# Few large tensors, and many small ones, which the cost of a call rules.
MODELS = ("resnet18", "mlp_200x64")

# Relative error allowed in the sum of squares of all weights. They are 590,000 or more: its standard error is 0.2%.
SUM_RELATIVE = 0.02


def layer() -> nn.Module:
    """Return a layer that every scheme fits."""
    return nn.Conv2d(256, 256, kernel_size=3, bias=False)


def model(name: str) -> nn.Module:
    """Return one of `MODELS`."""
    if name == "mlp_200x64":
        return nn.Sequential(*[nn.Linear(64, 64) for _ in range(200)])
    from torchvision.models import resnet18

    return resnet18()


@functools.cache
def checked(name: str, scheme: str, device: str) -> nn.Module:
    """Return a network, on `device`, in which the scheme has been seen to write what its table promises."""
    need(device)
    network = (layer() if name == "layer" else model(name)).to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float("nan"))
    lines = initialize(network, scheme)
    parameters = dict(network.named_parameters())
    expected = found = 0.0
    for line in lines:
        values = parameters[line.name].detach().double()
        assert values.isfinite().all(), f"{scheme} left {line.name} unwritten"
        # One row of an orthogonal or Dirac matrix has this norm; a drawn value has this standard deviation.
        rows = values.flatten(1).shape[0] if line.filled in ("orthogonal", "dirac", "lsuv") else values.numel()
        expected += rows * line.std**2
        found += float(values.square().sum()) if line.std else 0.0
    assert abs(found - expected) <= SUM_RELATIVE * expected, f"{scheme}: sum of squares {found}, not {expected}"
    return network


def initialize(network: nn.Module, scheme: str) -> list[Any]:
    """Fill a network by the project's `initialize_`."""
    return list(project("initbench_core.networks.initialize").initialize_(network, scheme, seed=0))


class _Layer:
    device: str
    params = (SCHEMES,)
    param_names = ("scheme",)
    version = "1"

    def setup(self, scheme: str) -> None:
        self.network = checked("layer", scheme, self.device)


class OnCpu(_Layer):
    device = "cpu"
    repeat = (10, 100, 0.5)

    def time_layer(self, scheme: str) -> None:
        initialize(self.network, scheme)


class OnCuda(_Layer):
    device = "cuda"
    unit = "ms"

    def track_cuda_layer(self, scheme: str) -> float:
        return cuda_ms(lambda: initialize(self.network, scheme))


class _Model:
    device: str
    params = (MODELS, MODEL_SCHEMES)
    param_names = ("model", "scheme")
    version = "1"

    def setup(self, model: str, scheme: str) -> None:
        self.network = checked(model, scheme, self.device)


class ModelOnCpu(_Model):
    device = "cpu"
    repeat = (5, 100, 0.5)

    def time_model(self, model: str, scheme: str) -> None:
        initialize(self.network, scheme)


class ModelOnCuda(_Model):
    device = "cuda"
    unit = "ms"

    def track_cuda_model(self, model: str, scheme: str) -> float:
        return cuda_ms(lambda: initialize(self.network, scheme))


class Memory:
    """Resident memory at its peak while a model of 45 MB is filled: a copy of it would show."""

    version = "1"

    def setup(self) -> None:
        self.network = model("resnet18")

    def peakmem_resnet18(self) -> None:
        initialize(self.network, "kaiming_normal")
