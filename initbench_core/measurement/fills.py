"""What the fills are timed on, the parameters of models; and a loop of torch.nn.init over them."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from initbench_core.errors import ConfigError

STD = 0.02


def workload_tensors(workload: str, device: str) -> dict[str, torch.Tensor]:
    """Return the parameters of a workload by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if not re.fullmatch(r"resnet50|mlp_\d+x\d+|tensor_\d+", workload):
        raise ConfigError(f"no workload {workload!r}: write resnet50, mlp_LAYERSxWIDTH or tensor_ELEMENTS")
    kind, _, size = workload.partition("_")
    if kind == "tensor":
        return {"weight": torch.zeros(int(size), device=device)}
    model: nn.Module
    if kind == "mlp":
        layers, width = map(int, size.split("x"))
        model = nn.Sequential(*[nn.Linear(width, width, device=device) for _ in range(layers)])
    else:
        from torchvision.models import resnet50

        model = resnet50().to(device)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def is_drawn(tensor: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Matrices and kernels are drawn; biases and normalization layers, 1-D in a model, are constants."""
    return tensor.dim() > 1 or len(tensors) == 1


def torch_loop(tensors: Mapping[str, torch.Tensor], distribution: str) -> Callable[[], None]:
    """Return the loop of torch.nn.init that a fill stands against.

    Args:
        tensors: of `workload_tensors`.
        distribution: "uniform" within `STD` of 0, "normal" of that deviation, or "truncated_normal" cut off at two.
    """
    draws: dict[str, Callable[[torch.Tensor], object]] = {
        "uniform": lambda tensor: nn.init.uniform_(tensor, -STD, STD),
        "normal": lambda tensor: nn.init.normal_(tensor, 0.0, STD),
        "truncated_normal": lambda tensor: nn.init.trunc_normal_(tensor, 0.0, STD, -2 * STD, 2 * STD),
    }
    draw = draws[distribution]

    def loop() -> None:
        for name, tensor in tensors.items():
            if is_drawn(tensor, tensors):
                draw(tensor)
            else:
                nn.init.constant_(tensor, float(name.endswith("weight")))

    return loop
