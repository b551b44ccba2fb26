"""benchmarks/pytest_suite: skipped unless asked for, checked before it is timed, complete in its JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = "benchmarks/pytest_suite/test_batch_norm_relu_speed.py"
# Registers an implementation whose output keeps its negative values, and lets plans draw the values of another seed.
WRONG = """
import torch.nn.functional as F
from initbench_kernels.random_fill import FillPlan
from initbench_core.networks.implementations import compared

@compared("batch norm without ReLU")
def wrong(*arguments):
    return F.batch_norm(*arguments)

right = FillPlan.fill_
FillPlan.fill_ = lambda plan, seed: right(plan, seed + 1)
"""


def run(*arguments: object, plugins: Path | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), str(ROOT / "kernels"), *([str(plugins)] if plugins else [])]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def test_what_is_wrong_fails_and_what_is_right_is_timed(tmp_path: Path) -> None:
    (tmp_path / "wrong_plugin.py").write_text(WRONG)
    written = tmp_path / "times.json"
    done = run(
        "-p", "wrong_plugin", Path(SUITE).parent, "--benchmark-only", f"--benchmark-json={written}",
        "-k", "(4096x64 and eval and (wrong or eager)) or (mlp and (wrong or uniform-plan))", plugins=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "3 failed, 3 passed" in done.stdout
    assert {line.split("[")[0].split("::")[1] for line in done.stdout.splitlines() if line.startswith("FAILED")} == {
        "test_batch_norm_relu", "test_initializer", "test_training_step",
    }  # fmt: skip
    assert "WrongResultError: wrong at 4096x64 float32: output is off by" in done.stdout
    report = json.loads(written.read_text())
    assert {b["name"].split("-")[-1].rstrip("]") for b in report["benchmarks"]} == {
        "eager", "eager_inplace", "fused_eager",
    }  # fmt: skip
    assert report["machine_info"]["initbench"]["threads"] >= 1
    for benchmark in report["benchmarks"]:
        noted = benchmark["extra_info"]
        assert benchmark["group"] == "BatchNorm+ReLU, 4096x64 float32, eval"
        # One read and one write.
        assert (noted["dtype"], noted["bytes"]) == ("float32", 2 * 4096 * 64 * 4)
        assert {"device", "versions", "threads", "commit"} <= set(noted)
        assert noted["GB/s"] == pytest.approx(noted["bytes"] / benchmark["stats"]["median"] / 1e9)
        assert noted["times the copy's"] > 0


def test_every_speed_test_notes_its_bandwidth(tmp_path: Path) -> None:
    """Fills write each value once; a step goes over its parameters six times and over its activations."""
    written = tmp_path / "times.json"
    picked = "(initializer and mlp_100x64-uniform-plan) or (training_step and fused_eager and mlp)"
    done = run("benchmarks/pytest_suite", "--benchmark-only", f"--benchmark-json={written}", "-k", picked)
    assert done.returncode == 0, done.stdout + done.stderr
    noted = {b["name"].split("[")[0]: b["extra_info"] for b in json.loads(written.read_text())["benchmarks"]}
    assert noted["test_initializer"]["bytes"] == 100 * (64 * 64 + 64) * 4
    assert set(noted) == {"test_initializer", "test_training_step"}
    for info in noted.values():
        assert info["GB/s"] > 0
        assert info["times the copy's"] > 0


def test_benchmarks_alone_are_collected_for_their_tables() -> None:
    """From the root, as the README says: no test is there to be skipped, and no report of it."""
    done = run("--benchmark-only", "--collect-only")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert SUITE in found
    assert {Path(name).parent for name in found} == {Path(SUITE).parent}


def test_a_plain_run_times_nothing() -> None:
    done = run("benchmarks/pytest_suite", "-k", "eager")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.strip().splitlines()[-1]
    assert "skipped" in summary
    assert "passed" not in summary
    assert "Skipping benchmark (--benchmark-skip active)" in done.stdout


def test_saved_times_are_compared_and_drawn(tmp_path: Path) -> None:
    """Another commit is no other machine; another machine is a warning, and neither ends the run."""
    measured = (ROOT / SUITE, "--benchmark-only", "-k", "4096x64-eval-fused_eager")
    done = run(*measured, "--benchmark-autosave", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (saved,) = tmp_path.rglob("*.json")
    report = json.loads(saved.read_text())
    assert not {"commit", "dirty"} & set(report["machine_info"]["initbench"])
    saved.write_text(json.dumps(report | {"machine_info": report["machine_info"] | {"node": "another"}}))
    done = run(*measured, "--benchmark-compare", "--benchmark-histogram=times", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "machine_info is different" in done.stderr
    assert "(0001_" in done.stdout, "a row of what was saved stands beside the new one"
    assert list(tmp_path.glob("times*.svg"))
