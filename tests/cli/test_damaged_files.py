"""Records, data sets and checkpoints that cannot be read: one line, code 2, nothing lost."""

import json
from pathlib import Path

import pytest
from interrupted import as_if_interrupted

from initbench_core.experiments import overflow
from initbench_core.records.schema import SCHEMA, Record, seal, to_line
from initbench_core.records.store import read
from initbench_core.training import checkpoint
from tests.cli.command import Call, untimed


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
        assert f"schema 7, this version reads {SCHEMA}: update initbench" in errors
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
    assert f"{records}:1: records of schema 0, this version reads {SCHEMA}: measure again with --fresh" in errors
    assert errors.count("\n") == 1
    assert output == ""
    assert [path.name for path in (tmp_path / "runs").glob("*.jsonl")] == [records.name]
    assert (tmp_path / "README.md").read_bytes() == report
    assert call("run", "overflow", "--fresh", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)[0] == 0


def test_records_that_an_earlier_version_measured_otherwise(call: Call, tmp_path: Path) -> None:
    """Of the same schema, with metrics of other names: nothing can be told of them, and nothing is overwritten."""
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call(*arguments)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    bodies = [json.loads(line.replace("limit_power", "power_limit")) for line in records.read_text().splitlines()]
    records.write_text("".join(seal({k: v for k, v in body.items() if k != "crc"}) for body in bodies))
    before = files(tmp_path)
    for command in ("report", "plot"):
        code, _, errors = call(command, "--out", tmp_path)
        assert code == 2
        assert errors.startswith(f"initbench: {records} cannot be presented (KeyError: 'limit_power' at experiments/")
        assert "another version may have recorded it otherwise, or this one has a fault" in errors
        assert f"`initbench run overflow --profile smoke --device cpu --seeds 1 --out {tmp_path}`" in errors
        assert errors.count("\n") == 1
        assert files(tmp_path) == before
    assert call(*arguments, "--fresh")[0] == 0


def test_a_manifest_that_does_not_tell_the_machine(call: Call, tmp_path: Path) -> None:
    call("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    manifest = tmp_path / "runs" / "overflow-smoke-cpu.manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"environment": {"device": "cpu"}}))
    before = files(tmp_path)
    for command in (("report", "--out", tmp_path), ("plot", "--out", tmp_path), ("compare", tmp_path, tmp_path)):
        code, output, errors = call(*command)
        assert (code, output) == (2, "")
        assert errors.startswith(f"initbench: {manifest} is damaged (its environment lacks device_name, cores, ")
        assert errors.count("\n") == 1
        assert files(tmp_path) == before


def test_a_fault_of_this_version_is_not_laid_to_another(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records are sound; the line says where to look, even if the error has several lines."""
    call("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    records, before = tmp_path / "runs" / "overflow-smoke-cpu.jsonl", files(tmp_path)

    def fails(*_: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(overflow, "per_trial", fails)
    for command in ("report", "plot"):
        code, _, errors = call(command, "--out", tmp_path)
        assert code == 2
        assert errors.startswith(f"initbench: {records} cannot be presented (ValueError: two lines at experiments/over")
        assert "or this one has a fault" in errors
        assert errors.count("\n") == 1
        assert files(tmp_path) == before


def test_a_foreign_file_among_the_records(call: Call, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.jsonl").write_text("hello\n")
    code, _, errors = call("report", "--out", tmp_path)
    assert code == 2
    assert "notes.jsonl is not a file of records" in errors


def files(folder: Path) -> dict[Path, bytes]:
    """Return what a folder holds, but for the traces of locks."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    "lines",
    [None, slice(0, 0), slice(3), slice(3, None)],
    ids=["file lost", "empty", "end cut", "beginning cut"],
)
def test_a_finished_run_that_lost_trials_is_refused_and_made_whole_by_the_same_command(
    call: Call, tmp_path: Path, lines: slice | None
) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call(*arguments)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    whole = untimed(records)
    if lines:
        records.write_text("".join(records.read_text().splitlines(keepends=True)[lines]))
    else:
        records.unlink()
    before, left = files(tmp_path), len(read(records).records)
    others = ("run", "signal_propagation", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    for command in (
        ("report", "--out", tmp_path),
        ("plot", "--out", tmp_path),
        ("compare", tmp_path, tmp_path),
        others,
    ):
        code, output, errors = call(*command)
        assert (code, output) == (2, "")
        assert errors.startswith(f"initbench: {records} has lost trials, {left} of 8 are there: ")
        assert f"`initbench run overflow --profile smoke --device cpu --seeds 1 --out {tmp_path}`" in errors
        assert errors.count("\n") == 1
        assert files(tmp_path) == before
    assert call(*arguments)[0] == 0
    assert untimed(records) == whole
    manifest = json.loads(records.with_suffix(".manifest.json").read_text())
    assert (manifest["finished"], manifest["trials"]) == (True, 8)
    assert call("report", "--out", tmp_path)[0] == 0


def test_what_is_no_run_is_refused_and_nothing_is_overwritten(call: Call, tmp_path: Path) -> None:
    """Without a finished manifest too: garbage, records of another experiment, and those of none."""
    call("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    own = (tmp_path / "runs" / "overflow-smoke-cpu.jsonl").read_text()
    foreign = tmp_path / "runs" / "foo-quick-cpu.jsonl"
    unknown = to_line(Record("foo", {"seed": 0}, "me", []))
    for text, says in (
        ("garbage\n", "is not a file of records: no line of it is one; move it away"),
        (own, "holds records of overflow, not of foo: move it away"),
        (unknown, "no experiment 'foo': choose from"),
    ):
        foreign.write_text(text)
        before = files(tmp_path)
        for command in ("report", "plot"):
            code, output, errors = call(command, "--out", tmp_path)
            assert (code, output) == (2, "")
            assert errors.startswith(f"initbench: {foreign}")
            assert says in errors
            assert errors.count("\n") == 1
            assert files(tmp_path) == before


def test_records_of_another_experiment_are_named_when_they_move_aside(call: Call, tmp_path: Path) -> None:
    options = ("--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call("run", "overflow", *options)
    for mine in (tmp_path / "runs").glob("overflow-smoke-cpu.*"):
        mine.rename(mine.with_name(mine.name.replace("overflow", "signal_propagation")))
    code, output, _ = call("run", "signal_propagation", *options)
    assert code == 0
    older = tmp_path / "runs" / "older"
    assert f"records of overflow that were in signal_propagation-smoke-cpu.jsonl are now in {older}" in output


def test_a_run_killed_in_mid_line_is_unfinished_and_continued(call: Call, tmp_path: Path) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call(*arguments)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    for lines in (0, 3):
        as_if_interrupted(records)
        whole = records.read_text().splitlines(keepends=True)
        records.write_text("".join([*whole[:lines], whole[lines][:50]]))
        assert call("report", "--out", tmp_path)[0] == 0
        assert f"is unfinished: {lines} of 8" in (tmp_path / "README.md").read_text()
        assert f"{8 - lines} of 8 trials are missing" in call("plot", "--out", tmp_path)[2]
        assert call(*arguments)[0] == 0
        assert len(read(records).records) == 8
        assert "is unfinished" not in (tmp_path / "README.md").read_text()


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
