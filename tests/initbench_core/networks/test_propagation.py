"""Signal propagation against its exact and its mean-field laws: networks as they are built, theory as it is written.

Each law is tested within the theory's own spread over networks, in standard errors where it gives one.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from initbench_core.networks import theory
from initbench_core.networks.activations import Activation, activation_function
from initbench_core.networks.fans import layer_fans
from initbench_core.networks.initializers import fill_weight_, initialize_layers_
from initbench_core.networks.models import ResidualBlock, mlp, residual_mlp
from initbench_core.training.probing import layer_signals
from tests import tolerances


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def signals(model: nn.Sequential, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Outputs of the hidden layers' activations and their gradients, for a random gradient at the output."""
    activations = [m for m in model if isinstance(m, Activation)]
    gradient = torch.randn(len(x), 3, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    return layer_signals(model, activations, x, gradient)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_homogeneity(activation: str) -> None:
    """Weights times c: activations of layer l times c^l, gradients there times c to the number of layers behind it."""
    depth, c = 12, 1.7
    model = mlp(30, 40, depth, 3, activation=activation).double()
    initialize_layers_(model, "kaiming_normal", nonlinearity=activation)
    x = torch.randn(8, 30, dtype=torch.float64)
    before = signals(model, x)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight *= c
    after = signals(model, x)
    for layer in range(depth):
        for kind, power in ((0, layer + 1), (1, depth - layer)):
            expected = before[kind][layer] * c**power
            error = (after[kind][layer] - expected).abs().max() / expected.abs().max()
            assert error < tolerances.HOMOGENEITY


def log_ratios(width: int, depth: int, draws: int, activation: str = "relu") -> torch.Tensor:
    """log(||h_l||^2 / ||h_{l-1}||^2) of one-input networks at He's gain or the linear one, [draws, depth].

    It is -inf where all units die, and nan from then on.
    """
    h = torch.ones(draws, width, 1, dtype=torch.float64)
    norms = [h.square().sum((1, 2))]
    for _ in range(depth):
        weight = fill_weight_(torch.empty(draws * width, width), "kaiming_normal", nonlinearity=activation)
        h = activation_function(activation)(weight.double().view(draws, width, width) @ h)
        norms.append(h.square().sum((1, 2)))
    logs = torch.stack(norms, dim=1).log()
    return logs.diff(dim=1)


@pytest.mark.parametrize(("width", "depth", "draws"), [(16, 10, 4000), (100, 50, 120)])
def test_finite_width_law(width: int, depth: int, draws: int) -> None:
    """E log and Var log per layer, and their sums over depth, since the layers are independent."""
    mean, variance = theory.he_log_law(width)
    ratios = log_ratios(width, depth, draws)
    alive = ratios[ratios.isfinite()]
    n = len(alive)
    assert alive.mean().item() == pytest.approx(mean, abs=tolerances.SIGMAS * math.sqrt(variance / n))
    # The log of chi-squared is skewed: its fourth moment is below 4 variance^2.
    assert alive.var().item() == pytest.approx(variance, rel=tolerances.SIGMAS * math.sqrt(3 / n))
    whole = ratios.sum(dim=1)
    whole = whole[whole.isfinite()]
    n = len(whole)
    assert whole.mean().item() == pytest.approx(depth * mean, abs=tolerances.SIGMAS * math.sqrt(depth * variance / n))
    assert whole.var().item() == pytest.approx(depth * variance, rel=tolerances.SIGMAS * math.sqrt(2 / n))


def ratio_moments(width: int, activation: str) -> list[float]:
    """E[r], ..., E[r^4] of r = c / width chi^2_K: c = 2 and K ~ Binomial(width, 1/2) for ReLU; c = 1 and K = width.

    E[(chi^2_K)^k] = K (K + 2) ... (K + 2k - 2).
    """
    if activation == "linear":
        active, scale = {width: 1.0}, 1 / width
    else:
        active, scale = {k: math.comb(width, k) / 2**width for k in range(width + 1)}, 2 / width
    return [
        sum(p * math.prod(scale * (k + 2 * j) for j in range(order)) for k, p in active.items())
        for order in range(1, 5)
    ]


@pytest.mark.parametrize(("activation", "beta"), [("relu", 5), ("linear", 2)])
@pytest.mark.parametrize(("width", "draws"), [(4, 8000), (16, 4000), (64, 1500)])
def test_the_ratio_itself_has_mean_one_and_variance_beta_over_width(
    activation: str, beta: int, width: int, draws: int
) -> None:
    """The squared length keeps its mean at any width, dead networks counted in: (2 / n) chi^2 has variance 5 / n.

    Without the ReLU it is 2 / n. Tolerances are standard errors, by the law's own fourth moment.
    """
    first, second, third, fourth = ratio_moments(width, activation)
    assert (first, second - first**2) == pytest.approx((1, beta / width))
    ratios = log_ratios(width, 4, draws, activation).exp()
    ratios = ratios[~ratios.isnan()]
    n = len(ratios)
    variance, central = beta / width, fourth - 4 * third + 6 * second - 3
    assert ratios.mean().item() == pytest.approx(1, abs=tolerances.SIGMAS * math.sqrt(variance / n))
    spread = math.sqrt((central - variance**2) / n)
    assert ratios.var().item() == pytest.approx(variance, abs=tolerances.SIGMAS * spread)


@pytest.mark.parametrize("width", [2, 4, 6])
def test_a_layer_is_dead_with_probability_two_to_the_minus_width(width: int) -> None:
    """All of its units, for one input: each is with probability 1/2, by the sign of a symmetric weight."""
    draws, probability = 40_000, 0.5**width
    dead = int(log_ratios(width, 1, draws).isinf().sum())
    assert dead / draws == pytest.approx(
        probability, abs=tolerances.SIGMAS * math.sqrt(probability * (1 - probability) / draws)
    )
    # A linear layer has none.
    assert log_ratios(width, 1, 100, "linear").isfinite().all()


@pytest.mark.parametrize("scheme", ["kaiming_normal", "kaiming_normal_fan_out"])
def test_backward_goes_by_fan_out(scheme: str) -> None:
    """Widths 300 and 100 in turns: a gradient's second moment is multiplied by fan_out * Var(w) / 2 per layer."""
    widths = [300, 100] * 4
    factors: dict[int, list[float]] = {100: [], 300: []}
    for _ in range(20):
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        model = nn.Sequential(*[m for layer in layers for m in (layer, Activation("relu"))], nn.Linear(widths[-1], 3))
        initialize_layers_(model, scheme)
        _, gradients = signals(model, torch.randn(1, widths[0]))
        moments = [g.square().mean().item() for g in gradients]
        # The gradient at layer k - 1's output passes through layer k's ReLU and weights.
        for layer, (near_input, near_output) in zip(layers[1:], pairwise(moments), strict=True):
            factors[layer_fans(layer).fan_out].append(near_input / near_output)
    for fan_out, found in factors.items():
        fan = {"kaiming_normal": 400 - fan_out, "kaiming_normal_fan_out": fan_out}[scheme]
        expected = theory.relu_growth(fan_out, 2 / fan)
        # A gradient of n numbers through half of m units has a relative variance of about 2 / n + 3 / m, below 5 / 100.
        spread = tolerances.SIGMAS * math.sqrt(0.05 / len(found))
        assert sum(found) / len(found) == pytest.approx(expected, rel=spread)


def jacobian(depth: int, scheme: str) -> torch.Tensor:
    """Singular values of a linear network of width 100, in float64."""
    product = torch.eye(100, dtype=torch.float64)
    for _ in range(depth):
        weight = fill_weight_(torch.empty(100, 100, dtype=torch.float64), scheme, nonlinearity="linear")
        product = weight @ product
    return torch.linalg.svdvals(product)


def test_orthogonal_linear_networks_are_isometries() -> None:
    """Fifty layers deep all singular values are 1; Gaussian weights of the same scale spread them over decades."""
    assert (jacobian(50, "orthogonal") - 1).abs().max() < tolerances.ISOMETRY
    gaussian = jacobian(50, "lecun_normal")
    assert gaussian.max() > 3
    assert gaussian.median() < 1e-5
    assert gaussian.max() / gaussian.min() > 1e12


def test_no_relu_network_is_an_isometry() -> None:
    """A ReLU cuts half of the directions at each layer, orthogonal weights or not."""
    h, product = torch.randn(100, dtype=torch.float64), torch.eye(100, dtype=torch.float64)
    for _ in range(50):
        weight = fill_weight_(torch.empty(100, 100, dtype=torch.float64), "orthogonal", nonlinearity="relu")
        h = weight @ h
        product = (h > 0).double()[:, None] * (weight @ product)
        h = torch.relu(h)
    assert torch.linalg.matrix_rank(product, rtol=1e-12) < 50


def test_correlation_map() -> None:
    """Two orthogonal inputs, 20 networks of width 512: the angle closes as the map says."""
    draws, width, depth = 20, 512, 10
    pair = torch.eye(width, dtype=torch.float64)[:2].T.expand(draws, width, 2)
    predicted = 0.0
    for _ in range(depth):
        weight = fill_weight_(torch.empty(draws * width, width), "kaiming_normal").double().view(draws, width, width)
        pair = torch.relu(weight @ pair)
        cosine = nn.functional.cosine_similarity(pair[..., 0], pair[..., 1], dim=1)
        predicted = theory.relu_correlation(predicted)
        spread = tolerances.SIGMAS * cosine.std().item() / math.sqrt(draws)
        assert spread < 0.08
        assert cosine.mean().item() == pytest.approx(predicted, abs=spread + tolerances.CORRELATION_BIAS)


def growth_per_block(blocks: list[Callable[[torch.Tensor], torch.Tensor]], x: torch.Tensor) -> list[float]:
    factors = []
    with torch.no_grad():
        for block in blocks:
            y = block(x)
            factors.append((y.square().mean() / x.square().mean()).item())
            x = y
    return factors


def test_residual_branches_that_end_in_a_linear_layer_double_the_second_moment() -> None:
    model = residual_mlp(16, 512, 12, 3)
    initialize_layers_(model, "kaiming_normal")
    blocks = [m for m in model if isinstance(m, ResidualBlock)]
    factors = growth_per_block(blocks, torch.randn(16, 512))
    assert math.prod(factors) ** (1 / len(factors)) == pytest.approx(2, rel=tolerances.RESIDUAL_RELATIVE)


def test_residual_branches_that_end_in_relu_grow_faster() -> None:
    """Such a branch has a mean, which adds up along the skips: the order of its layers matters.

    With q the second moment and m the mean of x: the branch has q and a mean of sqrt(q / pi), so that
    q' = 2 q + 2 m sqrt(q / pi) and m' = m + sqrt(q / pi). The factor goes from 2 to 2.904.
    """

    class EndsInReLU(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
            initialize_layers_(self.branch, "kaiming_normal")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.branch(x)

    predicted, ratio = [], 0.0  # of mean to root mean square
    for _ in range(12):
        predicted.append(2 + 2 * ratio / math.sqrt(math.pi))
        ratio = (ratio + 1 / math.sqrt(math.pi)) / math.sqrt(predicted[-1])
    factors = growth_per_block([EndsInReLU() for _ in predicted], torch.randn(16, 512))
    assert predicted[-1] == pytest.approx(2.904, abs=1e-3)
    found, expected = (math.prod(f) ** (1 / len(f)) for f in (factors, predicted))
    assert expected == pytest.approx(2.75, abs=0.01)
    assert found == pytest.approx(expected, rel=tolerances.RESIDUAL_RELATIVE)


def test_batch_norm_residuals_grow_linearly() -> None:
    """Each block adds what its last linear layer makes of a ReLU: 2 Var relu(z) = (pi - 1) / pi over the batch."""
    model = residual_mlp(512, 512, 12, 3, norm="before")
    initialize_layers_(model, "kaiming_normal")
    x = torch.randn(512, 512)
    variances = []
    with torch.no_grad():
        for block in [m for m in model if isinstance(m, ResidualBlock)]:
            x = block(x)
            variances.append(x.var(dim=0).mean().item())
    steps = torch.tensor(variances).diff()
    assert steps.mean().item() == pytest.approx((math.pi - 1) / math.pi, rel=tolerances.RESIDUAL_RELATIVE)
    # No factor: the last steps are as long as the first.
    assert (steps[-4:].mean() / steps[:4].mean()).item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("sigma_w2", "sigma_b2"), [(1.0, 0.05), (1.7610, 0.05), ((5 / 3) ** 2, 0.0)])
def test_tanh_phases(sigma_w2: float, sigma_b2: float) -> None:
    """Ordered, critical, and (xavier's gain) chaotic: variances stay at q*, gradients go by chi per layer."""
    width, depth, inputs, networks = 512, 12, 8, 5
    fixed = theory.fixed_point_variance(sigma_w2, sigma_b2)
    moments, factors = [], []
    for _ in range(networks):
        model = mlp(width, width, depth, 3, activation="tanh")
        initialize_layers_(model, f"normal({math.sqrt(sigma_w2 / width)})")
        with torch.no_grad():
            for layer in model:
                if isinstance(layer, nn.Linear):
                    layer.bias.normal_(0.0, math.sqrt(sigma_b2))
        # Preactivations of layer 1 have variance q* from the start.
        x = torch.randn(inputs, width) * math.sqrt((fixed - sigma_b2) / sigma_w2)
        activations, gradients = signals(model, x)
        moments += [a.square().mean().item() for a in activations]
        factors.append((gradients[0].square().mean() / gradients[-1].square().mean()).item() ** (1 / (depth - 1)))
    expected = theory.gaussian_mean(lambda z: torch.tanh(math.sqrt(fixed) * z) ** 2)
    assert sum(moments) / len(moments) == pytest.approx(expected, rel=tolerances.MEAN_FIELD)
    chi = theory.susceptibility(sigma_w2, sigma_b2)
    assert math.prod(factors) ** (1 / networks) == pytest.approx(chi, rel=tolerances.MEAN_FIELD)
