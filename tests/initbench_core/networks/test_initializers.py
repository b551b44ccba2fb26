"""Initializers: torch's semantics, the right fans, gains, and errors that help."""

import math

import pytest
import torch
from torch import nn

from initbench_core.networks import initializers
from initbench_core.networks.fans import Fans, layer_fans, torch_fans
from initbench_core.networks.gains import exact_gain, gain
from initbench_core.networks.initializers import SCHEMES, distribution, fill_weight_, initialize_layers_
from initbench_core.networks.lsuv import lsuv_
from tests import tolerances

SAME_AS_TORCH = {
    "zeros": nn.init.zeros_,
    "constant(0.3)": lambda w: nn.init.constant_(w, 0.3),
    "normal(0.02)": lambda w: nn.init.normal_(w, std=0.02),
    "uniform(0.5)": lambda w: nn.init.uniform_(w, -0.5, 0.5),
    "torch_default": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    "xavier_normal": lambda w: nn.init.xavier_normal_(w, math.sqrt(2)),
    "xavier_uniform": lambda w: nn.init.xavier_uniform_(w, math.sqrt(2)),
    "kaiming_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "kaiming_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "kaiming_normal_fan_out": lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "kaiming_uniform_fan_out": lambda w: nn.init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu"),
    "truncated_normal(0.02)": lambda w: nn.init.trunc_normal_(w, 0.0, 0.02, -0.04, 0.04),
    "orthogonal": lambda w: nn.init.orthogonal_(w, math.sqrt(2)),
}


@pytest.mark.parametrize("name", SAME_AS_TORCH)
@pytest.mark.parametrize("shape", [(40, 30), (16, 8, 3, 3)], ids=["linear", "conv"])
def test_draws_what_torch_draws(name: str, shape: tuple[int, ...]) -> None:
    ours, theirs = torch.full(shape, math.nan), torch.full(shape, math.nan)
    torch.manual_seed(7)
    fill_weight_(ours, name, nonlinearity="relu")
    torch.manual_seed(7)
    SAME_AS_TORCH[name](theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", [s for s, row in SCHEMES.items() if row.distribution not in ("orthogonal", "dirac")])
@pytest.mark.parametrize("nonlinearity", ["relu", "tanh", "elu"])
def test_moments_follow_the_formula(name: str, nonlinearity: str) -> None:
    fans = Fans(50, 200)
    row = distribution(name, fans, nonlinearity)
    torch.manual_seed(0)
    values = fill_weight_(torch.empty(250, 200), name, nonlinearity=nonlinearity, fans=fans).double()
    assert values.min() >= row.low
    assert values.max() <= row.high
    if row.std:
        assert values.var().item() / row.std**2 == pytest.approx(1, abs=tolerances.MOMENT_RATIO)
        assert abs(values.mean().item()) < 5 * row.std / math.sqrt(values.numel())


def test_xavier_uniform_bound_is_not_the_lectures() -> None:
    """The lecture's bound, sqrt(2) * 3 / sqrt(n + m), is sqrt(3) times too wide."""
    row = distribution("xavier_uniform", Fans(100, 300), "linear")
    assert row.high == pytest.approx(math.sqrt(6 / 400))
    assert math.sqrt(2) * 3 / math.sqrt(400) == pytest.approx(math.sqrt(3) * row.high)


def test_truncated_normal_with_and_without_correction() -> None:
    plain, corrected = (distribution(f"truncated_normal{c}(0.02)", Fans(1, 1)) for c in ("", "_corrected"))
    assert plain.std**2 / 0.02**2 == pytest.approx(0.7737413, abs=1e-6)
    assert corrected.std == pytest.approx(0.02)
    assert corrected.high == pytest.approx(0.04 / 0.8796257, rel=1e-6)


def test_torchs_truncation_bounds_are_absolute() -> None:
    """Its defaults a, b = -2, 2 are no multiples of std: at std 0.02 nothing is cut off, and the std stays whole."""
    torch.manual_seed(0)
    torchs = nn.init.trunc_normal_(torch.empty(50_000), std=0.02)
    ours = fill_weight_(torch.empty(250, 200), "truncated_normal(0.02)")
    assert torchs.abs().max() > 0.06
    assert ours.abs().max() <= 0.04
    for values, expected in ((torchs, 1.0), (ours, 0.7737413)):
        assert values.double().var().item() / 0.02**2 == pytest.approx(expected, abs=tolerances.MOMENT_RATIO)


@pytest.mark.parametrize(
    ("layer", "fans", "torchs"),
    [
        (nn.Linear(7, 3), (7, 3), (7, 3)),
        (nn.Conv2d(16, 32, 3), (144, 288), (144, 288)),
        (nn.Conv2d(16, 32, 3, groups=4), (36, 72), (36, 288)),
        (nn.ConvTranspose2d(16, 32, 3), (144, 288), (288, 144)),
        (nn.ConvTranspose1d(8, 12, 5, groups=2), (20, 30), (30, 40)),
    ],
    ids=["linear", "conv", "grouped", "transposed", "transposed grouped"],
)
def test_fans_count_connections(layer: nn.Module, fans: tuple[int, int], torchs: tuple[int, int]) -> None:
    """The right fans, and torch's, which are wrong for groups and transposed convolutions."""
    assert layer_fans(layer) == fans
    assert torch_fans(layer.weight) == torchs


def test_fans_are_what_the_variance_needs() -> None:
    """An output of a grouped convolution sums fan_in products: unit inputs and weights give variance fan_in."""
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 32, 3, groups=4, bias=False)
    nn.init.normal_(layer.weight)
    variance = layer(torch.randn(64, 16, 10, 10)).var().item()
    assert variance == pytest.approx(layer_fans(layer).fan_in, rel=0.1)


@pytest.mark.parametrize(
    ("nonlinearity", "expected", "exact"),
    [
        ("linear", 1.0, 1.0),
        ("relu", math.sqrt(2), math.sqrt(2)),
        ("leaky_relu", math.sqrt(2 / 1.0001), math.sqrt(2 / 1.0001)),
        ("tanh", 5 / 3, 1.5925),
        ("softsign", 2.3375, 2.3375),
        ("sigmoid", 1.0, 1.8462),
        ("selu", 0.75, 1.0),
        ("elu", 1.2452, 1.2452),
        ("gelu", 1.5335, 1.5335),
        ("silu", 1.6765, 1.6765),
    ],
)
def test_gains_exact_or_conventional(nonlinearity: str, expected: float, exact: float) -> None:
    assert gain(nonlinearity) == pytest.approx(expected, abs=1e-4)
    assert exact_gain(nonlinearity) == pytest.approx(exact, abs=1e-4)


def test_linear_8_1_has_the_notebooks_bounds() -> None:
    assert distribution("torch_default", Fans(8, 1)).high == pytest.approx(1 / math.sqrt(8))
    assert distribution("kaiming_uniform", Fans(8, 1)).high == pytest.approx(math.sqrt(6 / 8))


def test_orthogonal_and_dirac() -> None:
    weight = fill_weight_(torch.empty(20, 20, dtype=torch.float64), "orthogonal", nonlinearity="linear")
    torch.testing.assert_close(weight @ weight.T, torch.eye(20, dtype=torch.float64))
    kernel = fill_weight_(torch.empty(4, 4, 3, 3), "dirac")
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(nn.functional.conv2d(x, kernel, padding=1), x)


def test_lsuv_gives_every_layer_unit_variance() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 40), nn.Sigmoid(), nn.Linear(40, 5))
    initialize_layers_(model, "lsuv")
    x = 3 * torch.randn(500, 30) + 1
    lsuv_(model, x)
    for depth in (1, 3, 5):
        assert model[:depth](x).double().var().item() == pytest.approx(1, abs=0.021)


def test_lsuv_leaves_a_layer_without_variance_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    initialize_layers_(model, "zeros")
    lsuv_(model, torch.randn(8, 4))
    assert (model[0].weight == 0).all()


def test_initialize_layers_reaches_every_weight_and_zeroes_biases() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4), nn.ConvTranspose1d(4, 4, 2))
    initialize_layers_(model, "constant(0.25)")
    for name, parameter in model.named_parameters():
        assert (parameter == (0.25 if name.endswith("weight") else 0.0)).all(), name


def test_initialize_layers_torch_default_equals_the_constructor() -> None:
    torch.manual_seed(3)
    expected = nn.Sequential(nn.Linear(5, 6), nn.Conv1d(2, 3, 2)).state_dict()
    model = nn.Sequential(nn.Linear(5, 6), nn.Conv1d(2, 3, 2))
    torch.manual_seed(3)
    initialize_layers_(model, "torch_default")
    assert all(torch.equal(expected[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kaimin_normal", "choose from zeros, constant, normal"),
        ("kaiming_normal(2)", "takes no parameter"),
        ("normal(wide)", "not a number"),
        ("normal(0.1", "unknown initializer"),
        ("normal(-1)", "std -1: it must be finite and not negative"),
        ("uniform(inf)", "std inf: it must be finite"),
    ],
)
def test_bad_names_are_explained(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fill_weight_(torch.empty(2, 2), name)


def test_bad_shapes_and_gains_are_explained() -> None:
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        fill_weight_(torch.empty(5), "kaiming_normal")
    with pytest.raises(ValueError, match=r"Dirac weight needs 3 to 5 dimensions .*\(5, 5\)"):
        fill_weight_(torch.empty(5, 5), "dirac")
    with pytest.raises(ValueError, match="unknown nonlinearity 'rleu'"):
        fill_weight_(torch.empty(5, 5), "kaiming_normal", nonlinearity="rleu")
    with pytest.raises(ValueError, match="has no fans"):
        layer_fans(nn.ReLU())


def test_truncated_std_constant() -> None:
    assert pytest.approx(0.87962566, abs=1e-8) == initializers.TRUNCATED_STD
