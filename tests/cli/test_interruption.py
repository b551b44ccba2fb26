"""Runs that are interrupted: nothing is lost, and the same command continues them."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from interrupted import as_if_interrupted

from initbench_core.records.store import read
from tests.cli.command import COMMAND, ENVIRONMENT, Call
from tests.initbench_core.execution.jobs import are_gone, heed_ctrl_c

ARGUMENTS = ("run", "gradient_clipping", "--profile", "smoke", "--seeds", "20", "--device", "cpu", "--out")
TRIALS = 20 * 14


def start(out: Path, *where: str) -> subprocess.Popen[str]:
    """Start a run of 280 short trials and wait until some are recorded."""
    process = subprocess.Popen(
        [*COMMAND, *ARGUMENTS, str(out), *where],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    deadline = time.monotonic() + 300
    records = out / "runs" / "gradient_clipping-smoke-cpu.jsonl"
    while not (records.exists() and records.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def descendants(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that a run has started, and those that they have."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [process.pid]
    for ancestor in found:
        found += [pid for pid, parent in pairs if parent == ancestor]
    return found[1:]


JOBS = {"one": ("--jobs", "1"), "two": ("--jobs", "2"), "ray": ("--executor", "ray")}


@pytest.mark.parametrize(
    ("number", "code", "where"),
    [
        (signal.SIGINT, 130, "one"),
        (signal.SIGTERM, 143, "two"),
        (signal.SIGKILL, -9, "two"),
        (signal.SIGTERM, 143, "ray"),
    ],
)
def test_an_interrupted_run_continues_where_it_stopped(tmp_path: Path, number: int, code: int, where: str) -> None:
    if where == "ray":
        pytest.importorskip("ray")
    process = start(tmp_path, *JOBS[where])
    # A second run into the same folder meanwhile is refused, and disturbs nothing.
    if where == "one":
        process.send_signal(signal.SIGSTOP)  # lest it finish while the second one starts
        second = subprocess.run([*COMMAND, *ARGUMENTS, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True)
        assert second.returncode == 2
        assert f"being written by process {process.pid}" in second.stderr
        process.send_signal(signal.SIGCONT)
    pids = descendants(process)
    # Ray starts servers of its own beside its workers.
    assert len(pids) > 2 if where == "ray" else len(pids) == {"one": 0, "two": 2}[where]
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code
    assert are_gone(pids)
    if code > 0:
        assert "the same command (without --fresh) continues from there" in errors
        assert errors.count("\n") == 1
    records = tmp_path / "runs" / "gradient_clipping-smoke-cpu.jsonl"
    kept = records.read_bytes()
    done = {record.key for record in read(records).records}
    assert 3 <= len(done) < TRIALS
    manifest = json.loads((tmp_path / "runs" / "gradient_clipping-smoke-cpu.manifest.json").read_text())
    assert manifest["finished"] is False
    if (number, where) != (signal.SIGTERM, "two"):
        again = subprocess.run(
            [*COMMAND, *ARGUMENTS, str(tmp_path), *JOBS[where]], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert again.returncode == 0, again.stderr
        lines = records.read_bytes()
        assert lines.startswith(kept), "finished trials are not run again"
        keys = [json.loads(line)["key"] for line in lines.splitlines()]
        assert len(keys) == len(set(keys)) == TRIALS


def test_who_presses_again_and_again_is_told_once(tmp_path: Path) -> None:
    process = start(tmp_path, *JOBS["two"])
    pids = descendants(process)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "the same command (without --fresh) continues from there" in errors
    assert are_gone(pids)
    content = read(tmp_path / "runs" / "gradient_clipping-smoke-cpu.jsonl")
    assert len(content.records) >= 3
    assert not content.damaged


def test_an_unfinished_run_is_named_and_not_drawn(call: Call, tmp_path: Path) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call(*arguments)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    as_if_interrupted(records, trials=3)
    assert call("report", "--out", tmp_path)[0] == 0
    assert "is unfinished: 3 of 8" in (tmp_path / "README.md").read_text()
    code, _, errors = call("plot", "--out", tmp_path)
    assert code == 2
    again = f"initbench run overflow --profile smoke --device cpu --seeds 1 --out {tmp_path}"
    assert f"overflow-smoke-cpu is unfinished, 5 of 8 trials are missing: `{again}`" in errors
    assert errors.count("\n") == 1
    assert "no run of mnist_cnn in" in call("plot", "mnist_cnn", "--out", tmp_path)[2]
    _, output, _ = call(*arguments)
    assert "3 recorded already; continuing" in output
    assert "is unfinished" not in (tmp_path / "README.md").read_text()


def test_an_unfinished_sweep_that_cannot_be_continued_is_set_aside_only_when_asked(call: Call, tmp_path: Path) -> None:
    arguments = ("run", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call(*arguments, "overflow")
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    as_if_interrupted(records, trials=3)
    (tmp_path / ".token").write_text("another folder\n")
    before = records.read_bytes(), records.with_suffix(".manifest.json").read_bytes()
    code, _, errors = call(*arguments, "initializer_moments", "overflow")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"{records} is an unfinished run (3 of 8 trials) that cannot be continued" in errors
    assert "measure anew with --fresh" in errors
    assert (records.read_bytes(), records.with_suffix(".manifest.json").read_bytes()) == before
    assert not list((tmp_path / "runs").glob("initializer_moments*")), "refused before anything is measured"
    assert call(*arguments, "overflow", "--fresh")[0] == 0
    (older,) = (tmp_path / "runs" / "older").glob("*.jsonl")
    assert older.read_bytes() == before[0]
