"""A results folder: one writer, clear refusals, names that read back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initbench_core.errors import UserError
from initbench_core.records.folder import ResultsFolder, RunName

HOLD = (
    "import sys, time; from pathlib import Path; from initbench_core.records.folder import ResultsFolder\n"
    "folder = ResultsFolder(Path(sys.argv[1])); folder.prepare()\n"
    "with folder.lock(): print('held', flush=True); time.sleep(60)\n"
)


def hold(path: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    try:
        with (
            pytest.raises(UserError, match=f"being written by process {holder.pid} on "),
            ResultsFolder(tmp_path).lock(),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_a_dead_writer_does_not_block(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    started = time.monotonic()
    with ResultsFolder(tmp_path).lock():
        assert time.monotonic() - started < 5


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        ResultsFolder(tmp_path / "file" / "results").prepare()
    with pytest.raises(UserError, match="cannot write"):
        ResultsFolder(tmp_path / ("x" * 300)).prepare()


@pytest.mark.parametrize("name", ["README.md", "index.html"])
def test_the_report_overwrites_nobodys_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"would overwrite .*{name}.*: name another folder with --out"):
        ResultsFolder(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / "tables").mkdir()
    ResultsFolder(tmp_path).prepare()


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    """As an ordinary user: root may write anywhere."""
    tmp_path.chmod(0o555)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        with pytest.raises(UserError, match="choose another folder with --out"):
            ResultsFolder(tmp_path).prepare()
    finally:
        os.seteuid(user)
    assert not list(tmp_path.iterdir())


def test_names_read_back() -> None:
    name = RunName("toy_regression", "quick", "nvidia-h200")
    assert RunName.of(Path(f"{name}.jsonl")) == name
    with pytest.raises(UserError, match="not a file of records"):
        RunName.of(Path("notes.jsonl"))


def test_every_folder_has_a_token_of_its_own(tmp_path: Path) -> None:
    folders = [ResultsFolder(tmp_path / name) for name in "ab"]
    for folder in folders:
        folder.prepare()
    assert folders[0].token() == folders[0].token()
    assert folders[0].token() != folders[1].token()


def test_deriving_needs_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records in"), ResultsFolder(tmp_path).existing():
        pass


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    folder.prepare()
    run = RunName("overflow", "quick", "cpu")
    for text in ("{", "[]", '{"finished": true}', '{"finished": true, "environment": null}'):
        folder.records(run).with_suffix(".manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"overflow-quick-cpu.manifest.json is damaged"):
            folder.manifest(run)
    folder.records(run).with_suffix(".manifest.json").unlink()
    folder.records(run).with_suffix(".manifest.json").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*overflow-quick-cpu.manifest.json: Is a directory"):
        folder.manifest(run)


def test_a_run_is_known_by_its_records_or_its_manifest(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    folder.prepare()
    both, records, manifest = (RunName("overflow", "quick", f"cpu-v1.{i}") for i in range(3))
    for run in (both, records):
        folder.records(run).touch()
    for run in (both, manifest):
        folder.runs.joinpath(f"{run}.manifest.json").touch()
    assert folder.recorded() == [both, records, manifest]
