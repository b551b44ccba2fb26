"""What the experiments do with a whole cell, and with trials that did not get there."""

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from initbench_core.experiments import (
    Experiment,
    activation_bn,
    batch_norm_gradients,
    max_stable_lr,
    names,
    plain_depth,
    residual,
    saturating,
    steps_to_target,
    tanh_phase,
)
from initbench_core.networks.initialize import initialize_
from initbench_core.networks.models import plain_cnn
from initbench_core.presentation.finding import finding_of
from initbench_core.presentation.plots import style
from initbench_core.presentation.signs import signs
from initbench_core.records.schema import Emission, Measurement, Outcome, Record, scalar
from initbench_core.training.cell import Cell, cells, run_trial
from initbench_core.training.probing import look
from initbench_core.training.recipe import Recipe
from initbench_core.training.setting import Setting
from initbench_core.training.together import stack_size
from tests import tolerances

SMOKE = Setting(profile="smoke", seeds=2)
TOGETHER = [name for name in names() if Experiment(name).runs_together]


def comparable(emissions: list[Emission]) -> tuple[dict[str, list[float]], str | None]:
    numbers = {m.metric: list(m.values) for m in emissions if isinstance(m, Measurement) and not m.is_time}
    return numbers, next((e.name for e in emissions if isinstance(e, Outcome)), None)


@pytest.mark.parametrize("name", TOGETHER)
def test_a_cell_gives_each_seed_what_it_has_alone(name: str) -> None:
    experiment = Experiment(name)
    # The last of a grid: the first one of `bn_batch_size`, BatchNorm on two samples, amplifies any rounding.
    last = experiment.grid(SMOKE)[-1]
    cell = [replace(last, seed=seed) for seed in (0, 1)]
    for config, emissions in zip(cell, experiment.run_together(cell, SMOKE), strict=True):
        alone = run_trial(experiment, config, SMOKE, "alone")
        wanted = {m.metric: list(m.values) for m in alone.measurements if not m.is_time}
        found, outcome = comparable(list(emissions))
        assert outcome == (alone.outcome.name if alone.outcome else None)
        assert list(found) == list(wanted)
        for metric, values in wanted.items():
            assert found[metric] == pytest.approx(
                values, rel=tolerances.TOGETHER_RELATIVE, abs=tolerances.TOGETHER_ABSOLUTE, nan_ok=True
            ), metric


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("experiment", [plain_depth, residual, tanh_phase])
def test_the_weights_of_a_network_are_counted_without_building_it(experiment: Any) -> None:
    exact = 0.03 if experiment is residual else 0.0
    for config in experiment.grid(SMOKE):
        assert experiment.weights(config) == pytest.approx(count(experiment.prepare(config, SMOKE)[0]), rel=exact)


@pytest.mark.parametrize("name", [name for name in TOGETHER if name != "max_stable_lr"])
def test_every_job_of_the_full_profile_is_one_stack(name: str) -> None:
    """Judged by its deepest networks, as they are built; a search for rates calls `train_together` itself."""
    setting = Setting(profile="full", seeds=20)
    prepare = importlib.import_module(f"initbench_core.experiments.{name}").prepare
    largest: dict[object, tuple[int, Cell]] = {}
    for job in cells(Experiment(name), Experiment(name).grid(setting), setting, ""):
        fields = vars(job.configs[0])
        kind, depth = fields.get("norm", fields.get("variant")), fields.get("depth", fields.get("blocks", 0))
        # The first job of a cell is as large as any.
        if kind not in largest or depth > largest[kind][0]:
            largest[kind] = depth, job
    for _, job in largest.values():
        assert job.trials <= stack_size(count(prepare(job.configs[0], setting)[0]), "cpu")


def test_saturation_updates_and_memory_of_every_activation() -> None:
    experiment = Experiment("activation_bn")
    records = [run_trial(experiment, config, replace(SMOKE, seeds=1), "") for config in experiment.grid(SMOKE)[::2]]
    rows = activation_bn.table(records).set_index(["activation", "BatchNorm"])
    saturated = rows["saturated at the start (fraction)"]
    assert saturated["relu"].isna().all()
    # BatchNorm in front puts both on N(0, 1): |tanh| > 0.95 where |z| > 1.83, sigmoid outside 0.025 to 0.975 at 3.66.
    assert saturated["tanh", "before"] == pytest.approx(0.067, rel=0.1)
    assert saturated["sigmoid", "before"] < 0.001
    assert rows["update / weight"].between(1e-5, 0.1).all()
    assert rows["MiB a step"]["relu", "none"] < rows["MiB a step"]["relu", "before"] < 2


def test_signs_are_means_over_what_was_recorded() -> None:
    ratios = Measurement("update_ratio", "1", [0.01, 0.0001, math.nan], {"step": [1, 2, 3]})
    dead = Measurement("dead_fraction", "fraction", [0.0, 0.5], {"layer": [1, 2]})
    records = [
        Record("any", {"init": "a", "seed": 0}, "", [ratios, dead]),
        Record("any", {"init": "b", "seed": 0}, "", [scalar("test_loss", "nats", 1.0)]),
    ]
    found = signs(records, "init")
    assert found["a",] == {"dead units (fraction)": 0.25, "update / weight": pytest.approx(0.001)}
    assert found["b",] == {}
    assert signs(records[1:], "init")["b",] == {}


def test_seconds_to_a_target_count_who_did_not_get_there() -> None:
    """As the longest training of the configuration: one that diverges is short, and would look fast."""
    timed = [(1.0, 1.5), (2.0, 3.0), (math.inf, 6.0), (math.inf, 0.1)]
    records = [
        trial("any", {"init": "a", "seed": seed}, seconds_to_target=taken, train_seconds=spent, samples_per_second=10.0)
        for seed, (taken, spent) in enumerate(timed)
    ]
    (found,) = signs(records, "init").values()
    assert found["seconds to target"] == "at least 3.8 (reached by 2 of 4)"
    assert found["samples/s"] == pytest.approx(10)


def test_residual_networks_beside_the_law_of_their_blocks() -> None:
    """The law is of the mean over networks: the typical one without normalization stays below it."""
    grid = Experiment("residual").grid(replace(SMOKE, profile="quick"))
    ratios = {}
    for variant in ("none", "batch_norm", "fixup", "skip_init"):
        config = next(c for c in grid if (c.variant, c.blocks) == (variant, 30))
        (seen,) = residual._look(config, *_prepared(config))
        numbers = {m.metric: m.values for m in seen}
        ratios[variant] = numbers["block_factor_ratio"][0]
        assert len(numbers["block_second_moment_theory"]) == len(numbers["block_second_moment"]) == 31
    assert ratios["none"] == pytest.approx(0.96, abs=tolerances.RESIDUAL_RELATIVE)
    assert ratios["batch_norm"] == pytest.approx(1, abs=tolerances.RESIDUAL_RELATIVE)
    assert ratios["fixup"] == ratios["skip_init"] == pytest.approx(1)


def _prepared(config: residual.Config) -> tuple[list[nn.Module], Any, Any]:
    model, data, recipe = residual.prepare(config, SMOKE)
    return [model], data, recipe


def test_padded_convolutions_beside_the_law_of_their_pixels() -> None:
    """In the mean over networks. Without the borders it would be off by 0.18, without the pixels of no ink by 0.5."""
    data, ratios = SMOKE.data.load("digits5k"), []
    for seed in range(24):
        model = plain_cnn(64, 5, 10)
        initialize_(model, "kaiming_normal", seed=seed)
        (seen,) = look([model], data, Recipe(1, lr=0.1, batch_size=16))
        law = {m.metric: torch.tensor(m.values) for m in steps_to_target._beside_theory(model, data.train.x[:16], seen)}
        measured = {m.metric: torch.tensor(m.values) for m in seen}
        moments = ("second_moment", "gradient_second_moment")
        ratios.append(torch.cat([measured[moment] / law[f"{moment}_theory"] for moment in moments]))
        assert law["backward_factor_ratio"] == pytest.approx(1, abs=tolerances.PADDED)
    assert torch.stack(ratios).mean(dim=0).tolist() == pytest.approx([1.0] * 10, abs=tolerances.PADDED)


def test_a_search_tells_what_became_of_every_rate() -> None:
    config = max_stable_lr.Config("digits5k", "normal(1)", "none", 2, 16, 1, 2.0, seed=0)
    (emissions,) = max_stable_lr.run_together([config], SMOKE)
    columns = {m.metric: m for m in emissions if isinstance(m, Measurement) and "log2_rate" in m.axes}
    assert set(columns) == set(max_stable_lr.BY_RATE)
    rates = columns["works"].axes["log2_rate"]
    assert rates[0] == max_stable_lr.HIGHEST
    assert columns["diverges"].values[0] == 1, "large weights at a rate of 16"
    assert all(
        not (works and fails) for works, fails in zip(*(columns[c].values for c in ("works", "diverges")), strict=True)
    )
    assert all(speed > 0 for speed in columns["samples_per_second"].values)


def test_tanh_weights_have_the_variance_of_their_cell() -> None:
    config = tanh_phase.Config("digits5k", 2.25, 3, 300, 1, 0.01, seed=0)
    model, _, _ = tanh_phase.prepare(config, SMOKE)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in layers[:-1]:
        variance = layer.weight.var().item() * layer.in_features
        assert variance == pytest.approx(2.25, rel=2 * tolerances.SAMPLE_STD_RELATIVE)
    biases = torch.cat([layer.bias for layer in layers])
    # 910 biases know their variance within 5% (one standard error).
    assert biases.var().item() == pytest.approx(tanh_phase.SIGMA_B2, rel=0.2)


def test_a_depth_counts_as_trained_only_with_all_smaller_ones() -> None:
    for accuracies, depth in (((0.9, 0.2, 0.9), 5), ((0.9, 0.8, 0.7), 20), ((0.1, 0.1, 0.1), 0)):
        assert tanh_phase.trained_depth(pd.Series(accuracies, [5, 10, 20])) == depth


def test_sentence_table_and_map_of_tanh_networks_say_the_same() -> None:
    """At depth 8 most seeds train, though their mean is below the target."""
    accuracies = {4: (0.9,) * 5, 8: (0.55, 0.55, 0.55, 0.1, 0.1), 16: (0.1,) * 5}
    records = [
        trial(
            "tanh_phase", {"data": "digits5k", "sigma_w2": 1.0, "depth": depth, "width": 100, "seed": seed},
            final_train_accuracy=accuracy,
        )
        for depth, of_depth in accuracies.items() for seed, accuracy in enumerate(of_depth)
    ]  # fmt: skip
    row = tanh_phase.table(records).iloc[0]
    assert (row["trained depth of most seeds"], row["lowest"], row["highest"]) == (8, 4, 8)
    assert "8 at 1 (6 xi: over 16)" in " ".join(tanh_phase.findings(records))
    # 6 xi is 22 layers: right at 4 and 8.
    assert tanh_phase.agreement(records) == (2, 3)
    with style():
        (axes,) = tanh_phase.figures(records)["phase"].axes
    assert [text.get_text() for text in axes.texts] == ["0.90", "0.55", "0.10"]


def trial(experiment: str, config: dict[str, Any], **numbers: float) -> Record:
    return Record(experiment, config, "identity", [scalar(name, "1", value) for name, value in numbers.items()])


def searches(rate: Callable[[str, str, int], float]) -> list[Record]:
    """Searches of five seeds at depth 3, each with the rate (init, norm, seed) that it found."""
    return [
        trial(
            "max_stable_lr", {"data": "digits5k", "depth": 3, "init": init, "norm": norm, "seed": seed},
            largest_rate=rate(init, norm, seed),
        )
        for seed in range(5) for init in max_stable_lr.INITS for norm in max_stable_lr.NAMES
    ]  # fmt: skip


def test_a_search_without_a_rate_makes_its_ratio_a_bound() -> None:
    def rate(init: str, norm: str, seed: int) -> float:
        return 0.0 if (init, norm) == ("torch_default", "none") else 4.0 if norm == "before" else 0.25

    records = searches(rate)
    rows = max_stable_lr.table(records).set_index(["init", "BatchNorm"])
    assert rows["times no BatchNorm"]["kaiming_normal", "before"] == "16 (95% 16 to 16)"
    assert rows["separated"]["kaiming_normal", "before"] == "yes"
    assert rows["separated"]["kaiming_normal", "after"] == "no"
    assert rows["some rate works"]["torch_default", "none"] == "0 of 5"
    assert rows["times no BatchNorm"]["torch_default", "before"].startswith("at least 1.64e+04 (95%")
    assert "at least 1.64e+04 (95% 1.64e+04 to 1.64e+04) for torch_default (at least 4.2 decades)" in " ".join(
        max_stable_lr.findings(records)
    )


def test_a_larger_rate_is_what_batch_norm_adds_only_where_the_interval_says_so() -> None:
    raised = searches(lambda init, norm, seed: 4.0 if norm == "before" else 0.25)
    mixed = searches(lambda init, norm, seed: (4.0, 0.0625)[seed % 2] if norm == "before" else 0.25)
    lowered = searches(lambda init, norm, seed: 0.0625 if norm == "before" else 0.25)
    (adds,), (open_,), (harms,) = (list(max_stable_lr.claims(records)) for records in (raised, mixed, lowered))
    assert (adds.chapter, adds.measured_text) == ("batch_norm_adds", "16 (95% 16 to 16)")
    assert open_.chapter == harms.chapter == "batch_norm_does_not_help"
    assert open_.measured_text.startswith("parity")
    assert "by parity (95%" in next(iter(max_stable_lr.findings(mixed)))


@pytest.mark.parametrize(("with_it", "chapter"), [(5, "batch_norm_adds"), (2, "batch_norm_does_not_help")])
def test_batch_norm_adds_to_residual_networks_where_fractions_are_apart(with_it: int, chapter: str) -> None:
    reached = {"none": 0, "batch_norm": with_it, "fixup": 5, "skip_init": 5}
    records = [
        replace(
            trial(
                "residual", {"data": "digits5k", "variant": variant, "blocks": 100, "lr": 0.01, "seed": seed},
                test_accuracy=0.8, best_validation_loss=0.5,
            ),
            outcome=Outcome("trained" if seed < count else "slow"),
        )
        for variant, count in reached.items() for seed in range(5)
    ]  # fmt: skip
    chapters = [claim.chapter for claim in residual.claims(records)]
    assert chapters == ["initialization", chapter, "initialization", "initialization"]


def test_fewer_steps_are_what_batch_norm_adds_only_where_the_interval_says_so() -> None:
    chapters = {}
    for taken in (100.0, 800.0, math.inf):
        steps = {arm: taken if arm == ("before", 5) else 800.0 for arm in steps_to_target.ARMS}
        steps["none", 5] = math.inf
        records = [of_steps(arm, seed, of_arm) for arm, of_arm in steps.items() for seed in range(5)]
        chapters[taken] = [claim.chapter for claim in steps_to_target.claims(records)]
    assert chapters[100] == ["batch_norm_adds", "batch_norm_adds"]
    # The raised rate works with BatchNorm alone, and saves nothing.
    assert chapters[800] == ["batch_norm_does_not_help", "batch_norm_adds"]
    assert chapters[math.inf] == ["batch_norm_does_not_help", "batch_norm_does_not_help"]


def of_steps(arm: tuple[str, int], seed: int, steps: float) -> Record:
    config = {"data": "digits5k", "norm": arm[0], "times": arm[1], "epochs": 20, "seed": seed}
    record = trial("steps_to_target", config, steps_to_target=steps, epochs_to_target=steps / 50)
    return replace(record, outcome=Outcome("slow"))


def test_a_censored_baseline_makes_the_ratio_of_steps_a_bound() -> None:
    steps = {("none", 1): (800.0, math.inf), ("none", 5): (math.inf, math.inf), ("before", 1): (400.0, 400.0)}
    steps |= {("before", 5): (200.0, 100.0), ("before", 30): (200.0, 200.0)}
    records = [of_steps(arm, seed, taken) for arm, of_seeds in steps.items() for seed, taken in enumerate(of_seeds)]
    rows = steps_to_target.table(records).set_index("arm")
    # The censored trial counts as the budget of 1,000 steps: (800 + 1000) / (200 + 100).
    assert rows["times fewer than the baseline"]["BatchNorm, rate x5"] == "at least 6 (no interval)"
    assert rows["times fewer than the baseline"]["no BatchNorm, rate x5"] == "not known"
    assert rows["steps (restricted mean)"]["no BatchNorm, rate x1"] == "at least 900 (reached by 1 of 2)"
    assert "at least 6" in next(iter(steps_to_target.findings(records)))


def test_a_network_that_never_gets_there_makes_its_ratio_a_bound_in_claims_and_tables() -> None:
    """Sigmoid networks of which none reaches the target without BatchNorm, and plain ones at two depths."""
    sigmoid = [
        replace(record, measurements=[*record.measurements, Measurement("train_loss", "nats", [1.0], {"step": [540]})])
        for init in saturating.INITS for norm, steps in (("none", math.inf), ("before", 108.0)) for seed in range(5)
        if (record := trial(
            "saturating", {"data": "digits5k", "init": init, "norm": norm, "followed": False, "seed": seed},
            steps_to_target=steps, test_accuracy=0.9,
        ))
    ]  # fmt: skip
    claims = [(claim.chapter, claim.measured_text) for claim in saturating.claims(sigmoid)]
    assert claims == [("batch_norm_adds", "at least 5.00 (95% 5.00 to 5.00)")] * 3
    steps = {(20, "kaiming_normal", "none"): 170.0, (20, "normal(1)", "none"): math.inf, (20, "lsuv", "none"): 85.0}
    steps |= {(50, "kaiming_normal", norm): math.inf for norm in ("none", "before")}
    factors = {f"{way}_factor{of}": 1.0 for way in ("forward", "backward") for of in ("", "_ratio")}
    plain = [
        replace(
            trial(
                "plain_depth",
                {"data": "digits5k", "init": init, "norm": norm, "depth": depth, "epochs": 5, "seed": seed},
                steps_to_target=taken, best_validation_accuracy=0.9, test_accuracy=0.9, **factors,
            ),
            outcome=Outcome("trained" if math.isfinite(taken) else "slow"),
        )
        for (depth, init, norm), taken in steps.items() for seed in range(5)
    ]  # fmt: skip
    rows = plain_depth.table(plain).set_index(["depth", "initializer", "BatchNorm"])
    assert rows["times Kaiming's without"].to_dict() == {
        (20, "kaiming_normal", "none"): "-",
        (20, "lsuv", "none"): "0.5 (95% 0.5 to 0.5)",
        (20, "normal(1)", "none"): "at least 1.47 (95% 1.47 to 1.47)",
        (50, "kaiming_normal", "none"): "-",
        (50, "kaiming_normal", "before"): "not known",
    }
    assert rows["separated"].tolist() == ["-", "yes", "yes", "-", "no"]
    # What is not reached is not reached within a budget: 5 epochs of 3,200 images in batches of 64.
    sentences = [*plain_depth.findings(plain), *(claim.sentence for claim in plain_depth.claims(plain))]
    reaching = [sentence for sentence in sentences if "reach " in sentence or "Wilson" in sentence]
    assert len(reaching) == 7
    assert all("within 250 steps" in sentence for sentence in reaching)
    # Each place by its name: "none" would be read as no cell at all.
    (steps,) = [sentence for sentence in sentences if sentence.startswith("Steps to 70%")]
    assert "fewer for lsuv with no BatchNorm; more for normal(1) with no BatchNorm; 0 of 2 are not separated" in steps
    (accuracy,) = [sentence for sentence in sentences if sentence.startswith("Test accuracy")]
    assert "lower nowhere; higher nowhere; 2 of 2 are not separated" in accuracy


def test_the_signal_is_held_against_the_theory_of_its_width() -> None:
    """The sentence, as the claims: at infinite width the factor at He's variance would be 1, outside the interval."""
    experiment = Experiment("signal_propagation")
    records = [run_trial(experiment, config, SMOKE, "") for config in experiment.grid(SMOKE)]
    forward, backward = experiment.findings(records)
    for claim in experiment.claims(records):
        assert f"{claim.theory:.3g}, " in forward
    assert backward.endswith("theory's 0.975.")


def test_the_figure_of_gradients_says_what_training_did_to_them() -> None:
    """By gradients invented for the networks that it shows: so many times as large from layer to layer."""
    experiment, factors = Experiment("batch_norm_gradients"), {("none", 0): 1, ("before", 0): 1.5, ("none", 1): 2}
    records = []
    for config in experiment.grid(SMOKE):
        record = run_trial(experiment, config, SMOKE, "")
        if config.part == "training":
            factor = factors.get((config.norm, config.epochs), 3)
            layers = list(range(1, 11))
            grown = Measurement("gradient_second_moment", "1", [factor**-layer for layer in layers], {"layer": layers})
            others = [m for m in record.measurements if m.metric != grown.metric]
            record = replace(record, measurements=[*others, grown])
        records.append(record)
    sentence = finding_of("gradients", list(batch_norm_gradients.findings(records)))
    assert "relu at the start 1.00 (95% 1.00 to 1.00) and 1.50 (95% 1.50 to 1.50)" in sentence
    assert "relu after 1 epochs 2.00 (95% 2.00 to 2.00) and 3.00 (95% 3.00 to 3.00)" in sentence
    assert "elu after 1 epochs" in sentence
    assert "sigmoid" not in sentence
