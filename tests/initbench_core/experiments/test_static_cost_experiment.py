"""The experiment `static_cost`: a changed kernel is a regression, and without Triton it says so and goes on."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest

from initbench_core.comparison.changes import compare
from initbench_core.comparison.sources import Run
from initbench_core.experiments import Experiment, static_cost
from initbench_core.records.schema import Record
from initbench_core.training.cell import run_trial
from initbench_core.training.setting import Setting

BUILD = static_cost.Config("dx-rows_64-bf16", "sm_90")
FILLS = static_cost.Config("random_fill", static_cost.INTERPRETER)


def record(config: static_cost.Config) -> Record:
    return run_trial(Experiment("static_cost"), config, Setting(), "me")


def verdicts(a: Record, b: Record) -> dict[str, str]:
    """Compare two runs of one trial; what did not change is left out."""
    runs = tuple(Run(Path("runs"), "static_cost", [side], {}) for side in (a, b))
    found = compare([runs], min_difference=0.5)  # type: ignore[list-item]
    return {change.metric: change.verdict for change in found if change.verdict != "same"}


def changed(before: Record, metric: str, factor: float) -> Record:
    """Return the record with one metric at another value."""
    assert metric in {m.metric for m in before.measurements}
    measurements = [
        dataclasses.replace(m, values=[factor * v for v in m.values]) if m.metric == metric else m
        for m in before.measurements
    ]
    return dataclasses.replace(before, measurements=measurements)


def test_a_spilling_build_is_a_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starved of registers it has fewer of them, and spills; nothing here has noise, so no change is too small."""
    pytest.importorskip("triton")
    before = record(BUILD)
    assert not verdicts(before, record(BUILD))
    starved = [dataclasses.replace(b, options={"maxnreg": 32}) for b in static_cost.builds() if b.name == BUILD.name]
    monkeypatch.setattr(static_cost, "builds", lambda: iter(starved))
    after = record(BUILD)
    found = verdicts(before, after)
    assert found["spill_bytes"] == "worse"
    assert found["registers"] == "better"
    assert verdicts(after, before)["spill_bytes"] == "better"
    (finding, *_) = static_cost.findings([after])
    assert "these spill registers: dx-rows_64-bf16 on sm_90; these access" in finding
    assert static_cost.table([after])["spilled bytes"][0] > 0


@pytest.mark.parametrize(
    ("metric", "worse", "better"),
    [("registers", 1.01, 0.99), ("shared_bytes", 2, 0.5), ("accesses", 1.01, 0.99), ("access_bits", 0.5, 2)],
)
def test_each_number_of_a_build_has_a_direction(metric: str, worse: float, better: float) -> None:
    pytest.importorskip("triton")
    before = record(BUILD)
    assert verdicts(before, changed(before, metric, worse)) == {metric: "worse"}
    assert verdicts(before, changed(before, metric, better)) == {metric: "better"}


def test_one_more_pass_is_a_regression() -> None:
    """Run by run, in bytes and in launches."""
    pytest.importorskip("triton")
    before = record(FILLS)
    runs = "random_fill-many_tensors", "random_fill-one_tensor"
    for metric in ("bytes_per_element", "launches"):
        assert verdicts(before, changed(before, metric, 2)) == {f"{metric}[{name}]": "worse" for name in runs}
    assert static_cost.table([before])["launches"].tolist() == [1, 1]


def test_a_narrow_access_is_named() -> None:
    pytest.importorskip("triton")
    narrow = changed(record(BUILD), "access_bits", 0.5)
    (finding, *_) = static_cost.findings([narrow])
    assert finding.endswith("than alignment permits: dx-rows_64-bf16 on sm_90.")


def test_the_targets_are_told_beneath_the_figure() -> None:
    """Not among its points: builds of four targets leave no room."""
    pytest.importorskip("triton")
    built = record(BUILD)
    others = [dataclasses.replace(built, config={**built.config, "target": target}) for target in static_cost.TARGETS]
    figure = static_cost.figures([*others, record(FILLS)])["costs"]
    assert not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(static_cost.TARGETS)


def test_full_is_every_build_for_every_target() -> None:
    pytest.importorskip("triton")
    names = {build.name for build in static_cost.builds()}

    def grid(profile: str) -> Sequence[static_cost.Config]:
        return Experiment("static_cost").grid(Setting(profile=profile))

    counted = {static_cost.Config(name, static_cost.INTERPRETER) for name in ("batch_norm_relu", "random_fill")}
    assert set(grid("full")) == counted | {static_cost.Config(n, t) for n in names for t in static_cost.TARGETS}
    quick = set(grid("quick")) - counted
    # Each of the five kernels; `make run` waits for them.
    assert {config.name.partition("-")[0] for config in quick} == {
        "stats", "normalize_train", "reduce_train", "dx", "random_fill",
    }  # fmt: skip
    assert len(quick) == 13


def test_without_triton_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else find_spec(name, *rest)
    )
    experiment = Experiment("static_cost")
    records = [record(config) for config in experiment.grid(Setting())]
    assert [r.notes for r in records] == [[static_cost.MISSING]] * 2
    assert experiment.findings(records) == [static_cost.MISSING]
    assert experiment.table(records).empty
    assert not experiment.figures(records)
