"""The commands that judge speed: what they say where they cannot measure, and what they count."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from initbench_core import catalogue
from initbench_core.checks import cpu as cpu_check
from initbench_core.checks import gpu as gpu_check
from initbench_core.checks import together as together_check
from initbench_core.checks.cpu import peak_activations
from initbench_core.checks.gpu_results import GpuCheck, rows
from initbench_core.checks.gpu_targets import FEW, MANY, SMALL, judge
from initbench_core.comparison.changes import compare
from initbench_core.comparison.sources import pairs
from initbench_core.measurement import contest
from initbench_core.measurement.roofline import FUSED_PASSES, floor_ms
from initbench_core.measurement.shapes import Shape
from initbench_core.networks.implementations import IMPLEMENTATIONS
from initbench_core.presentation import speed
from initbench_core.presentation.report import write_report
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.schema import Record, scalar
from initbench_core.records.store import read_whole


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


def records_at(fused: float, eager: float, copy: float = 1.0) -> list[Record]:
    """Invent a run in which every pass takes `fused` and `eager` times its floor, with no noise."""
    records = []
    for shape in gpu_check.SHAPES:
        measured = [scalar("size", "bytes", shape.num_bytes)]
        for pass_name in FUSED_PASSES:
            factors = {"fused_triton": fused, "eager": eager, "torch_compile": eager}
            ms = {name: [factor * floor_ms(pass_name, copy)] * 3 for name, factor in factors.items()}
            measured.append(speed.measurement(pass_name, {"copy": [copy] * 3, **ms}))
            measured.append(speed.measurement(pass_name, ms, "wall_time"))
        records.append(Record("gpu_check", {"shape": str(shape)}, "me", measured))
    return records


def test_targets_are_judged() -> None:
    """A run at the floor meets every target; a slow one, one slower than eager and an empty one do not."""
    targets = judge(rows(records_at(fused=1.0, eager=2.5)))
    assert all(target.is_met for target in targets), targets
    assert targets[0].value == pytest.approx(1.0)
    assert targets[3].value == pytest.approx(2.5)
    assert not all(target.is_met for target in judge(rows(records_at(fused=1.2, eager=3.0))))
    assert not all(target.is_met for target in judge(rows(records_at(fused=1.0, eager=0.9))))
    nothing = judge(rows([]))
    assert len(nothing) == len(targets)
    assert all(str(target).endswith("MISSED (not measured)") for target in nothing)


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
    assert check.findings(records)[0] == "8 of 10 targets are met."
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
    monkeypatch.setattr(gpu_check, "cuda_wall_ms", lambda call: [1.0] * 5)
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
    content = read_whole(folder.records(run))
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
        assert "of 10 targets are met." in text
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
    monkeypatch.setattr(sys, "argv", ["cpu", "64x3", "--rounds", "2"])
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
        (["--implementation", "fast"], "no implementation 'fast': choose from"),
        (["--implementation", "apex"], "apex cannot run here: needs a cuda device"),
    ):
        monkeypatch.setattr(sys, "argv", ["cpu", *arguments])
        assert cpu_check.main() == 2
        printed = capsys.readouterr()
        assert error in printed.err
        assert len(printed.err.splitlines()) == 1
        assert not printed.out


def test_training_together_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways are run, and the target decides on the exit status."""
    threads = torch.get_num_threads()
    small = "--device=cpu", "--rounds=2", "--epochs=1", "--seeds=2", "--width=8", "--depth=1"
    try:
        status = together_check.main(list(small))
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "one by one" in printed
    assert printed.strip().endswith("met" if status == 0 else "MISSED")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--width", "99999999"], "10 networks of width 99999999 and depth 3: needs 2,400,009,"),
        (["--seeds", "0"], "--seeds 0: give a number of at least 1"),
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
