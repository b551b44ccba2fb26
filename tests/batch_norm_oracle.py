"""What fused BatchNorm+ReLU should return: the reference in float64, in the shape of one forward and backward."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu import reference

# Hand-picked shapes: (shape, memory). Each is here for one way to cut a tensor or one kind of remainder.
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "rows_one_channel": ((1500, 1), "contiguous"),
    "rows_3_channels_short_last_row": ((1501, 3), "contiguous"),
    "rows_18_channels": ((300, 18), "contiguous"),
    "rows_70_channels_ragged_block": ((171, 70), "contiguous"),
    "rows_411_channels_unaligned": ((37, 411), "contiguous"),
    "planes_7x7_grouped": ((6, 10, 7, 7), "contiguous"),
    "planes_odd": ((5, 3, 9, 11), "contiguous"),
    "planes_several_tiles": ((3, 2, 50, 41), "contiguous"),
    "planes_1d": ((4, 6, 50), "contiguous"),
    "volumes": ((2, 5, 3, 4, 6), "contiguous"),
    "one_sample": ((1, 6, 12, 12), "contiguous"),
    "channels_last": ((4, 24, 5, 5), "channels_last"),
    "channels_last_1d": ((6, 33, 20), "channels_last"),
    "channels_first": ((150, 6), "channels_first"),
    "five_values_per_channel": ((5, 7), "contiguous"),
}


def arrange(x: Tensor, memory: str) -> Tensor:
    """Return `x` with the same values in another memory order."""
    if memory == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if memory == "channels_first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x.contiguous()


@dataclass
class Case:
    """Inputs of one forward and backward pass, random but reproducible."""

    shape: tuple[int, ...]
    memory: str = "contiguous"
    dtype: torch.dtype = torch.float32
    training: bool = True
    residual: bool = False
    affine: bool = True
    mean: float = 0.5
    eps: float = 1e-5
    momentum: float = 0.2
    device: str = "cpu"
    x: Tensor = field(init=False)

    def __post_init__(self) -> None:
        # Drawn on the CPU: the same inputs whatever the device.
        generator = torch.Generator().manual_seed(sum(self.shape) + len(self.shape))

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.device)

        channels = self.shape[1]
        self.x = arrange((normal(*self.shape) + self.mean).to(self.dtype), self.memory)
        self.dy = arrange(normal(*self.shape).to(self.dtype), self.memory)
        self.res = arrange(normal(*self.shape).to(self.dtype), self.memory) if self.residual else None
        self.weight = normal(channels) if self.affine else None
        self.bias = normal(channels) if self.affine else None
        self.running_mean = normal(channels)
        self.running_var = normal(channels).square() + 0.5
        self.settle_signs()

    def settle_signs(self) -> None:
        """Let no gradient arrive where rounding decides on which side of 0 a value falls: either would be right."""
        self.dy[self._forward()[0].abs() <= 1e-5 * (1 + abs(self.mean))] = 0

    def expected(self) -> dict[str, Tensor]:
        """Return y, dx, dweight, dbias, dresidual and the running statistics after the pass, in float64."""
        z, mean, rstd, running_mean, running_var = self._forward()
        dy, x, weight, bias, res = (_wide(t) for t in (self.dy, self.x, self.weight, self.bias, self.res))
        grads = reference.backward(dy, x, mean, rstd, weight, bias, res, training=self.training)
        return {"y": z.relu(), "running_mean": running_mean, "running_var": running_var, **grads._asdict()}

    def _forward(self) -> tuple[Tensor, ...]:
        """Return the pre-activation, the mean and rstd it comes of, and the running statistics after the pass."""
        x, weight, bias, res = (_wide(t) for t in (self.x, self.weight, self.bias, self.res))
        mean, var = running_mean, running_var = _wide(self.running_mean), _wide(self.running_var)
        if self.training:
            mean, var, values = reference.statistics(x)
            running_mean = reference.updated_running(running_mean, mean, self.momentum)
            running_var = reference.updated_running(running_var, var * values / (values - 1), self.momentum)
        rstd = (var + self.eps).rsqrt()
        z = reference.pre_activation(x, mean, rstd, weight, bias, res)
        return z, mean, rstd, running_mean, running_var


def _wide(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.double()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest error over the largest expected magnitude; NaN (from poison, say) comes out as NaN."""
    scale = expected.abs().max().clamp_min(1e-30)
    return float((actual.double() - expected).abs().max() / scale)
