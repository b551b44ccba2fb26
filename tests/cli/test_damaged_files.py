"""Records, data sets and checkpoints that cannot be read: one line, code 2, nothing lost."""

import json
from pathlib import Path

import pytest

from initbench_core.records.schema import seal
from initbench_core.records.store import read
from initbench_core.training import checkpoint
from tests.cli.command import Call


def test_records_of_a_newer_schema(call: Call, tmp_path: Path) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call(*arguments)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    bodies = [json.loads(line) for line in records.read_text().splitlines()]
    records.write_text("".join(seal({k: v for k, v in b.items() if k != "crc"} | {"schema": 7}) for b in bodies))
    before = records.read_bytes()
    for command in (arguments, ("report", "--out", tmp_path), ("plot", "--out", tmp_path)):
        code, _, errors = call(*command)
        assert code == 2
        assert "schema 7, this version reads 2: update initbench" in errors
    assert records.read_bytes() == before


def test_records_of_another_schema_are_found_before_anything_runs(call: Call, tmp_path: Path) -> None:
    def run(*experiments: str) -> tuple[int, str, str]:
        return call("run", *experiments, "--profile", "smoke", "--device", "cpu", "--out", tmp_path)

    run("overflow")
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    body = json.loads(records.read_text().splitlines()[0])
    records.write_text(seal({k: v for k, v in body.items() if k != "crc"} | {"schema": 0}))
    report = (tmp_path / "README.md").read_bytes()
    code, output, errors = run("signal_propagation", "overflow")
    assert code == 2
    assert f"{records}:1: records of schema 0, this version reads 2: measure again with --fresh" in errors
    assert errors.count("\n") == 1
    assert output == ""
    assert [path.name for path in (tmp_path / "runs").glob("*.jsonl")] == [records.name]
    assert (tmp_path / "README.md").read_bytes() == report
    assert call("run", "overflow", "--fresh", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)[0] == 0


def test_a_foreign_file_among_the_records(call: Call, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.jsonl").write_text("hello\n")
    code, _, errors = call("report", "--out", tmp_path)
    assert code == 2
    assert "notes.jsonl is not a file of records" in errors


def test_a_damaged_data_set_leaves_existing_records_alone(call: Call, tmp_path: Path) -> None:
    data = tmp_path / "data" / "cifar-10-batches-py"
    data.mkdir(parents=True)
    (data / "data_batch_1").write_bytes(b"junk")
    out = tmp_path / "results"
    arguments = ("run", "cifar_mlp", "--profile", "smoke", "--seeds", 1, "--device", "cpu", "--out", out)
    assert call(*arguments)[0] == 0
    before = (out / "runs" / "cifar_mlp-smoke-cpu.jsonl").read_bytes()
    code, _, errors = call(*arguments, "--data-dir", tmp_path / "data")
    assert code == 2
    assert "CIFAR10 under" in errors
    assert errors.count("\n") == 1
    assert (out / "runs" / "cifar_mlp-smoke-cpu.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_in_a_named_folder_is_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left by a run that died before it recorded its trial, then damaged."""
    out, checkpoints = tmp_path / "results", tmp_path / "c"
    options = ("--profile", "smoke", "--seeds", 1, "--device", "cpu", "--out", out, "--checkpoints", checkpoints)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "delete", lambda path: None)
        assert call("run", "cifar_mlp", *options)[0] == 0
    (out / "runs" / "cifar_mlp-smoke-cpu.jsonl").unlink()
    for path in checkpoints.glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, _, errors = call("run", "cifar_mlp", *options)
    assert code == 2
    assert "is damaged (its sha256 does not fit): delete it" in errors
    assert errors.count("\n") == 1
    # In the folder's own place the training starts anew and says so in its record.
    (out / "checkpoints").mkdir()
    for path in checkpoints.iterdir():
        path.rename(out / "checkpoints" / path.name)
    assert call("run", "cifar_mlp", *options[:-2])[0] == 0
    assert all("started anew" in r.notes[0] for r in read(out / "runs" / "cifar_mlp-smoke-cpu.jsonl").records)
