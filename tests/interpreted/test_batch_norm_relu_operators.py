"""The fused operator in PyTorch's machinery: torch.library, torch.compile, torch.func, autocast, second derivatives."""

from collections.abc import Callable

import pytest
import torch
from batch_norm_oracle import Case, relative_error
from functorch.compile import make_boxed_func
from tolerances import EAGER, STATISTICS_RELATIVE
from torch._dynamo.backends.common import aot_autograd

from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d, batch_norm_relu
from initbench_kernels.batch_norm_relu import operators


def fused(case: Case, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None):
    return batch_norm_relu(
        x, case.running_mean.clone(), case.running_var.clone(), weight, bias, case.training, case.momentum, case.eps,
        residual=residual, backend="triton",
    )  # fmt: skip


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_opcheck(memory: str, residual: bool) -> None:
    """Schemas tell the truth about mutation and aliasing; fake tensors have the right shapes and strides."""
    case = Case((4, 6, 3, 3), memory, residual=residual)
    batches = torch.tensor(0)
    affine = (case.weight, case.bias)
    updated = (None, None, case.running_mean, case.running_var, batches)
    torch.library.opcheck(operators.forward_operator, (case.x, case.res, *affine, *updated, 0.1, 1e-5, residual))
    fixed = (case.running_mean, case.running_var, None, None, None)
    torch.library.opcheck(operators.forward_operator, (case.x, case.res, *affine, *fixed, 0.1, 1e-5, residual))
    _, stats, signs = operators.forward_operator(case.x, case.res, *affine, *updated, None, 1e-5, residual)
    for training, need_dx, need_dparams in [(True, True, True), (False, True, False), (True, False, True)]:
        args = (case.dy, case.x, signs if residual else None, *affine, stats, training, need_dx, need_dparams)
        torch.library.opcheck(operators.backward_operator, args)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_compile_fullgraph(training: bool, momentum: float | None) -> None:
    """One graph, forward and backward, with the buffers updated; the kernels run, not a decomposition."""

    def make() -> BatchNormReLU2d:
        module = BatchNormReLU2d(6, momentum=momentum).train(training)
        module.backend = "triton"
        return module

    torch.manual_seed(0)
    plain, compiled = make(), make()
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x, residual = torch.randn(2, 4, 6, 5, 5).unbind()
        outputs = []
        for module, call in ((plain, plain), (compiled, run)):
            leaves = [x.clone().requires_grad_(), residual.clone().requires_grad_(), module.weight, module.bias]
            y = call(*leaves[:2])
            outputs.append([y, *torch.autograd.grad(y.square().sum(), leaves), *module.buffers()])
        for wanted, actual in zip(*outputs, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_compile_dynamic_shapes(memory: str) -> None:
    """Symbolic sizes: the bytes of the signs follow them, with a graph per kind of plane, not one per size."""
    graphs: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    run = torch.compile(fused, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=compiler))
    # Planes that are grouped, in bytes of their own or not, and planes that are blocks of their own.
    for samples, *sides in ((4, 5, 7), (6, 3, 11), (5, 6, 6), (7, 8, 5), (2, 17, 17), (3, 13, 11), (2, 24, 25)):
        case = Case((samples, 8, *sides), memory, residual=True)
        outputs = []
        for call in (fused, run):
            leaves = [t.detach().clone().requires_grad_() for t in (case.x, case.weight, case.bias, case.res)]
            y = call(case, *leaves)
            outputs.append([y, *torch.autograd.grad(y, leaves, case.dy)])
        for wanted, actual in zip(*outputs, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)
    assert len(graphs) == 2 * (1 if memory == "channels_last" else 3)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_buffers_follow_nn_batch_norm(momentum: float | None) -> None:
    """Running statistics and the batch counter over several steps, cumulative average included, and then evaluation."""
    fused, plain = BatchNormReLU1d(6, momentum=momentum), torch.nn.BatchNorm1d(6, momentum=momentum)
    fused.backend = "triton"
    for step in range(3):
        x = torch.randn(20, 6) * (step + 1)
        torch.testing.assert_close(fused(x), plain(x).relu(), **EAGER)
        for actual, wanted in zip(fused.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(actual, wanted, **EAGER)
    assert fused.num_batches_tracked == 3
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x).relu(), **EAGER)
    assert fused.num_batches_tracked == 3


def test_compiled_graph_calls_the_operators() -> None:
    """What torch.compile captures is the two operators, with no second derivative's formula in its backward."""
    module = BatchNormReLU1d(3)
    module.backend = "triton"
    graphs: list[str] = []

    def compiler(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph.code)
        return make_boxed_func(graph.forward)

    run = torch.compile(module, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))
    run(torch.randn(7, 3, requires_grad=True)).sum().backward()
    assert len(graphs) == 2
    assert "batch_norm_relu_forward" in graphs[0] or "auto_functionalized" in graphs[0]
    assert "batch_norm_relu_backward" in graphs[1]
    assert "where" not in graphs[1]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_second_derivative(training: bool, residual: bool) -> None:
    """Gradients of a gradient penalty, against PyTorch's in float64."""
    case = Case((12, 5, 3), training=training, residual=residual)

    def penalty(function, dtype: torch.dtype) -> list[torch.Tensor]:
        tensors = (case.x, case.weight, case.bias, case.res)
        leaves = [None if t is None else t.detach().to(dtype).requires_grad_() for t in tensors]
        given = [leaf for leaf in leaves if leaf is not None]
        y = function(case, *leaves)
        grads = torch.autograd.grad((y * case.dy.to(dtype)).sum() + y.square().sum(), given, create_graph=True)
        total = sum(g.square().sum() for g in grads)
        return list(torch.autograd.grad(total, given))

    def eager(case: Case, x, weight, bias, residual) -> torch.Tensor:
        mean, var = case.running_mean.to(x), case.running_var.to(x)
        z = torch.nn.functional.batch_norm(x, mean, var, weight, bias, case.training, case.momentum, case.eps)
        return (z if residual is None else z + residual).relu()

    for actual, wanted in zip(penalty(fused, torch.float32), penalty(eager, torch.float64), strict=True):
        assert relative_error(actual, wanted) <= STATISTICS_RELATIVE


def test_second_derivative_half_precision() -> None:
    """create_graph=True gives first derivatives in the leaves' own dtypes."""
    case = Case((12, 5), dtype=torch.bfloat16, residual=True)
    leaves = [t.requires_grad_() for t in (case.x, case.weight, case.bias, case.res)]
    grads = torch.autograd.grad(fused(case, *leaves), leaves, case.dy, create_graph=True)
    assert [g.dtype for g in grads] == [leaf.dtype for leaf in leaves]


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_func_grad(residual: bool) -> None:
    """torch.func.grad through the kernels when they are named, through PyTorch's own rules when they are not."""
    case = Case((12, 5), residual=residual)

    def loss(x: torch.Tensor, residual: torch.Tensor | None, backend: str | None) -> torch.Tensor:
        y = batch_norm_relu(x, None, None, case.weight, case.bias, True, residual=residual, backend=backend)
        return y.square().sum()

    for argument in (0, 1) if residual else (0,):
        by_triton = torch.func.grad(loss, argument)(case.x, case.res, "triton")
        by_default = torch.func.grad(loss, argument)(case.x, case.res, None)
        torch.testing.assert_close(by_triton, by_default, **EAGER)


def test_vmap() -> None:
    """Inside vmap PyTorch's batch norm serves by default; the named kernels refuse."""
    x = torch.randn(3, 8, 5)
    apply = torch.func.vmap(lambda x: batch_norm_relu(x, None, None, training=True))
    for actual, sample in zip(apply(x), x, strict=True):
        torch.testing.assert_close(actual, batch_norm_relu(sample, None, None, training=True), **EAGER)
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        torch.func.vmap(lambda x: batch_norm_relu(x, None, None, training=True, backend="triton"))(
            x.clone().requires_grad_()
        )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # of torch's own forward-mode rules
def test_forward_mode() -> None:
    """The kernels have no forward-mode derivative: they refuse where they are named, rather than drop the tangent."""
    x, tangent = torch.randn(8, 5), torch.randn(8, 5)

    def apply(x: torch.Tensor, backend: str | None) -> torch.Tensor:
        return batch_norm_relu(x, None, None, training=True, backend=backend)

    def pair(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x, None, None, training=True).relu()

    wanted = torch.func.jvp(pair, (x,), (tangent,))[1]
    torch.testing.assert_close(torch.func.jvp(lambda x: apply(x, None), (x,), (tangent,))[1], wanted)
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(lambda x: apply(x, "triton"), (x,), (tangent,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        with pytest.raises(RuntimeError, match="forward-mode"):
            apply(dual, "triton")
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(apply(dual, None)).tangent, wanted)


def test_make_fx_records_the_operators() -> None:
    """A dispatch mode sees the operators, not constants."""
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: batch_norm_relu(x, None, None, training=True, backend="triton"))(torch.randn(6, 3))
    assert "batch_norm_relu_forward" in graph.code


def test_autocast() -> None:
    """Autocast does to the fused module what it does to nn.BatchNorm: half-precision input, float32 parameters."""
    module, plain = BatchNormReLU1d(5), torch.nn.BatchNorm1d(5)
    module.backend = "triton"
    x = torch.randn(12, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, wanted = module(x), plain(x).relu()
    assert actual.dtype == wanted.dtype
    torch.testing.assert_close(actual, wanted)


def test_versions_of_buffers() -> None:
    """Running statistics that changed say so to autograd, as nn.BatchNorm's do."""
    module = BatchNormReLU1d(5)
    module.backend = "triton"
    before = [b._version for b in module.buffers()]
    module(torch.randn(12, 5))
    assert all(b._version > old for b, old in zip(module.buffers(), before, strict=True))


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_several_gradients_at_once(training: bool, residual: bool) -> None:
    """`is_grads_batched` maps the backward pass over many dy."""
    case = Case((12, 5, 3), training=training, residual=residual)
    leaves = [t.requires_grad_() for t in (case.x, case.weight, case.bias, case.res) if t is not None]
    y = fused(case, case.x, case.weight, case.bias, case.res)
    dys = torch.stack([case.dy, case.dy.flip(0)])
    at_once = torch.autograd.grad(y, leaves, dys, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, leaves, dy, retain_graph=True) for dy in dys]
    for actual, *wanted in zip(at_once, *one_by_one, strict=True):
        torch.testing.assert_close(actual, torch.stack(wanted), **EAGER)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::torch.jit.TracerWarning")
def test_trace_refuses_the_named_kernels() -> None:
    """TorchScript's sizes are no numbers, and an autograd function of Python is nothing that it could record."""
    module = BatchNormReLU1d(5)
    module.backend = "triton"
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record them"):
        torch.jit.trace(module, torch.randn(12, 5))


@pytest.mark.parametrize("which", ["x", "residual", "dy"])
def test_negation_that_was_put_off(which: str) -> None:
    """A lazy negative has the memory of its opposite."""
    tensors = {name: torch.randn(12, 5) for name in ("x", "residual", "dy")}
    tensors[which] = torch._neg_view(tensors[which])
    results = []
    for backend in ("eager", "triton"):
        x, residual = (tensors[name].detach().requires_grad_() for name in ("x", "residual"))
        y = batch_norm_relu(x, None, None, training=True, residual=residual, backend=backend)
        results.append([y, *torch.autograd.grad(y, [x, residual], tensors["dy"])])
    for wanted, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted, **EAGER)
