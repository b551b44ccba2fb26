"""The commands that judge speed: what they say where they cannot measure, and what they count."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from initbench_core import catalogue
from initbench_core.checks import cpu as cpu_check
from initbench_core.checks import gpu as gpu_check
from initbench_core.checks import together as together_check
from initbench_core.checks.cpu import peak_activations
from initbench_core.checks.gpu_results import GpuCheck, rows
from initbench_core.checks.gpu_targets import FEW, MANY, SMALL, judge, questions
from initbench_core.comparison.changes import compare
from initbench_core.comparison.sources import pairs
from initbench_core.measurement import contest
from initbench_core.measurement.roofline import FUSED_PASSES, floor_ms
from initbench_core.measurement.shapes import Shape
from initbench_core.networks.implementations import IMPLEMENTATIONS
from initbench_core.presentation import speed
from initbench_core.presentation.report import write_report
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.run import read_run
from initbench_core.records.schema import Record, scalar


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a CUDA device")
def test_gpu_check_without_a_gpu() -> None:
    """One line that says what is missing, and exit status 2."""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "initbench_core.checks.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "CUDA" in done.stderr


def test_the_fused_operator_holds_one_activation_less() -> None:
    """At its peak the pair holds the batch norm's output and the ReLU's; the fused operator holds one tensor."""
    shape = Shape((4096, 64))
    assert 2.0 <= peak_activations("eager", shape) < 2.1
    assert 1.0 <= peak_activations("fused_eager", shape) < 1.1


def records_at(fused: float, eager: float, copy: float = 1.0, noise: float = 0.0) -> list[Record]:
    """Invent a run in which every pass takes `fused` and `eager` times its floor, give or take some noise."""
    records, generator = [], np.random.default_rng(0)

    def samples(ms: float) -> list[float]:
        return (ms * generator.lognormal(0, noise, 10)).tolist()

    for shape in gpu_check.SHAPES:
        measured = [scalar("size", "bytes", shape.num_bytes)]
        for pass_name in FUSED_PASSES:
            factors = {"fused_triton": fused, "eager": eager, "torch_compile": eager}
            ms = {name: samples(factor * floor_ms(pass_name, copy)) for name, factor in factors.items()}
            measured.append(speed.measurement(pass_name, {"copy": [copy] * 10, **ms}))
            measured.append(speed.measurement(pass_name, ms, "wall_time"))
        records.append(Record("gpu_check", {"shape": str(shape)}, "me", measured))
    return records


def test_targets_are_judged() -> None:
    """A run at the floor meets every target; a slow one, one slower than eager and an empty one do not."""
    targets = judge(rows(records_at(fused=1.0, eager=2.5)))
    assert [target.verdict for target in targets] == ["met"] * 10
    assert targets[0].worst[1].center == pytest.approx(1.0)
    assert targets[3].worst[1].center == pytest.approx(2.5)
    slow, slower = (judge(rows(records_at(fused=f, eager=e))) for f, e in ((1.2, 3.0), (1.0, 0.9)))
    assert [target.verdict for target in slow] == ["missed"] * 3 + ["met"] * 7
    assert [target.verdict for target in slower] == ["met"] * 3 + ["missed"] * 4 + ["met"] + ["missed"] * 2
    assert [target.verdict for target in judge(rows([]))] == ["not measured"] * 10


def test_targets_go_by_their_intervals() -> None:
    """A median on the right side of a target with noise on both sides of it decides nothing."""
    targets = judge(rows(records_at(fused=1.05, eager=2.12, noise=0.1)))
    for target in (targets[1], targets[2], targets[8], targets[9]):
        assert target.verdict in ("undecided", "met"), target
    assert [target.verdict for target in targets].count("undecided") >= 3
    assert targets[4].verdict == "met", "eager takes twice as long at every shape"


def test_an_operator_that_is_missing_at_a_shape_meets_no_target_there() -> None:
    """Its result was wrong there, say, and was not timed."""
    records = records_at(fused=1.0, eager=2.5)
    for measurement in records[0].measurements:
        if names := measurement.axes.get("implementation"):
            measurement.axes["implementation"] = ["gone" if name == "fused_triton" else name for name in names]
    verdicts = [target.verdict for target in judge(rows(records))]
    assert verdicts == ["not measured"] * 3 + ["met", "not measured"] * 2 + ["not measured", "met", "met"]


def test_what_is_asked_while_it_is_timed() -> None:
    """The bounds of the targets, as speed-ups over the copy or over a rival; small tensors have no floor to reach."""
    large, small = 10**9, 10**6
    assert [q.over for q in questions("fwd_bwd", small)] == ["eager", "torch_compile", "torch_compile_max_autotune"]
    assert questions("bwd", small) == []
    (evaluation,) = questions("eval", large)
    assert evaluation == ("fused_triton", "copy", pytest.approx(0.95))
    (backward,) = questions("bwd", large)
    assert backward.least == pytest.approx(1 / (1.1 * 2.5))


def test_equal_bytes() -> None:
    """The shapes that a target compares hold the same bytes, to one part in a million, and are measured."""
    sizes = {str(shape): shape.num_bytes for shape in gpu_check.SHAPES}
    assert sizes[FEW] == pytest.approx(sizes[MANY], rel=1e-6)
    assert SMALL in sizes


def test_figure_and_findings() -> None:
    """Also of a run that lost the times of the small shape, on which two targets are judged."""
    records = records_at(1.0, 2.0)
    records[3] = dataclasses.replace(
        records[3], measurements=records[3].measurements[:2], notes=["apex: not installed"]
    )
    check = GpuCheck()
    assert len(check.figures(records)["floor"].axes) == 4
    assert check.findings(records)[0] == "8 of 10 targets are met, by their 95% intervals."
    assert check.findings(records)[-1] == "Left out: apex: not installed."
    assert set(check.table(records)["verdict"].dropna()) == {"faster", "parity"}


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the check on the CPU: of four small shapes the third has no room, and the last one comes too late."""

    def wrong(*arguments: Any) -> torch.Tensor:
        return IMPLEMENTATIONS["eager"].function(*arguments) + 1

    def times_ms(field: contest.Contest, pass_name: str, **options: Any) -> dict[str, list[float]]:
        if field.workload.shape == Shape((7, 3)):
            raise torch.OutOfMemoryError("no room")
        return measured(field, pass_name, rounds=3, min_ms=0.0)

    measured = contest.times_ms
    few = {name: IMPLEMENTATIONS[name] for name in ("eager", "fused_eager", "fused_triton")}
    few["wrong"] = dataclasses.replace(IMPLEMENTATIONS["eager"], name="wrong", function=wrong)
    monkeypatch.setattr(contest, "times_ms", times_ms)
    times = iter([0.0, 1.0, 2.0, 3.0, 1000.0, 1001.0])
    monkeypatch.setattr(gpu_check, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_check, "obstacle", lambda: None)
    monkeypatch.setattr(gpu_check, "run_tests", lambda: True)
    monkeypatch.setattr(gpu_check, "paired_cuda_wall_ms", lambda *calls: np.ones((len(calls), 5)))
    shapes = (Shape((64, 3)), Shape((8, 4, 5, 5), "bfloat16", "channels_last"), Shape((7, 3)), Shape((64, 5)))
    monkeypatch.setattr(gpu_check, "SHAPES", shapes)
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: next(times))
    # Deleting and putting back one by one would change the order of all tables to come.
    with mock.patch.dict(IMPLEMENTATIONS, few, clear=True):
        yield


def test_the_check_records_as_the_experiments_do(
    pretended_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Report and compare read what it writes; wrong, failing and late ones are named and lose nothing."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--results", str(tmp_path)])
    assert gpu_check.main() == 1, "targets for shapes that were not measured are missed"
    output = capsys.readouterr().out
    folder = ResultsFolder(tmp_path)
    run = RunName("gpu_check", "full", "cpu")
    assert folder.recorded() == [run]
    content = read_run(folder.records(run), run).content
    assert [record.config["shape"] for record in content.records] == ["64x3 float32", "8x4x5x5 bfloat16 channels_last"]
    assert [record.failure.reason for record in content.failed if record.failure] == ["out_of_memory", "timeout"]
    assert folder.manifest(run)["finished"] is True
    for record in content.records:
        assert any(note.startswith("wrong: WrongResultError: wrong at") for note in record.notes)
        assert any(note.startswith("fused_triton: ") for note in record.notes)
    assert (folder.figures / "gpu_check-floor-full-cpu.png").exists()
    assert "64x3 float32" in output
    assert "not measured: the check had taken" in output
    readme, page = (path.read_text() for path in write_report(folder, catalogue.find))
    for text in (readme, page):
        assert "of 10 targets are met, by their 95% intervals." in text
        assert "WrongResultError" in text
        assert "python -m initbench_core.checks.gpu" in page
    path = str(folder.records(run))
    changes = compare(pairs(path, path, tmp_path), min_difference=0.05)
    assert {"time[bwd, fused_eager] / time[bwd, eager]", "wall_time[fwd_bwd, eager]"} <= {c.metric for c in changes}
    assert {change.verdict for change in changes} == {"same"}


def test_autotuned_shapes_are_among_the_shapes() -> None:
    assert len(gpu_check.AUTOTUNED) == 5
    assert set(gpu_check.SHAPES) > gpu_check.AUTOTUNED


def test_cpu_check_measures_and_refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A named shape is measured; one that is none ends in one line and exit status 2."""
    monkeypatch.setattr(sys, "argv", ["cpu", "64x3", "--rounds", "2", "--most-rounds", "2"])
    assert cpu_check.main() in (0, 1)
    assert "64x3 float32" in capsys.readouterr().out
    for arguments, error in (
        (["64by3"], "no shape '64by3'"),
        (
            ["64x3", "99999999x99999999"],
            "float32': needs 159,999,997 GB, and this machine has",
        ),
        (["9" * 30 + "x9"], "GB, and this machine has"),
        (["64x3", "--rounds", "0"], "--rounds 0: give a number of at least 1"),
        (["64x3", "--most-rounds", "0"], "--most-rounds 0: give a number of at least 1"),
        (["--implementation", "eager"], "eager is what all others are held against"),
        (["--implementation", "fast"], "no implementation 'fast': choose from"),
        (["--implementation", "apex"], "apex cannot run here: needs a cuda device"),
    ):
        monkeypatch.setattr(sys, "argv", ["cpu", *arguments])
        assert cpu_check.main() == 2
        printed = capsys.readouterr()
        assert error in printed.err
        assert len(printed.err.splitlines()) == 1
        assert not printed.out


@pytest.mark.parametrize(
    ("factor", "noise", "status", "verdicts", "rounds"),
    [
        (1.3, 0.02, 0, ["met", "met"], 10),
        (0.8, 0.02, 1, ["missed", "missed"], 10),
        (1.05, 0.02, 1, ["missed", "met"], 10),
        (1.1, 0.1, 1, ["undecided", "met"], 10),
        (0.97, 0.1, 1, ["missed", "undecided"], 40),
    ],
)
def test_cpu_check_goes_by_intervals(
    factor: float,
    noise: float,
    status: int,
    verdicts: list[str],
    rounds: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rounds go on where noise leaves a shape open; what is still open then is named, and no success."""

    def invented(field: contest.Contest, pass_name: str, *, rounds: int, min_ms: float) -> dict[str, list[float]]:
        up_and_down = factor * np.resize([1 - noise, 1 + noise], rounds)
        return {"copy": [0.1] * rounds, "eager": up_and_down.tolist(), "fused_eager": [1.0] * rounds}

    monkeypatch.setattr(contest, "times_ms", invented)
    monkeypatch.setattr(sys, "argv", ["cpu", "64x3", "64x5", "--rounds", "10", "--most-rounds", "40"])
    assert cpu_check.main() == status
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("more rounds") for line in lines) == (3 if factor == 1.1 else 0)
    assert [line.split("  ")[-1].split(" (at ")[0] for line in lines[-2:]] == verdicts
    assert f" {rounds} " in lines[2]


def test_cpu_check_of_a_wrong_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not timed, and not met."""

    def wrong(*arguments: Any) -> torch.Tensor:
        return IMPLEMENTATIONS["eager"].function(*arguments) + 1

    row = dataclasses.replace(IMPLEMENTATIONS["fused_eager"], function=wrong)
    monkeypatch.setitem(IMPLEMENTATIONS, "fused_eager", row)
    monkeypatch.setattr(sys, "argv", ["cpu", "64x3", "--rounds", "2", "--most-rounds", "2"])
    assert cpu_check.main() == 1
    output = capsys.readouterr().out
    assert "fused_eager is not measured: WrongResultError: fused_eager at 64x3 float32: output is off by" in output
    assert output.count("  not measured") == 2


SMALL_STACK = ("--device=cpu", "--rounds=2", "--epochs=1", "--seeds=2", "--width=8")


@pytest.fixture
def threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("threads_kept")
def test_training_together_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways are run at every depth, and the targets decide on the exit status."""
    status = together_check.main([*SMALL_STACK, "--seconds=1", "--depth", "1", "2"])
    first, second, mean = capsys.readouterr().out.splitlines()[2:]
    assert (first.split()[0], second.split()[0]) == ("1", "2")
    verdicts = {line.split()[-1] for line in (first, second)}
    assert verdicts <= {"met", "missed", "undecided"}
    assert (status == 0) == (verdicts == {"met"})
    assert mean.startswith("geometric mean: ")


def ratios_between(low: float, high: float) -> np.ndarray:
    """Invent times of 20 rounds whose ratios are one end as often as the other: the ends of the interval."""
    return np.array([[low, high] * 10, [1.0] * 20])


@pytest.mark.usefixtures("threads_kept")
@pytest.mark.parametrize(
    ("second", "verdict", "status"),
    [((2.0, 2.2), "met", 0), ((1.9, 2.2), "undecided", 1), ((1.7, 1.9), "missed", 1)],
)
def test_the_interval_decides_whether_training_together_is_fast_enough(
    second: tuple[float, float],
    verdict: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not the median, which is above the target in the first two; and every depth counts, whatever the mean is."""
    times = {3: ratios_between(4.0, 4.0), 8: ratios_between(*second)}
    monkeypatch.setattr(together_check, "times_ms", lambda *_, depth, **__: times[depth])
    assert together_check.main(["--device=cpu", "--depth", "3", "8"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[2:4]] == ["met", verdict]
    assert float(lines[4].split()[2]) > 2


@pytest.mark.usefixtures("threads_kept")
def test_rounds_go_on_until_training_together_is_decided(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or until the time is over."""
    sittings = iter([ratios_between(1.9, 2.2), ratios_between(2.1, 2.2)])
    monkeypatch.setattr(together_check, "paired_times_ms", lambda *_, **__: next(sittings))
    assert together_check.main([*SMALL_STACK, "--depth", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-2:] == ["40", "met"]
    monkeypatch.setattr(together_check, "paired_times_ms", lambda *_, **__: ratios_between(1.9, 2.2))
    assert together_check.main([*SMALL_STACK, "--depth", "3", "--seconds=1"]) == 1
    assert capsys.readouterr().out.splitlines()[2].endswith("undecided")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--width", "99999999", "--depth", "2", "3"], "10 networks of width 99999999 and depth 3: needs 2,400,009,"),
        (["--seeds", "0"], "--seeds 0: give a number of at least 1"),
        (["--depth", "3", "0"], "--depth 0: give a number of at least 1"),
    ],
)
def test_training_together_refuses_in_one_line(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert together_check.main(arguments) == 2
    printed = capsys.readouterr()
    assert error in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not printed.out


def test_training_together_needs_the_device_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert together_check.main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
