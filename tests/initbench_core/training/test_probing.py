"""What the probe says of networks at initialization, against closed forms and mean-field theory."""

import copy
import math

import pytest
import torch
from torch import nn

from initbench_core.networks.initializers import initialize_layers_
from initbench_core.networks.models import mlp, residual_mlp
from initbench_core.records.schema import Measurement
from initbench_core.training.data import Data, Split
from initbench_core.training.metrics import METRICS
from initbench_core.training.probing import geometric_factor, look, probe_at_init, step_memory
from initbench_core.training.recipe import Recipe
from tests import tolerances


def batch(samples: int = 256, features: int = 64) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(samples, features, generator=generator), torch.arange(samples) % 10)


def network(init: str, *, width: int = 256, depth: int = 10, activation: str = "relu", norm: str = "none") -> nn.Module:
    torch.manual_seed(0)
    model = mlp(64, width, depth, 10, activation=activation, norm=norm)
    initialize_layers_(model, init)
    return model


def probe(model: nn.Module, norm: str | None = "none") -> dict[str, Measurement]:
    return {m.metric: m for m in probe_at_init(model, batch(), norm=norm)}


@pytest.mark.parametrize(
    ("init", "activation", "norm"),
    [
        ("kaiming_normal", "relu", "none"),
        ("torch_default", "relu", "none"),
        ("kaiming_normal", "tanh", "none"),
        ("orthogonal", "sigmoid", "none"),
        ("torch_default", "gelu", "none"),
        ("kaiming_normal", "relu", "before"),
        ("normal(0.01)", "relu", "after"),
        ("normal(1)", "gelu", "before"),
    ],
)
def test_factors_are_the_theorys(init: str, activation: str, norm: str) -> None:
    found = probe(network(init, activation=activation, norm=norm), norm)
    tolerance = tolerances.PROBE_PLAIN if norm == "none" else tolerances.PROBE_BATCH_NORM
    assert found["forward_factor_ratio"].values[0] == pytest.approx(1, rel=tolerance)
    assert found["backward_factor_ratio"].values[0] == pytest.approx(1, rel=tolerance)


def test_scales_of_an_untrainable_network() -> None:
    """Width 256 at std 1 multiplies by 128 per layer, at std 0.01 by 0.0128, both ways; float64 holds both."""
    for init, factor in (("normal(1)", 128.0), ("normal(0.01)", 0.0128)):
        found = probe(network(init, depth=60))
        for name in ("forward_factor", "backward_factor"):
            assert found[name].values[0] == pytest.approx(factor, rel=tolerances.PROBE_PLAIN)
        assert all(math.isfinite(v) and v > 0 for v in found["second_moment"].values)


def test_layers_are_numbered_and_the_network_is_left_alone() -> None:
    model = network("kaiming_normal", norm="before", depth=3)
    before = copy.deepcopy(model.state_dict())
    found = probe(model, "before")
    for name in ("second_moment", "gradient_variance", "dead_fraction", "second_moment_theory"):
        assert found[name].axes == {"layer": [1, 2, 3]}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_residual_network_has_no_theory_here() -> None:
    found = probe(residual_mlp(64, 32, 3, 10), None)
    assert "second_moment" in found
    assert not [name for name in found if "theory" in name or name.endswith("factor_ratio")]


def test_saturation_is_for_bounded_activations() -> None:
    assert "saturated_fraction" not in probe(network("kaiming_normal"))
    wild, tame = (probe(network(init, activation="tanh")) for init in ("normal(1)", "normal(0.01)"))
    assert wild["saturated_fraction"].values[0] > 0.7
    assert tame["saturated_fraction"].values[0] == 0


def test_the_memory_of_a_step_is_counted() -> None:
    """Weights do not count; what is kept of a layer makes room for the gradient of its weights, here of equal size."""
    activation, bias = 256 * 256 * 4 / 2**20, 256 * 4 / 2**20
    counted = [step_memory(network("kaiming_normal", depth=depth), batch()).values[0] for depth in (4, 5, 6)]
    assert counted[1] - counted[0] == counted[2] - counted[1] == activation + bias
    model = network("kaiming_normal", depth=4, norm="before")
    before = copy.deepcopy(model.state_dict())
    assert step_memory(model, batch()) == step_memory(model, batch())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


def test_tensor_metrics_on_small_cases() -> None:
    signal = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 3.0]]).double()
    assert METRICS["dead_fraction"].function(signal) == pytest.approx(1 / 3)
    assert METRICS["always_on_fraction"].function(signal) == pytest.approx(1 / 3)
    assert METRICS["mean_cosine"].function(signal) == pytest.approx(2 / math.sqrt(13))
    values = torch.tensor([-0.96, -0.94, 0.0, 0.96]).double()
    assert METRICS["saturated_fraction"].function(values, -1.0, 1.0) == 0.5


def test_first_and_last_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for parameter, scale in zip(model.parameters(), (6.0, 50.0, 2.0, 50.0), strict=True):
        parameter.grad = torch.full_like(parameter, scale)
    assert METRICS["first_last_gradient_ratio"].function(model) == 3


def test_geometric_factor() -> None:
    assert geometric_factor([1.0, 2.0, 4.0, 8.0]) == pytest.approx(2)
    assert geometric_factor([1.0, 2.0, math.inf, 8.0, math.nan]) == pytest.approx(2)
    assert math.isnan(geometric_factor([1.0, 0.0]))


def test_a_look_at_a_cell_says_what_the_probe_of_each_says() -> None:
    models = [network(init, depth=3, activation="tanh") for init in ("kaiming_normal", "normal(1)")]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    data = Data("random", batch(), batch(), batch())
    looks = look(models, data, Recipe(epochs=1, lr=0.1, batch_size=32), norm="none")
    some = Split(*(part[:32] for part in data.train))
    for model, found, weights in zip(models, looks, before, strict=True):
        assert found == [*probe_at_init(model, some, norm="none"), step_memory(model, some)]
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    tame, wild = ({m.metric: m for m in found}["saturated_fraction"] for found in looks)
    assert tame.values[0] < wild.values[0], "larger weights saturate more units"


def test_of_very_deep_networks_some_layers_are_kept_and_no_memory_is_counted() -> None:
    model = network("kaiming_normal", width=8, depth=300)
    data = Data("random", batch(16), batch(16), batch(16))
    (found,) = look([model], data, Recipe(epochs=1, lr=0.1, batch_size=16), norm="none")
    kept = {m.metric: m for m in found}
    assert "step_memory" not in kept
    whole = {m.metric: m for m in probe_at_init(model, batch(16), norm="none")}
    layers = kept["second_moment"].axes["layer"]
    assert (len(layers), layers[0], layers[-1]) == (50, 1, 300)
    assert kept["second_moment"].values == [whole["second_moment"].values[layer - 1] for layer in layers]
    assert kept["forward_factor"] == whole["forward_factor"], "fitted to all layers"
