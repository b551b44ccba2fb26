"""`initbench compare`: regressions are found, noise is not, and what cannot be compared is refused."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import as_if_interrupted
from scipy import stats

from initbench_core import cli
from initbench_core.comparison.changes import FALSE_ALARM_RATE, compare
from initbench_core.comparison.judgement import Change, holm
from initbench_core.comparison.rules import rule_for
from initbench_core.comparison.sources import Run, pairs
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.schema import Failure, Measurement, Outcome, Record, scalar, to_line
from initbench_core.records.store import RecordFile

RUN = RunName("toy", "quick", "cpu")
ENVIRONMENT = {
    "device": "cpu", "device_name": "a processor", "cores": 2, "threads": 1, "packages": {"torch": "2.15.0"},
    "platform": "Linux", "python": "3.11", "cuda": None, "commit": None, "dirty": False,
}  # fmt: skip
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `initbench compare` in this process; return its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["initbench", "compare", *map(str, arguments)])
        return cli.main(), *capsys.readouterr()

    return run


def trial(seed: int, *measurements: Measurement, outcome: str | None = None, **config: Any) -> Record:
    ending = Outcome(outcome) if outcome else None
    return Record("toy", {**config, "seed": seed}, "me", measurements, ending)


def write(path: Path, records: Sequence[Record], run: RunName = RUN, **changed: Any) -> Path:
    """Record a run in a results folder; `changed` goes to its environment. Return the file."""
    folder = ResultsFolder(path)
    folder.prepare()
    manifest = {"trials": len(records), "environment": {**ENVIRONMENT, **changed}}
    file = RecordFile(folder.records(run), "me", manifest)
    for record in records:
        file.append(record)
    file.finish()
    return folder.records(run)


def judge(tmp_path: Path, a: Sequence[Record], b: Sequence[Record], min_difference: float = 0.05) -> list[Change]:
    """Compare two lists of records."""
    files = [write(tmp_path / name, records) for name, records in (("a", a), ("b", b))]
    return compare(pairs(*map(str, files), tmp_path), min_difference=min_difference)


def verdicts(changes: Sequence[Change]) -> dict[str, str]:
    return {change.metric: change.verdict for change in changes}


def times(generator: np.random.Generator, factor: float = 1.0, metric: str = "fused_ms", n: int = 20) -> Measurement:
    """Invent times around 1 ms with 3% of noise and some outliers upwards, as a busy machine makes them."""
    logs = generator.normal(0, 0.03, n) + np.where(generator.random(n) < 0.1, generator.exponential(0.5, n), 0)
    return Measurement(metric, "ms", (factor * np.exp(logs)).tolist(), {"round": list(range(n))})


def test_a_slow_down_is_found_and_noise_is_not(tmp_path: Path, call: Call) -> None:
    generator = np.random.default_rng(0)
    factors = {"small": 1.0, "large": 1.4, "quick": 0.7}
    a = [trial(0, times(generator), shape=shape) for shape in factors]
    b = [trial(0, times(generator, factor), shape=shape) for shape, factor in factors.items()]
    files = [write(tmp_path / name, records) for name, records in (("a", a), ("b", b))]
    code, output, errors = call(*files)
    assert (code, errors) == (1, "")
    rows = [line.split() for line in output.splitlines()]
    assert ["worse", "toy", "shape=large", "fused_ms"] in [row[:4] for row in rows]
    assert ["better", "toy", "shape=quick", "fused_ms"] in [row[:4] for row in rows]
    assert "4 metrics compared: 1 worse, 1 better, 0 changed, 2 the same within noise" in output, "and their median"
    assert "toy: a time counts here from +" in output
    assert "\x1b" not in output, "plain where the output is no terminal"
    assert call(files[0], files[0])[0] == 0
    assert call(*files, "--min-difference", 0.5)[0] == 0, "no change is as large as that"


def test_pure_noise_rarely_alarms() -> None:
    """Of 60 comparisons of 10 timed and 10 seeded metrics about one in twenty reports anything.

    Without Holm's correction 38 would.
    """
    generator = np.random.default_rng(1)

    def run() -> Run:
        timed = [times(generator, metric=f"m{i}_ms", n=10) for i in range(10)]
        losses = [[scalar(f"m{i}_loss", "1", x) for i, x in enumerate(generator.normal(1, 0.1, 10))] for _ in range(5)]
        arms = [trial(seed, *measured, arm="trained") for seed, measured in enumerate(losses)]
        return Run(Path("runs"), "toy", [trial(0, *timed, arm="timed"), *arms], ENVIRONMENT)

    alarms = 0
    for _ in range(60):
        alarms += any(change.verdict != "same" for change in compare([(run(), run())], min_difference=0.0))
    assert alarms <= stats.binom.ppf(0.999, 60, FALSE_ALARM_RATE)


def test_holm() -> None:
    assert holm([0.01, 0.04, float("nan"), 0.03], 0.05) == [True, False, False, False]
    assert holm([0.01, 0.02, 0.02], 0.05) == [True, True, True]
    assert holm([], 0.05) == []


def test_what_slows_the_whole_machine_is_no_regression(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)

    def run(machine: float, own: float) -> list[Record]:
        drift = np.linspace(1, 2, 20) * machine
        reference = times(generator, metric="torch_ms")
        fill = times(generator, own, "fill_ms")
        slowed = [
            Measurement(m.metric, m.unit, (np.array(m.values) * drift).tolist(), m.axes) for m in (reference, fill)
        ]
        return [trial(0, *slowed)]

    drifted = verdicts(judge(tmp_path / "drift", run(1, 1), run(1.5, 1)))
    assert drifted == {"fill_ms / torch_ms": "same", "torch_ms": "changed"}
    assert verdicts(judge(tmp_path / "own", run(1, 1), run(1.5, 2.0)))["fill_ms / torch_ms"] == "worse"


def test_implementations_are_judged_one_by_one(tmp_path: Path) -> None:
    """Ours by its ratio to eager PyTorch in the same rounds; a slower torch.compile is not our regression."""
    generator = np.random.default_rng(4)

    def run(**factors: float) -> list[Record]:
        measured = []
        for pass_name in ("bwd", "eval"):
            rows = [(name, times(generator, factor).values) for name, factor in factors.items()]
            names = [name for name, values in rows for _ in values]
            axes = {"pass": [pass_name] * len(names), "implementation": names, "round": [*range(20)] * len(rows)}
            measured.append(Measurement("time", "ms", [x for _, values in rows for x in values], axes))
        measured.append(Measurement("first_call", "s", list(factors.values()), {"implementation": list(factors)}))
        return [trial(0, *measured)]

    before = run(eager=1.0, torch_compile=0.8, fused_triton=0.5)
    after = run(eager=1.5, torch_compile=5.0, fused_triton=3.0)
    found = verdicts(judge(tmp_path, before, after))
    for name in ("bwd", "eval"):
        assert found[f"time[{name}, fused_triton] / time[{name}, eager]"] == "worse"
        assert found[f"time[{name}, torch_compile]"] == found[f"time[{name}, eager]"] == "changed"
    assert len(found) == 6, "and a first call, which tells nothing of its noise, is not compared"


@pytest.mark.parametrize(
    ("metric", "a", "b", "verdict"),
    [
        ("test_accuracy", 0.9, 0.8, "worse"),
        ("test_accuracy", 0.8, 0.9, "better"),
        ("final_train_loss", 1.0, 1.2, "worse"),
        ("steps_to_target", 100.0, 50.0, "better"),
        ("steps_to_target", 100.0, float("inf"), "worse"),
        ("steps_to_target", float("inf"), 100.0, "better"),
        ("copy_gbps", 100.0, 80.0, "worse"),
        ("fwd_speedup", 1.5, 1.1, "worse"),
        ("gradient_mean", -1.0, 1.0, "changed"),
        ("constant_loss", 1.0, 1.2, "changed"),
        ("test_loss", 1.0, 1.01, "same"),
    ],
)
def test_the_direction_of_each_metric(tmp_path: Path, metric: str, a: float, b: float, verdict: str) -> None:
    """Over five seeds, with 1% of noise between them."""
    noise = [1.0, 1.01, 0.99, 1.005, 0.995]
    first, second = (
        [trial(seed, scalar(metric, "1", value * (x if value == a else x**0.9))) for seed, x in enumerate(noise)]
        for value in (a, b)
    )
    assert verdicts(judge(tmp_path, first, second)) == {metric: verdict}


def test_seeds_are_paired(tmp_path: Path) -> None:
    """Seeds differ by a factor of 10, the runs by 10% in each of them: unpaired that would be lost."""
    seeds = np.geomspace(1, 10, 5)
    a = [trial(seed, scalar("test_loss", "1", x)) for seed, x in enumerate(seeds)]
    b = [trial(seed, scalar("test_loss", "1", x * (1.1 + seed / 1000))) for seed, x in enumerate(seeds)]
    (change,) = judge(tmp_path, a, b)
    assert change.verdict == "worse"
    assert change.low < 0.102 < change.high
    assert change.n == 5


def test_a_single_number_is_no_regression(tmp_path: Path) -> None:
    """Of one seed nobody knows the noise."""
    a, b = ([trial(0, scalar("test_loss", "1", value))] for value in (1.0, 2.0))
    assert verdicts(judge(tmp_path, a, b)) == {"test_loss": "changed"}


@pytest.mark.parametrize("metric", ["registers", "spill_bytes", "launches", "bytes_per_element"])
def test_exact_metrics_have_no_noise(tmp_path: Path, metric: str) -> None:
    """One register more in one of many builds, whatever difference is relevant elsewhere."""
    a, b = ([trial(0, scalar(metric, "1", 100 + (i == step)), build=i) for i in range(3)] for step in (None, 1))
    changes = judge(tmp_path / "up", a, b, min_difference=0.5)
    assert [(c.configuration, c.verdict) for c in changes if c.verdict != "same"] == [("build=1", "worse")]
    assert "better" in verdicts(judge(tmp_path / "down", b, a)[1:2]).values()


def test_outcomes(tmp_path: Path) -> None:
    def run(*outcomes: str) -> list[Record]:
        return [trial(seed, outcome=outcome) for seed, outcome in enumerate(outcomes)]

    good, bad = run("trained", "trained", "trained"), run("trained", "stalled", "diverged")
    (change,) = judge(tmp_path / "worse", good, bad)
    assert (change.verdict, change.a, change.b) == ("worse", "3 trained", "1 trained, 1 stalled, 1 diverged")
    assert judge(tmp_path / "better", bad, good)[0].verdict == "better"
    mixed = judge(tmp_path / "mixed", run("trained", "stalled"), run("stalled", "trained"))
    assert mixed[0].verdict == "worse", "one seed does not make up for another"


def test_a_failed_trial_is_a_regression(tmp_path: Path) -> None:
    good = [trial(seed, scalar("test_loss", "1", 1.0)) for seed in range(2)]
    failed = [good[0], Record("toy", {"seed": 1}, "me", [], failure=Failure("raised", "ValueError"))]
    changes = judge(tmp_path / "worse", good, failed)
    assert (changes[0].metric, changes[0].verdict, changes[0].b) == ("trials", "worse", "1 of 2 failed")
    assert verdicts(changes)["test_loss"] == "same"
    assert judge(tmp_path / "better", failed, good)[0].verdict == "better"


def test_another_machine(tmp_path: Path, call: Call) -> None:
    """Refused; with --across-machines the times are left out and the outcomes are not."""
    generator = np.random.default_rng(3)
    a = write(tmp_path / "a", [trial(0, times(generator), scalar("test_loss", "1", 1.0), outcome="trained")])
    b = write(tmp_path / "b", [trial(0, times(generator, 5.0), scalar("test_loss", "1", 1.0))], threads=8)
    code, output, errors = call(a, b)
    assert (code, output) == (2, "")
    assert "threads 1; " in errors
    assert "--across-machines compares what does not depend on them" in errors
    code, output, _ = call(a, b, "--across-machines", "--format", "json")
    body = json.loads(output)
    assert code == 1
    assert [change["metric"] for change in body["changes"]] == ["outcome"]
    assert body["compared"] == 2


def test_trials_and_runs_that_only_one_side_has_are_told(tmp_path: Path, call: Call) -> None:
    """Other seeds, as after a shorter run, and a run whose file is gone."""
    trials = [trial(seed, scalar("test_loss", "1", 1.0)) for seed in range(5)]
    write(tmp_path / "a", trials)
    write(tmp_path / "a", trials, RunName("toy", "full", "cpu"))
    write(tmp_path / "b", trials[2:4])
    for form in ("text", "markdown"):
        code, output, _ = call(tmp_path / "a", tmp_path / "b", "--format", form)
        assert code == 0
        assert "not compared, for A alone has them: 3 trials of toy, the run toy-full-cpu" in output
        assert "for B alone" not in output
    assert "for B alone has them: 3 trials of toy, the run" in call(tmp_path / "b", tmp_path / "a")[1]
    body = json.loads(call(tmp_path / "a", tmp_path / "b", "--format", "json")[1])
    assert body["alone"] == {"A": {"runs": ["toy-full-cpu"], "trials": {"toy": 3}}, "B": {"runs": [], "trials": {}}}
    assert "not compared" not in call(tmp_path / "a", tmp_path / "a")[1]


def test_folders_names_and_formats(tmp_path: Path, call: Call) -> None:
    losses = {"a": 1.0, "b": 1.2}
    for name, loss in losses.items():
        records = [trial(seed, scalar("test_loss", "1", loss + seed / 100), text="a|b[c]") for seed in range(3)]
        write(tmp_path / name, records)
        write(tmp_path / name, records, RunName("toy", "full", "cpu"))
    code, output, _ = call(tmp_path / "a", tmp_path / "b", "--format", "markdown")
    assert code == 1
    assert output.count("| worse | toy |") == 2
    assert f"A: 2 runs in {tmp_path}/a/runs" in output
    assert call("toy-quick-cpu", "toy-full-cpu", "--out", tmp_path / "a")[0] == 0
    code, output, errors = call("toy-quick-cuda", "toy-full-cpu", "--out", tmp_path / "a")
    assert code == 2
    assert "(there: toy-full-cpu, toy-quick-cpu)" in errors


def break_records(file: Path) -> None:
    file.write_text(file.read_text().replace('"trials"', '"trails"').replace("1.0", "1.1"))


def lose_a_trial(file: Path) -> None:
    file.write_text(file.read_text().splitlines(keepends=True)[0])


def make_foreign(file: Path) -> None:
    file.write_text('{"lines": "of another program"}\n')


def drop_manifest(file: Path) -> None:
    file.with_suffix(".manifest.json").unlink()


def damage_manifest(file: Path) -> None:
    file.with_suffix(".manifest.json").write_text("[]")


def rename_experiment(file: Path) -> None:
    file.unlink()
    write(file.parents[1], [Record("other", {"seed": 0}, "you", [scalar("test_loss", "1", 1.0)])])


def change_profile(file: Path) -> None:
    file.unlink()
    write(file.parents[1], [Record("toy", {"steps": 5, "seed": 0}, "you", [scalar("test_loss", "1", 1.0)])])


def delete(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (break_records, "toy-quick-cpu.jsonl is damaged in 1 of its lines (1)"),
        (lose_a_trial, "toy-quick-cpu.jsonl has lost trials, 1 of 2 are there"),
        (make_foreign, "toy-quick-cpu.jsonl is not a file of records"),
        (drop_manifest, "has no toy-quick-cpu.manifest.json beside it"),
        (damage_manifest, "toy-quick-cpu.manifest.json is damaged"),
        (as_if_interrupted, "is unfinished: 2 of 2 trials are recorded"),
        (rename_experiment, "toy-quick-cpu.jsonl of other: compare runs of one experiment"),
        (change_profile, "have no trial in common"),
        (delete, "name a file of records, a results folder, or a run in"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_code_2(
    tmp_path: Path, call: Call, spoil: Callable[[Path], None], says: str
) -> None:
    records = [trial(0, scalar("test_loss", "1", 1.0)), trial(1, scalar("test_loss", "1", 2.0))]
    good, bad = (write(tmp_path / name, records) for name in "ab")
    spoil(bad)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, output, errors = call(good, bad)
    assert (code, output) == (2, "")
    assert says in errors
    assert errors.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("text", ["garbage\n", to_line(Record("toy", {"seed": 0}, "me", []))])
def test_a_file_that_is_no_run_is_refused_though_the_other_folder_lacks_it(
    tmp_path: Path, call: Call, text: str
) -> None:
    for name in "ab":
        write(tmp_path / name, [trial(0, scalar("test_loss", "1", 1.0))])
    foreign = tmp_path / "b" / "runs" / "foo-quick-cpu.jsonl"
    foreign.write_text(text)
    for order in ("ab", "ba", "bb"):
        code, output, errors = call(*(tmp_path / name for name in order))
        assert (code, output) == (2, "")
        assert errors.startswith(f"initbench: {foreign} ")
        assert errors.count("\n") == 1


def test_every_recorded_metric_of_training_has_a_direction() -> None:
    """The names that the trainings and timings of the suite record."""
    lower = (
        "final_train_loss",
        "validation_loss",
        "test_loss",
        "steps_to_target",
        "step_memory",
        "fill_ms",
        "fill_peak",
    )
    for better, metrics in (("lower", lower), ("higher", ("test_accuracy", "largest_rate"))):
        for name in metrics:
            assert rule_for(name).better == better, name
    assert {rule_for(name).better for name in ("activation_mean", "copy_ms", "torch_ms", "torch_peak")} == {None}
