"""Which records are one study's: whoever computed them, but not of other code or data."""

from pathlib import Path

import pytest
import torch

from initbench_core.experiments import Experiment, overflow
from initbench_core.records.store import read
from initbench_core.training.data import TRAINING_IMAGES
from tests.cli.command import Call, untimed
from tests.initbench_core.training.test_data import write_mnist


def test_workers_record_what_one_process_does(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same number of threads they share their records, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ("run", "toy_regression", "--profile", "smoke", "--seeds", 1, "--device", "cpu", "--out")
    try:
        for jobs in (1, 2):
            assert call(*arguments, tmp_path / str(jobs), "--jobs", jobs)[0] == 0
        assert "all recorded already" in call(*arguments, tmp_path / "1", "--jobs", 2)[1]
    finally:
        torch.set_num_threads(threads)
    one, two = (untimed(tmp_path / str(jobs) / "runs" / "toy_regression-smoke-cpu.jsonl") for jobs in (1, 2))
    assert one == two
    assert len(one) > 20


def test_a_finished_run_is_not_repeated_but_fresh_is(call: Call, tmp_path: Path) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    call(*arguments)
    before = records.read_bytes()
    assert "all recorded already; --fresh measures anew" in call(*arguments)[1]
    assert records.read_bytes() == before
    call(*arguments, "overflow", "--fresh")
    assert len(list((tmp_path / "runs" / "older").glob("*.jsonl"))) == 1, "named twice it runs once"
    assert len(records.read_text().splitlines()) == len(before.splitlines())


def test_edited_code_measures_anew_and_keeps_the_old_records(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    call(*arguments)
    before = records.read_bytes()
    edited = tmp_path / "overflow.py"
    edited.write_text(Path(overflow.__file__).read_text() + "\n# Another config.\n")
    # The title is read from there, too.
    monkeypatch.setattr(Experiment, "source", edited)
    _, output, _ = call(*arguments)
    assert "earlier records of other code, data or another environment are now in" in output
    (older,) = (tmp_path / "runs" / "older").glob("*.jsonl")
    assert older.read_bytes() == before
    assert untimed(records) == untimed(older)


def test_two_data_sets_are_never_pooled(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINING_IMAGES, "mnist", 48)
    arguments = (
        "run",
        "mnist_cnn",
        "--profile",
        "smoke",
        "--seeds",
        1,
        "--device",
        "cpu",
        "--out",
        tmp_path / "results",
    )
    assert call(*arguments)[0] == 0
    write_mnist(tmp_path / "data")
    assert call(*arguments, "--data-dir", tmp_path / "data")[0] == 0
    records = read(tmp_path / "results" / "runs" / "mnist_cnn-smoke-cpu.jsonl").records
    assert {r.config["data"] for r in records} == {"mnist"}
    assert len(list((tmp_path / "results" / "runs" / "older").glob("*.jsonl"))) == 1
