"""Every experiment runs, records strict JSON, draws, reports; and twice the same."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from matplotlib.axis import Axis
from matplotlib.text import Text

from initbench_core.experiments import Experiment, names
from initbench_core.presentation.finding import Finding
from initbench_core.presentation.plots import say, style
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.schema import Outcome, Record
from initbench_core.records.store import read
from initbench_core.runner import run_experiments
from initbench_core.training.cell import run_trial
from initbench_core.training.setting import Setting
from tests.initbench_core.experiments.test_grids import STUDY


@pytest.fixture(autouse=True)
def _deterministic_again() -> Iterator[None]:
    """The runner asks torch for determinism; other tests have not."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    """One smoke run of everything."""
    out = tmp_path_factory.mktemp("results")
    run_experiments([Experiment(name) for name in names()], profile="smoke", device="cpu", seeds=2, out=out)
    return ResultsFolder(out)


def records(results: ResultsFolder, name: str) -> list[Record]:
    return read(results.records(RunName(name, "smoke", "cpu"))).records


@pytest.mark.parametrize("name", names())
def test_it_records_every_trial_of_its_grid(results: ResultsFolder, name: str) -> None:
    planned = Experiment(name).grid(Setting(profile="smoke", seeds=2))
    assert len(records(results, name)) == len(planned) == len(set(planned))
    assert results.manifest(RunName(name, "smoke", "cpu"))["finished"] is True


@pytest.mark.parametrize("name", names())
def test_what_it_trains_has_a_target(results: ResultsFolder, name: str) -> None:
    """Without one "trained" would be whatever does not stall."""
    for record in records(results, name):
        if record.outcome:
            assert any(m.metric == "steps_to_target" for m in record.measurements)
            assert record.outcome.name != "learned"


# What each network of the study is looked at for; those of a search are not trained to a target.
AT_THE_START = {
    "second_moment", "variance", "gradient_second_moment", "gradient_variance", "forward_factor", "backward_factor",
    "first_last_gradient_ratio", "dead_fraction", "always_on_fraction", "mean_cosine", "step_memory",
}  # fmt: skip
BESIDE_THEORY = {
    "second_moment_theory", "gradient_second_moment_theory", "forward_factor_ratio", "backward_factor_ratio",
}  # fmt: skip
TRAINED = {
    "steps_to_target", "epochs_to_target", "seconds_to_target", "train_loss", "final_train_loss", "test_loss",
    "best_validation_loss", "best_validation_accuracy", "final_train_accuracy", "test_accuracy",
    "update_ratio", "samples_per_second",
}  # fmt: skip
BOUNDED = {"saturating", "glorot_columns", "tanh_phase", "activation_bn"}


@pytest.mark.parametrize("name", STUDY)
def test_every_network_of_the_study_is_looked_at(results: ResultsFolder, name: str) -> None:
    wanted = AT_THE_START | (TRAINED if name != "max_stable_lr" else set())
    wanted |= {"works", "diverges", "samples_per_second"} if name == "max_stable_lr" else set()
    # A residual network's own law is by block.
    wanted |= BESIDE_THEORY if name != "residual" else {"block_second_moment_theory", "block_factor_ratio"}
    wanted |= {"saturated_fraction"} if name in BOUNDED else set()
    cells: dict[str, set[str]] = {}
    for record in records(results, name):
        # Of several rates one tells the start.
        cell = str({field: value for field, value in record.config.items() if field not in ("lr", "seed")})
        cells.setdefault(cell, set()).update(m.metric for m in record.measurements)
        if record.config.get("activation") in ("relu", "leaky_relu", "elu", "gelu"):
            cells[cell].add("saturated_fraction")
    for cell, found in cells.items():
        # There is no law for padded convolutions with BatchNorm.
        has_law = name != "steps_to_target" or "'norm': 'none'" in cell
        missing = (wanted if has_law else wanted - BESIDE_THEORY) - found
        assert not missing, (cell, missing)


@pytest.mark.parametrize("name", names())
def test_its_lines_are_strict_json(results: ResultsFolder, name: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for line in results.records(RunName(name, "smoke", "cpu")).read_text().splitlines():
        assert json.loads(line, parse_constant=refuse)["measurements"]


@pytest.mark.parametrize("name", names())
def test_its_findings_name_figures_that_it_draws(results: ResultsFolder, name: str) -> None:
    experiment, found = Experiment(name), records(results, name)
    with style():
        figures = set(experiment.figures(found))
    named = {
        figure
        for sentence in experiment.findings(found)
        if isinstance(sentence, Finding)
        for figure in sentence.figures
    }
    assert named <= figures
    assert figures == {path.name.split("-")[1] for path in results.figures.glob(f"{name}-*-smoke-cpu.png")}


@pytest.mark.parametrize("name", names())
def test_its_figures_cut_no_words_off(results: ResultsFolder, name: str) -> None:
    """Titles, axis labels and legends lie within the figure; the layout makes room for tick labels alone."""
    with style():
        for figure in Experiment(name).figures(records(results, name)).values():
            say(figure, "A finding.", "An origin.")
            figure.set_dpi(130)
            figure.canvas.draw()
            ticks = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _labels(axis)}
            for text in figure.findobj(Text):
                box = text.get_window_extent()
                inside = figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
                inside = inside and figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)
                assert inside or text in ticks or not text.get_text(), text


def _labels(axis: Axis) -> list[Text]:
    return [label for tick in (*axis.majorTicks, *axis.minorTicks) for label in (tick.label1, tick.label2)]


@pytest.mark.parametrize("name", names())
def test_it_draws_and_reports(results: ResultsFolder, name: str) -> None:
    figures = list(results.figures.glob(f"{name}-*-smoke-cpu.png"))
    assert figures
    report = (results.path / "README.md").read_text()
    assert f"## {name} (smoke, cpu)" in report
    assert all(f"](figures/{figure.name})" in report for figure in figures)


@pytest.mark.parametrize("name", names())
def test_it_states_question_expectation_and_source(name: str) -> None:
    experiment = Experiment(name)
    assert len(experiment.title) < 90
    for part in ("Question:", "Expected:", "Source:"):
        assert part in experiment.question


@pytest.mark.parametrize("name", names())
def test_it_is_short(name: str) -> None:
    assert len(Experiment(name).source.read_text().splitlines()) <= 260


@pytest.mark.parametrize("name", ["toy_regression", "mnist_cnn", "signal_propagation", "batch_norm_gradients"])
def test_the_same_seed_gives_the_same_records(results: ResultsFolder, name: str) -> None:
    config = Experiment(name).grid(Setting(profile="smoke", seeds=2))[-1]
    again = run_trial(Experiment(name), config, Setting(profile="smoke", seeds=2), "again")
    (before,) = (r for r in records(results, name) if r.key == again.key)

    def plain(record: Record) -> list[tuple[str, list[float]]]:
        steady = [m for m in record.measurements if not m.is_time]
        return [(m.metric, [float(f"{v:.9g}") for v in m.values]) for m in steady]

    assert plain(again) == plain(before)
    assert again.outcome == before.outcome


@pytest.mark.parametrize("name", names())
def test_one_seed_gives_no_interval_and_no_verdict(results: ResultsFolder, name: str) -> None:
    single = [r for r in records(results, name) if r.config.get("seed", 0) in (0, 42)]
    experiment = Experiment(name)
    text = " ".join([*experiment.findings(single), *(claim.measured_text for claim in experiment.claims(single))])
    assert "nan" not in text
    assert ": decided" not in text
    experiment.table(single)
    with style():
        experiment.figures(single)


@pytest.mark.parametrize("name", names())
def test_it_survives_when_everything_diverged(results: ResultsFolder, name: str) -> None:
    losses = ("final_train_loss", "best_validation_loss", "test_loss", "test_accuracy", "validation_loss")

    def diverged(record: Record) -> Record:
        if record.outcome is None:
            return record
        measurements = [
            replace(m, values=[math.nan] * len(m.values)) if m.metric in losses else m for m in record.measurements
        ]
        return replace(record, outcome=Outcome("diverged", 2), measurements=measurements)

    fallen = [diverged(r) for r in records(results, name)]
    experiment = Experiment(name)
    assert experiment.findings(fallen)
    assert all("nan" not in claim.measured_text for claim in experiment.claims(fallen))
    experiment.table(fallen)
    with style():
        experiment.figures(fallen)


def test_nothing_is_left_behind(results: ResultsFolder) -> None:
    assert not list(results.checkpoints.glob("*"))
    assert not list(results.runs.glob(".*"))
    assert not list(results.runs.glob("*.damaged"))


def test_names_are_files() -> None:
    assert "toy_regression" in names()
    assert names() == sorted(names())


def test_every_table_is_there_as_csv(results: ResultsFolder) -> None:
    assert sorted(p.stem for p in results.tables.glob("*.csv")) == [f"{name}-smoke-cpu" for name in names()]
