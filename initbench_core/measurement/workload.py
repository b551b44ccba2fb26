"""BatchNorm+ReLU on one shape: the tensors, the passes to time, and the check that comes before any clock."""

from collections.abc import Callable

import torch
from torch import Tensor

from initbench_core.measurement.shapes import Shape
from initbench_core.networks.implementations import Implementation
from initbench_kernels.batch_norm_relu import reference

PASSES = ("fwd_train", "bwd", "fwd_bwd", "eval")
MOMENTUM, EPS = 0.1, 1e-5

# Largest error over the largest expected magnitude. What is timed has to be right, not exact: float32 in any order of
# summation, and two roundings to the narrower dtypes where batch norm and ReLU are separate.
RELATIVE_ERROR = {torch.float32: 1e-4, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}

# The reference computes in float64 up to here, and beyond it in float32, to be done in time.
FLOAT64_ELEMENTS = 2**22


class WrongResultError(Exception):
    """An implementation is further from the reference than rounding explains: it must not be timed."""


class Workload:
    """The tensors of one shape, drawn from a seed, the same for every implementation.

    Attributes:
        shape: what was asked for.
        seed: of all that is drawn.
        x: the input, wanting a gradient, as are `weight` and `bias` [C] float32.
        dy: gradient of the output.
    """

    def __init__(self, shape: Shape, device: torch.device | str = "cpu", *, seed: int = 0) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator, device=device)

        memory = torch.channels_last if shape.memory == "channels_last" else torch.contiguous_format
        self.shape, self.seed = shape, seed
        self.x, self.dy = (
            normal(*shape.sizes).to(getattr(torch, shape.dtype)).contiguous(memory_format=memory) for _ in range(2)
        )
        self.weight, self.bias = 1 + 0.1 * normal(shape.channels), 0.1 * normal(shape.channels)
        self.running = (0.1 * normal(shape.channels), 1 + 0.1 * normal(shape.channels).abs())
        self._leaves = [self.x, self.weight, self.bias]
        for leaf in self._leaves:
            leaf.requires_grad_()

    def call(self, implementation: Implementation, pass_name: str) -> Callable[[], object]:
        """Return one pass of an implementation, all its overhead included; gradients are returned, not accumulated.

        Args:
            implementation: it has no obstacle for `x`.
            pass_name: "fwd_train" (recorded by autograd), "bwd" (of one recorded forward pass, again and again),
                "fwd_bwd", or "eval" (without autograd).

        Raises:
            ValueError: "bwd" of a compiled implementation: its graph frees its buffers as it runs, so its backward
                pass cannot be repeated alone.
        """
        function, leaves, dy = implementation.function, self._leaves, self.dy
        trained = (self.x, *self.running, self.weight, self.bias, True, MOMENTUM, EPS)
        fixed = (*trained[:5], False, MOMENTUM, EPS)
        if pass_name == "fwd_train":
            return lambda: function(*trained)
        if pass_name == "fwd_bwd":
            return lambda: torch.autograd.grad(function(*trained), leaves, dy)
        if pass_name == "eval":
            return torch.no_grad()(lambda: function(*fixed))
        if pass_name != "bwd" or implementation.compiled:
            raise ValueError(f"{implementation.name} has no pass {pass_name!r} that can be timed alone")
        y = function(*trained)
        return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)

    def passes(self, implementation: Implementation) -> list[str]:
        """Return the passes that can be timed: all but a compiled implementation's backward pass alone."""
        return [name for name in PASSES if not (name == "bwd" and implementation.compiled)]

    def check(self, implementation: Implementation) -> None:
        """Hold outputs, gradients and running statistics against the reference, on this very workload.

        Raises:
            WrongResultError: one of them is further off than `RELATIVE_ERROR`; the message names it.
        """
        weight, bias, x = self.weight.detach(), self.bias.detach(), self.x.detach()
        wide = x.double() if x.numel() <= FLOAT64_ELEMENTS else x.float()
        mean, var, values = reference.statistics(wide)
        rstd = (var + EPS).rsqrt()
        running = [r.clone() for r in self.running]
        y = implementation.function(self.x, *running, self.weight, self.bias, True, MOMENTUM, EPS)
        self._compare(implementation, "output", y, reference.forward(wide, mean, rstd, weight, bias))
        for found, before, batch in zip(running, self.running, (mean, var * values / (values - 1)), strict=True):
            self._compare(implementation, "running statistics", found, before.lerp(batch.to(before.dtype), MOMENTUM))
        # The mask is the output's own: where rounding decides which side of 0 a value falls on, both are right.
        masked = reference.masked(self.dy.to(wide.dtype), y.detach())
        wanted = reference.gradients(masked, wide, mean, rstd, weight, training=True)
        gradients = torch.autograd.grad(y, self._leaves, self.dy)
        for name, found, expected in zip(("dx", "dweight", "dbias"), gradients, wanted[:3], strict=True):
            # Sums over the values of a channel may cancel; their error is that of their terms.
            self._compare(implementation, name, found, expected, least=1.0 if name == "dx" else values**0.5)
        with torch.no_grad():
            fixed = implementation.function(self.x, *self.running, self.weight, self.bias, False, MOMENTUM, EPS)
        mean, var = self.running
        wanted_fixed = reference.forward(wide, mean, (var + EPS).rsqrt(), weight, bias)
        self._compare(implementation, "output in evaluation", fixed, wanted_fixed)

    def _compare(
        self, implementation: Implementation, what: str, found: Tensor, expected: Tensor, *, least: float = 0.0
    ) -> None:
        scale = max(float(expected.abs().max()), least)
        error = float((found.detach() - expected).abs().max()) / scale
        if not error <= RELATIVE_ERROR[self.x.dtype]:
            raise WrongResultError(f"{implementation.name} at {self.shape}: {what} is off by {error:.2g} of its scale")
