"""The two commands that judge speed: what they say where they cannot measure, and what they count."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from initbench_core.checks import cpu as cpu_check
from initbench_core.checks import gpu as gpu_check
from initbench_core.checks.cpu import peak_activations
from initbench_core.checks.gpu_targets import FEW, MANY, SMALL_SHAPE, summarize, times_of
from initbench_core.measurement.roofline import FUSED_PASSES, floor_ms
from initbench_core.measurement.shapes import Shape
from initbench_core.measurement.workload import PASSES, Workload
from initbench_core.networks.implementations import IMPLEMENTATIONS
from initbench_core.presentation.gpu_check_figure import draw


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


def records_at(fused: float, eager: float, copy: float = 1.0) -> list[dict[str, object]]:
    """Invent a run in which every pass takes `fused` and `eager` times its floor."""
    records = []
    for shape in gpu_check.SHAPES:
        tensor = {"label": str(shape), "shape": list(shape.sizes), "dtype": shape.dtype, "num_bytes": shape.num_bytes}
        records.append({**tensor, "implementation": "copy", "pass": "copy", "metric": "median_ms", "value": copy})
        for name, factor in (("fused_triton", fused), ("eager", eager), ("torch_compile", eager)):
            for pass_name in FUSED_PASSES:
                for metric in ("median_ms", "wall_ms"):
                    value = factor * floor_ms(pass_name, copy)
                    records.append(
                        {**tensor, "implementation": name, "pass": pass_name, "metric": metric, "value": value}
                    )
    return records


def test_targets_are_judged() -> None:
    """A run at the floor meets every target; a slow one, one slower than eager and an empty one do not."""
    lines, met = summarize(records_at(fused=1.0, eager=2.5))
    assert met, lines
    assert not summarize(records_at(fused=1.2, eager=3.0))[1]
    assert not summarize(records_at(fused=1.0, eager=0.9))[1]
    lines, met = summarize([])
    assert not met
    assert all(line.endswith("MISSED") for line in lines[2:])


def test_equal_bytes() -> None:
    """The shapes that a target compares hold the same bytes, to one part in a million."""
    sizes = {tuple(shape.sizes): shape.num_bytes for shape in gpu_check.SHAPES if shape.dtype == "bfloat16"}
    assert sizes[tuple(FEW)] == pytest.approx(sizes[tuple(MANY)], rel=1e-6)
    assert tuple(SMALL_SHAPE) in sizes


def test_figure(tmp_path: Path) -> None:
    """A figure is drawn, also of a run that lost implementations on the way."""
    environment = {"device": "a device", "torch": "2", "triton": "3", "date": "today"}
    records = records_at(1.0, 2.0)[:-3]
    draw(records, times_of(records), environment, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_one_shape_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU's tensors with an invented clock: a record per pass, an outcome for whoever cannot take part."""
    rows = {name: row for name, row in IMPLEMENTATIONS.items() if not row.compiled}
    monkeypatch.setattr(gpu_check, "IMPLEMENTATIONS", rows)
    monkeypatch.setattr(gpu_check, "Workload", lambda shape, device: Workload(shape, "cpu"))
    monkeypatch.setattr(gpu_check, "cuda_times_ms", lambda call: [1.0, float(call() is not None)])
    monkeypatch.setattr(gpu_check, "cuda_wall_ms", lambda call: [2.0])
    records = list(gpu_check.measure(Shape((8, 3))))
    timed = {(r["implementation"], r["pass"]) for r in records if r["metric"] == "median_ms"}
    outcomes = {r["implementation"]: r["outcome"] for r in records if r["metric"] == "outcome"}
    assert {name for name, _ in timed} | set(outcomes) == {"copy", *rows}
    assert {("copy", "copy"), *(("fused_eager", name) for name in PASSES)} <= timed
    assert outcomes["apex"] == "needs a cuda device"
    assert next(r["value"] for r in records if r["metric"] == "wall_ms") == 2.0
    json.dumps(records, allow_nan=False)


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
        (["--implementation", "fast"], "no implementation 'fast': choose from"),
        (["--implementation", "apex"], "apex cannot run here: needs a cuda device"),
    ):
        monkeypatch.setattr(sys, "argv", ["cpu", *arguments])
        assert cpu_check.main() == 2
        printed = capsys.readouterr()
        assert error in printed.err
        assert len(printed.err.splitlines()) == 1
        assert not printed.out
