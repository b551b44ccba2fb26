"""The specification itself: against PyTorch's batch norm and autograd, in float64."""

import pytest
import torch
from batch_norm_oracle import SHAPES, Case, relative_error

from initbench_kernels.batch_norm_relu import reference

NAMES = ["rows_18_channels", "planes_odd", "volumes", "channels_last"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_formulas_agree_with_autograd(name: str, training: bool, residual: bool) -> None:
    """Output, running statistics and every gradient equal what PyTorch differentiates by itself."""
    case = Case(*SHAPES[name], training=training, residual=residual)
    leaves = [None if t is None else t.double().requires_grad_() for t in (case.x, case.weight, case.bias, case.res)]
    x, weight, bias, res = leaves
    running_mean, running_var = case.running_mean.double(), case.running_var.double()
    z = torch.nn.functional.batch_norm(x, running_mean, running_var, weight, bias, training, case.momentum, case.eps)
    y = (z if res is None else z + res).relu()
    y.backward(case.dy.double())
    wanted = {"y": y, "dx": x.grad, "dweight": weight.grad, "dbias": bias.grad}
    wanted |= {"running_mean": running_mean, "running_var": running_var}
    if res is not None:
        wanted["dresidual"] = res.grad
    expected = case.expected()
    for key, value in wanted.items():
        assert relative_error(expected[key], value.detach()) < 1e-12, key


def test_second_derivative_of_the_formula() -> None:
    """The explicit gradient, with statistics that depend on x, can be differentiated: gradcheck agrees."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    def dx(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        mean, var, _ = reference.statistics(x)
        return reference.backward(dy, x, mean, (var + 1e-3).rsqrt(), weight, bias, training=True).dx

    assert torch.autograd.gradcheck(dx, (normal(5, 2, 3), normal(5, 2, 3), normal(2), normal(2)))


def test_mask_at_zero_and_nan() -> None:
    """A pre-activation of 0 passes no gradient; NaN passes it, as torch.relu's backward does."""
    z = torch.tensor([-1.0, 0.0, 1.0, float("nan")], dtype=torch.float64, requires_grad=True)
    dy = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    (wanted,) = torch.autograd.grad(z.relu(), z, dy)
    assert torch.equal(reference.masked(dy, z), wanted)
    assert wanted.tolist() == [0, 0, 3, 4]


def test_half_precision_computes_in_float32() -> None:
    """The arithmetic of a half-precision input is float32, and only the result is rounded."""
    case = Case((40, 5), dtype=torch.bfloat16)
    mean, var, values = reference.statistics(case.x)
    assert mean.dtype == var.dtype == torch.float32
    assert values == 40
    assert reference.forward(case.x, mean, var.rsqrt()).dtype == torch.bfloat16
