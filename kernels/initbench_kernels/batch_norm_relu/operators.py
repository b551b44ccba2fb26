"""The Triton passes as operators of torch.library, and the choice between them and a direct call.

An operator that mutates its arguments cannot register an autograd formula, hence `function.BatchNormReLU` around it.
Going through the dispatcher costs a small tensor more time than the kernels do, so it is done only where somebody
watches: torch.compile, torch.func, dispatch modes, tensor subclasses.
"""

from typing import Any

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu.layout import dense, like
from initbench_kernels.batch_norm_relu.signs import num_bytes


def _forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    fixed_mean: Tensor | None,
    fixed_var: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
    save_signs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `launch.forward` on tensors of any strides; signs that are not to be saved have no elements."""
    from initbench_kernels.batch_norm_relu import launch

    x = dense(x)
    residual = None if residual is None else like(residual, x)
    weight, bias, fixed_mean, fixed_var = (
        None if p is None else p.contiguous() for p in (weight, bias, fixed_mean, fixed_var)
    )
    y, stats, signs = launch.forward(
        x, residual, weight, bias, fixed_mean, fixed_var, running_mean, running_var, num_batches_tracked, momentum, eps,
        save_signs,
    )  # fmt: skip
    return y, stats, x.new_empty(0, dtype=torch.uint8) if signs is None else signs


def _backward(
    dy: Tensor,
    x: Tensor,
    signs: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    training: bool,
    need_dx: bool,
    need_dparams: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `launch.backward` on tensors of any strides; what is not needed comes back with no elements."""
    from initbench_kernels.batch_norm_relu import launch

    x = dense(x)
    weight, bias = (None if p is None else p.contiguous() for p in (weight, bias))
    results = launch.backward(like(dy, x), x, signs, weight, bias, stats, training, need_dx, need_dparams)
    dx, dparams, dresidual = (x.new_empty(0) if t is None else t for t in results)
    return dx, dparams, dresidual


forward_operator = torch.library.custom_op(
    "initbench::batch_norm_relu_forward",
    _forward,
    mutates_args=("running_mean", "running_var", "num_batches_tracked"),
    schema=(
        "(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? fixed_mean, Tensor? fixed_var, "
        "Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, "
        "float? momentum, float eps, bool save_signs) -> (Tensor, Tensor, Tensor)"
    ),
)

backward_operator = torch.library.custom_op(
    "initbench::batch_norm_relu_backward",
    _backward,
    mutates_args=(),
    schema=(
        "(Tensor dy, Tensor x, Tensor? signs, Tensor? weight, Tensor? bias, Tensor stats, bool training, "
        "bool need_dx, bool need_dparams) -> (Tensor, Tensor, Tensor)"
    ),
)


@forward_operator.register_fake
def _forward_fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, save_signs = dense(x), args[-1]
    stats = x.new_empty(2, x.shape[1], dtype=torch.float32)
    return torch.empty_like(x), stats, x.new_empty(num_bytes(x) if save_signs else 0, dtype=torch.uint8)


@backward_operator.register_fake
def _backward_fake(
    dy: Tensor,
    x: Tensor,
    signs: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    training: bool,
    need_dx: bool,
    need_dparams: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = dense(x)
    dtype = next((p.dtype for p in (weight, bias) if p is not None), torch.float32)
    return (
        torch.empty_like(x) if need_dx else x.new_empty(0),
        x.new_empty(2, x.shape[1], dtype=dtype) if need_dparams else x.new_empty(0),
        torch.empty_like(x) if signs is not None else x.new_empty(0),
    )


def in_transform() -> bool:
    """Whether a torch.func transform (grad, vmap, ...) is being applied."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def has_rules(t: Tensor | None) -> bool:
    """Whether a tensor's class has rules of its own for operators, as DTensor has; no memory of its own then."""
    if t is None or torch.compiler.is_compiling():
        return False
    return type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__


def is_mapped(dy: Tensor) -> bool:
    """Whether vmap maps a backward pass over several `dy`; `torch.autograd.grad(is_grads_batched=True)` has its own."""
    compiling = torch.compiler.is_compiling()
    return in_transform() or (not compiling and torch._C._functorch.is_legacy_batchedtensor(dy))


def _observed(x: Tensor) -> bool:
    """Whether someone has to see an operator: a compiler, a torch.func transform, a dispatch mode, a subclass."""
    return (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def forward(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run the forward pass; arguments as in `launch.forward`, of any strides."""
    if _observed(x):
        return forward_operator(x, *args)
    outputs = _forward(x, *args)
    # The dispatcher would have told autograd that these changed.
    for mutated in args[5:8]:
        if mutated is not None:
            torch.autograd.graph.increment_version(mutated)
    return outputs


def backward(dy: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward pass; arguments as in `launch.backward`, of any strides."""
    return (backward_operator if _observed(dy) else _backward)(dy, *args)
