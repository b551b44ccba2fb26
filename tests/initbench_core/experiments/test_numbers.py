"""The seed documents' numbers, reproduced: each with its tolerance's reason in tests/tolerances.py."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from initbench_core.experiments import Experiment, batch_norm_gradients, plain_depth, signal_propagation, toy_regression
from initbench_core.experiments import depth_forward as depth
from initbench_core.experiments import initializer_moments as moments
from initbench_core.networks.theory import batch_norm_gradient_growth, relu_growth
from initbench_core.records.frame import tidy
from initbench_core.records.schema import Record
from initbench_core.training.cell import run_trial
from initbench_core.training.setting import Setting
from tests import tolerances

QUICK = Setting(profile="quick", seeds=1)


def run(name: str, config: object) -> Record:
    return run_trial(Experiment(name), config, QUICK, "test")


def notebook(arm: str) -> Record:
    (config,) = (c for c in Experiment("toy_regression").grid(QUICK) if c.arm == arm)
    return run("toy_regression", config)


def prints(record: Record) -> Sequence[float]:
    """Training loss at steps 200, 400, ..., 2000, as the notebook prints it."""
    (curve,) = (m for m in record.measurements if m.metric == "train_loss")
    by_step = dict(zip(curve.axes["step"], curve.values, strict=True))
    return [by_step[step] for step in range(200, 2001, 200)]


def single(record: Record, metric: str) -> float:
    (found,) = (m for m in record.measurements if m.metric == metric)
    return found.values[0]


def test_large_weights_diverge_at_the_second_step() -> None:
    record = notebook("large")
    assert record.outcome is not None
    assert (record.outcome.name, record.outcome.first_bad_step) == ("diverged", 2)
    (curve,) = (m for m in record.measurements if m.metric == "train_loss")
    assert curve.values[0] == pytest.approx(1.11e13, rel=0.01)
    assert curve.values[1] == math.inf
    assert math.isnan(curve.values[2])


def test_small_weights_stall_at_the_notebooks_ten_prints() -> None:
    record = notebook("small")
    expected = [10.2456, 10.2455, 10.2454, 10.2454, 10.2454, 10.2454, 10.2453, 10.2453, 10.2452, 10.2452]
    assert prints(record) == pytest.approx(expected, abs=tolerances.NOTEBOOK_STALLED)
    assert record.outcome is not None
    assert record.outcome.name == "stalled"
    assert single(record, "constant_loss") == pytest.approx(10.2456, abs=tolerances.NOTEBOOK_STALLED)
    assert single(record, "least_squares_loss") == pytest.approx(1.0626, abs=tolerances.NOTEBOOK_STALLED)


def test_batch_norm_trains_along_the_notebooks_prints() -> None:
    record = notebook("batch_norm")
    expected = [1.0121, 1.0050, 1.0016, 0.9983, 0.9974, 0.9959, 0.9969, 0.9935]
    assert prints(record)[:8] == pytest.approx(expected, abs=tolerances.NOTEBOOK_BATCH_NORM)
    # It is overfitting: training goes below what a straight line can do, the held-out loss does not.
    assert single(record, "final_train_loss") < single(record, "least_squares_loss") < single(record, "test_loss")


@pytest.mark.parametrize(
    ("init", "norm", "name"),
    [("kaiming_normal", "none", "trained"), ("normal(10)", "before", "diverged"), ("normal(1)", "none", "diverged")],
)
def test_the_cells_that_the_notebook_left_out(init: str, norm: str, name: str) -> None:
    outcome = run("toy_regression", toy_regression.Config("factorial", init, norm, 300, 42)).outcome
    assert outcome is not None
    assert outcome.name == name


@pytest.mark.parametrize(
    ("dtype", "base", "power"),
    [
        ("float16", 10.0, 5),
        ("bfloat16", 10.0, 39),
        ("float32", 10.0, 39),
        ("float64", 10.0, 309),
        ("float16", 0.1, 8),
        ("bfloat16", 0.1, 41),
        ("float32", 0.1, 46),
        ("float64", 0.1, 324),
    ],
)
def test_overflow_powers(dtype: str, base: float, power: int) -> None:
    (config,) = (c for c in Experiment("overflow").grid(QUICK) if (c.dtype, c.base) == (dtype, base))
    record = run("overflow", config)
    assert abs(single(record, "limit_power") - power) <= 1
    last = next(m for m in record.measurements if m.metric == "product").values[-1]
    assert last == (math.inf if base > 1 else 0.0)


def test_princes_figure_and_its_law() -> None:
    configs = Experiment("signal_propagation").grid(QUICK)
    frame = tidy([run("signal_propagation", config) for config in configs])
    for variance in signal_propagation.VARIANCES:
        expected = relu_growth(100, variance)
        for metric in ("activation_variance", "gradient_variance"):
            factor, _, _ = signal_propagation.per_layer_factor(frame, metric, variance)
            assert factor / expected == pytest.approx(1, abs=tolerances.PER_LAYER_FACTOR)
    # ReLU homogeneity: the same networks at another scale are an exact rescaling.
    wide = frame[frame["metric"] == "activation_variance"].pivot(
        index=["draw", "layer"], columns="variance", values="value"
    )
    layers = wide.index.get_level_values("layer").to_numpy()
    np.testing.assert_allclose(wide[0.1] / wide[0.02], 5.0**layers, rtol=1e-10)


def test_tied_layers_drift_and_fresh_ones_do_not() -> None:
    spread = {}
    for arm in ("tied", "fresh"):
        record = run("depth_forward", depth.Config(arm, "he", draws=30))
        frame = tidy([record])
        final = frame[(frame["metric"] == "std") & (frame["layer"] == 49)]["value"]
        spread[arm] = float(np.log(final).std())
    # Theory and 60-network runs say 0.35 and 2.0; 30 networks know a spread within 13% (one standard error).
    assert 0.2 < spread["fresh"] < 0.5
    assert 1.3 < spread["tied"] < 2.8


def test_std_one_overflows_float32_near_layer_30() -> None:
    frame = tidy([run("depth_forward", depth.Config("fresh", "one", draws=5))])
    std = frame[frame["metric"] == "std"]
    assert std[std["layer"] == 20]["value"].between(1e24, 1e26).all()
    first = std[~np.isfinite(std["value"])].groupby("draw")["layer"].min()
    assert len(first) == 5
    assert first.between(28, 33).all()


def test_the_variance_of_a_product_is_its_width() -> None:
    values = next(iter(run("depth_forward", depth.Config("product", "one", draws=200, layers=1)).measurements)).values
    # The sampling deviation of one such variance is about 45 (32 from x, 32 from the entries): 3.2 for the mean of 200.
    assert np.mean(values) == pytest.approx(512, abs=16)


@pytest.mark.parametrize("layer", list(moments.LAYERS))
def test_the_lectures_bound_is_three_times_the_variance(layer: str) -> None:
    for scheme, expected in (("xavier_uniform", 1.0), (moments.LECTURE, 3.0)):
        record = run("initializer_moments", moments.Config("moments", scheme, layer, "", 0))
        by_name = {m.metric: np.array(m.values) for m in record.measurements}
        ratio = by_name["second_moment"] / by_name["rms_formula"] ** 2
        assert ratio == pytest.approx(expected, rel=tolerances.MOMENT_RATIO)


@pytest.mark.parametrize("activation", batch_norm_gradients.GROWTH_ACTIVATIONS)
def test_batch_norm_makes_gradients_grow_by_rho(activation: str) -> None:
    config = batch_norm_gradients.Config("growth", "", activation, "before", 20, 512, 512, 0, 0)
    rows = batch_norm_gradients.growth([run("batch_norm_gradients", config)])
    assert rows["growth per layer"][0] == pytest.approx(
        batch_norm_gradient_growth(activation), rel=tolerances.RHO_RELATIVE
    )


def test_without_batch_norm_he_keeps_gradients_in_scale() -> None:
    config = batch_norm_gradients.Config("growth", "", "relu", "none", 20, 512, 512, 0, 0)
    assert batch_norm_gradients.growth([run("batch_norm_gradients", config)])["growth per layer"][0] == pytest.approx(
        1.0, abs=tolerances.RHO_RELATIVE
    )


@pytest.mark.parametrize(
    ("init", "norm", "name"),
    [
        ("kaiming_normal", "none", "trained"),
        ("torch_default", "none", "stalled"),
        ("torch_default", "before", "trained"),
        ("normal(1)", "none", "diverged"),
    ],
)
def test_initialization_decides_at_depth_20_and_batch_norm_rescues(init: str, norm: str, name: str) -> None:
    config = plain_depth.Config("digits5k", init, norm, depth=20, epochs=5, stops=True, seed=0)
    record = run("plain_depth", config)
    assert record.outcome is not None
    assert record.outcome.name == name
    # The network as it starts, beside mean-field theory for its own weights.
    assert single(record, "forward_factor_ratio") == pytest.approx(1, abs=tolerances.DEPTH_20_FACTOR)
    assert single(record, "backward_factor_ratio") == pytest.approx(1, abs=tolerances.DEPTH_20_FACTOR)
