"""`BatchNormReLU1d/2d/3d`: nn.BatchNorm1d/2d/3d with the ReLU that follows it (and a residual before that)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from initbench_kernels.backend import is_surely_eager
from initbench_kernels.batch_norm_relu import eager
from initbench_kernels.batch_norm_relu.function import apply, choose_backend


def record(input: fx.Proxy, path: str, *others: Any) -> fx.Proxy:
    """Record the call of a layer as torch.fx does those of PyTorch's own: one step, whose inside is not looked into.

    Args:
        input: of the layer.
        path: to the layer, from the module that is traced.
        others: what it is called with beside the input.
    """
    return input.tracer.create_proxy("call_module", path, (input, *others), {})


class _BatchNormReLU(nn.modules.batchnorm._BatchNorm):
    """What the three classes share.

    They inherit from PyTorch's rather than wrap them, so constructor, state_dict, checks and errors are PyTorch's own.
    Beware of what the inheritance also means: `nn.SyncBatchNorm.convert_sync_batchnorm` takes them for plain batch
    norms and drops their ReLU, so convert a model before it is fused.

    Attributes:
        backend: as in `batch_norm_relu`; may be set on the class or on an instance.
    """

    backend: str | None = None

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return relu(batch_norm(input) + residual); see `batch_norm_relu`.

        In training mode running_mean, running_var and num_batches_tracked are updated, on the Triton backend by the
        same two launches that compute the output; momentum None (the cumulative average) costs no synchronization.
        """
        if isinstance(input, fx.Proxy) and (path := input.tracer.path_of_module(self)):
            return record(input, path, *(() if residual is None else (residual,)))
        self._check_input_dim(input)
        compiling = torch.compiler.is_compiling()
        if is_surely_eager(self.backend, input) and not compiling and not eager.is_narrow(input):
            return eager.finish(super().forward(input), residual)
        affine = (self.weight, self.bias)
        use_batch = self.training or (self.running_mean is None and self.running_var is None)
        keeps_running = not self.training or self.track_running_stats
        running = (self.running_mean, self.running_var) if keeps_running else (None, None)
        # A momentum of None is legal here, if not in the function: PyTorch never sees it.
        name = choose_backend(
            self.backend, input, residual, affine, running, training=use_batch, momentum=0.0, eps=self.eps
        )
        batches = self.num_batches_tracked if self.training and self.track_running_stats else None
        if name == "eager":
            if self.momentum is None and batches is not None and compiling:
                return eager.finish(self._cumulative(input, batches), residual)
            return eager.finish(super().forward(input), residual)
        # PyTorch's rule where there is no counter to average by.
        momentum = 0.0 if self.momentum is None and batches is None else self.momentum
        return apply(
            name, input, residual, affine, running, batches, training=use_batch, momentum=momentum, eps=self.eps
        )

    def _cumulative(self, input: Tensor, batches: Tensor) -> Tensor:
        """As PyTorch's forward pass for momentum None, but without its float(batches), which breaks a graph in two."""
        assert self.running_mean is not None
        assert self.running_var is not None
        batches.add_(1)
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        y = F.batch_norm(input, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        share = batches.to(mean.dtype).reciprocal()
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)
        return y


class BatchNormReLU1d(_BatchNormReLU, nn.BatchNorm1d):
    """nn.BatchNorm1d followed by ReLU, for inputs [N, C] or [N, C, L]."""


class BatchNormReLU2d(_BatchNormReLU, nn.BatchNorm2d):
    """nn.BatchNorm2d followed by ReLU, for inputs [N, C, H, W]."""


class BatchNormReLU3d(_BatchNormReLU, nn.BatchNorm3d):
    """nn.BatchNorm3d followed by ReLU, for inputs [N, C, D, H, W]."""
