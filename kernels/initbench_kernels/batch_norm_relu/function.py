"""`batch_norm_relu`: the public function, its autograd formula, and the choice of the backend."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from initbench_kernels.backend import is_surely_eager, named_backend, resolve_backend
from initbench_kernels.batch_norm_relu import eager, narrow, operators, reference, signs
from initbench_kernels.batch_norm_relu.layout import broadcasts_to, dense

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class BatchNormReLU(torch.autograd.Function):
    """Autograd around the Triton passes. Saves x, weight, bias and [2, C] floats; after a residual y's signs too."""

    @staticmethod
    def forward(x: Tensor, residual: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
        # A residual takes part in y's sign, so the ReLU's mask cannot be computed from x alone.
        y, stats, packed = operators.forward(x, residual, *args, residual is not None)
        return (y, stats) if residual is None else (y, stats, packed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, _, weight, bias, fixed_mean = inputs[:5]
        ctx.save_for_backward(x, weight, bias, *output[1:])
        # The signs lie in x's memory order, which hooks on saved tensors need not keep.
        ctx.strides = x.stride()
        ctx.training = fixed_mean is None
        ctx.eps = inputs[-1]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 11
        x, weight, bias, stats, *signs_if_any = ctx.saved_tensors
        packed = signs_if_any[0] if signs_if_any else None
        if packed is not None and x.stride() != ctx.strides:
            x = torch.empty_strided(x.shape, ctx.strides, dtype=x.dtype, device=x.device).copy_(x)
        need_dx, need_dresidual, *need_dparams = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled() or operators.is_mapped(dy):
            # Asked for with create_graph=True, or of several dy at once: the formula in PyTorch's operations.
            grads = _differentiable_backward(dy, x, weight, bias, stats, packed, ctx.training, ctx.eps)
            dx, dweight, dbias, dresidual = grads
        else:
            dx, dparams, dresidual = operators.backward(
                dy, x, packed, weight, bias, stats, ctx.training, need_dx, any(need_dparams)
            )
            dweight, dbias = dparams.unbind() if any(need_dparams) else (None, None)
        return (
            dx if need_dx else None,
            dresidual if need_dresidual else None,
            dweight if need_dparams[0] else None,
            dbias if need_dparams[1] else None,
            *(None,) * 7,
        )


class NarrowBatchNormReLU(torch.autograd.Function):
    """Autograd around the passes of `narrow`. Saves x, y, weight, bias and [2, C] floats."""

    # Without setup_context, which torch.func alone needs: it costs a small tensor more time than the pass does.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, *args: Any) -> Tensor:
        y, stats = narrow.forward(x, weight, bias, *args)
        ctx.save_for_backward(x, y, weight, bias, stats)
        ctx.eps = args[-1]
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 8
        x, y, weight, bias, stats = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        grads: tuple[Tensor | None, ...]
        if torch.is_grad_enabled() or operators.is_mapped(dy):
            grads = _differentiable_backward(dy, x, weight, bias, stats, None, True, ctx.eps)[:3]
        else:
            dy, x, y = (t.contiguous() for t in (dy, x, y))
            grads = narrow.backward(dy, x, y, weight, stats, needed[0])
        wanted = (grad if need else None for grad, need in zip(grads, needed, strict=True))
        return (*wanted, *(None,) * 5)


def _differentiable_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    packed: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Return dx, dweight, dbias and dresidual as functions that autograd can differentiate again."""
    mean, rstd = stats.unbind()
    if training:
        # The saved statistics are numbers; their dependence on x has to be in the graph.
        mean, var, _ = reference.statistics(x)
        rstd = (var + eps).rsqrt()
    # The sign is a constant almost everywhere: it needs no graph.
    judged = reference.pre_activation(x, mean, rstd, weight, bias) if packed is None else signs.unpack(packed, x)
    grads = reference.gradients(reference.masked(dy, judged), x, mean, rstd, weight, training=training)
    return (
        grads.dx.to(x.dtype),
        None if weight is None else grads.dweight.to(weight.dtype),
        None if bias is None else grads.dbias.to(bias.dtype),
        grads.dresidual.to(x.dtype),
    )


def _unsupported(
    x: Tensor,
    residual: Tensor | None,
    affine: tuple[Tensor | None, Tensor | None],
    running: tuple[Tensor | None, Tensor | None],
) -> str | None:
    """Say why the kernels cannot take these tensors, or None where they can."""
    if x.dtype not in _DTYPES:
        return f"its kernels take float32, float16 and bfloat16, not {x.dtype}"
    present = [p for p in (*affine, *running) if p is not None]
    if any(p.dtype not in (torch.float32, x.dtype) for p in present):
        return f"parameters and running statistics must be float32 or {x.dtype} like the input"
    if len({p.dtype for p in affine if p is not None}) > 1:
        return "weight and bias differ in dtype"
    if any(p.device != x.device for p in present) or (residual is not None and residual.device != x.device):
        return "the tensors are on different devices"
    if any(p is not None and not p.is_contiguous() for p in running):
        return "the running statistics are not contiguous"
    if not operators.has_rules(x) and any(operators.has_rules(t) for t in (*present, residual)):
        return "of its tensors the input alone is a plain one"
    if residual is not None and residual.dtype != x.dtype:
        return f"the residual is {residual.dtype}, the input {x.dtype}"
    if torch.autograd.forward_ad._current_level >= 0:
        return "they have no forward-mode derivative"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace cannot record them"
    return None


def _torch_decides(
    x: Tensor,
    residual: Tensor | None,
    affine: tuple[Tensor | None, Tensor | None],
    running: tuple[Tensor | None, Tensor | None],
    training: bool,
    momentum: float | None,
    eps: float,
) -> bool:
    """Whether PyTorch itself answers: it raises its own error for a malformed call, and an empty one is no work."""
    if x.ndim < 2 or x.numel() == 0:
        return True
    channels = x.shape[1]
    if any(p is not None and tuple(p.shape) != (channels,) for p in (*affine, *running)):
        return True
    if (running[0] is None) != (running[1] is None):
        return True
    if torch.is_grad_enabled() and any(r is not None and r.requires_grad for r in running):
        return True
    if momentum is None or eps < 0 or (residual is not None and not broadcasts_to(residual, x)):
        return True
    return (x.numel() == channels or eps == 0) if training else None in running


def choose_backend(
    backend: str | None,
    x: Tensor,
    residual: Tensor | None,
    affine: tuple[Tensor | None, Tensor | None],
    running: tuple[Tensor | None, Tensor | None],
    *,
    training: bool,
    momentum: float | None,
    eps: float,
) -> str:
    """Return "triton", "eager" or, for what eager leaves to `narrow`, "narrow"; arguments as in `batch_norm_relu`.

    Raises:
        ValueError, RuntimeError: as `resolve_backend`.
    """
    if named_backend(backend) is None and (operators.in_transform() or operators.has_rules(x)):
        # PyTorch's batch norm has rules for every torch.func transform, vmap among them, and for DTensor.
        return "eager"
    name = resolve_backend(backend, x.device, unsupported=lambda: _unsupported(x, residual, affine, running))
    if name == "eager" and training and residual is None and eager.is_narrow(x):
        name = "narrow" if _unsupported(x, residual, affine, running) is None else "eager"
    if name != "eager" and _torch_decides(x, residual, affine, running, training, momentum, eps):
        return "eager"
    return name


def apply(
    name: str,
    x: Tensor,
    residual: Tensor | None,
    affine: tuple[Tensor | None, Tensor | None],
    running: tuple[Tensor | None, Tensor | None],
    num_batches_tracked: Tensor | None,
    *,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Run "triton" or "narrow", recorded by autograd where a gradient is wanted.

    `momentum` None is the cumulative average; other arguments as `choose_backend` has found good.
    """
    recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, *affine))
    if name == "narrow":
        flat = (x, *affine, *running, num_batches_tracked, momentum, eps)
        return NarrowBatchNormReLU.apply(*flat) if recorded else narrow.forward(*flat)[0]
    # Here rather than in the operator, so that the backward pass finds the one copy that the forward pass made.
    x = dense(x)
    if residual is not None:
        residual = residual.expand_as(x)
    fixed, updated = ((None, None), running) if training else (running, (None, None))
    args = (x, residual, *affine, *fixed, *updated, num_batches_tracked, momentum, eps)
    if recorded:
        return BatchNormReLU.apply(*args)[0]
    return operators.forward(*args, False)[0]


def batch_norm_relu(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return relu(batch_norm(input) + residual), forward and backward fused.

    A drop-in for `torch.nn.functional.batch_norm` followed by ReLU, errors and messages included.

    Args:
        input: [N, C, ...] with at least two dimensions, any strides; float32, float16 and bfloat16 on the Triton
            backend, whatever PyTorch takes on the eager one.
        running_mean: [C] running mean, float32 or the input's dtype; updated in place in training. None: not tracked.
        running_var: [C] running (unbiased) variance, likewise.
        weight: [C] scale, float32 or the input's dtype; None means 1.
        bias: [C] shift, likewise; None means 0.
        training: normalize with the batch's statistics rather than the running ones.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
        residual: broadcastable to `input`, added before the ReLU; in the input's dtype on the Triton backend. None
            means 0.
        backend: "triton", "eager", or None for the environment variable INITBENCH_BACKEND and then the device's
            default: Triton for CUDA tensors, eager for all others.

    Returns:
        As `input`, in its memory format, and in its dtype; with a residual of another dtype in that of their sum.

    Raises:
        ValueError: what `F.batch_norm` raises (one value per channel in training, eps), or an unknown backend.
        RuntimeError: what `F.batch_norm` raises (wrong channel counts), a residual that does not broadcast to `input`,
            or a named backend that cannot serve the call.
    """
    if not is_surely_eager(backend, input) or (training and eager.is_narrow(input)):
        affine, running = (weight, bias), (running_mean, running_var)
        name = choose_backend(backend, input, residual, affine, running, training=training, momentum=momentum, eps=eps)
        if name != "eager":
            return apply(name, input, residual, affine, running, None, training=training, momentum=momentum, eps=eps)
    return eager.finish(F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps), residual)
