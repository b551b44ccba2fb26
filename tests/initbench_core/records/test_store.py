"""Files of records under faults: torn, damaged, foreign, full, killed in mid-write."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from initbench_core.errors import UserError
from initbench_core.records import files
from initbench_core.records.files import append_line, replace_file
from initbench_core.records.schema import Failure, Record, scalar, seal, to_line
from initbench_core.records.store import RecordFile, read


def record(seed: int, identity: str = "here", value: float = 1.0) -> Record:
    return Record("exp", {"seed": seed}, identity, [scalar("loss", "1", value)])


def open_file(
    path: Path, identity: str = "here", *, fresh: bool = False, trials: int = 3, **changed: object
) -> RecordFile:
    environment = {"device": "cpu", "threads": 2, "packages": {"torch": "2.15.0"}, **changed}
    return RecordFile(path, identity, {"profile": "quick", "trials": trials, "environment": environment}, fresh=fresh)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "exp-quick-cpu.jsonl"
    records = open_file(path)
    for seed in range(3):
        records.append(record(seed))
    return path


def seeds(path: Path) -> list[object]:
    return [r.config["seed"] for r in read(path).records]


def test_finished_trials_count_as_done(path: Path) -> None:
    again = open_file(path)
    assert again.is_done("exp", {"seed": 2})
    assert not again.is_done("exp", {"seed": 3})
    again.append(record(3))
    assert seeds(path) == [0, 1, 2, 3]


def test_a_torn_last_line_is_set_aside_and_its_trial_runs_again(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + to_line(record(3)).encode()[:50])
    again = open_file(path)
    assert not again.is_done("exp", {"seed": 3})
    assert [w for w in again.warnings if "exp-quick-cpu.jsonl:4: an unfinished last line" in w]
    assert path.read_bytes() == whole
    again.append(record(3))
    assert seeds(path) == [0, 1, 2, 3]


def test_a_damaged_line_is_quarantined_and_nothing_else_is_lost(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("1.0", "2.0")
    path.write_text("".join(lines))
    again = open_file(path)
    assert seeds(path) == [0, 2]
    assert not again.is_done("exp", {"seed": 1})
    assert [w for w in again.warnings if ":2: a damaged line" in w]
    assert lines[1].strip() in path.with_suffix(".damaged").read_text()


def test_reading_alone_repairs_nothing(path: Path) -> None:
    path.write_text(path.read_text() + "{half")
    before = path.read_bytes()
    assert read(path).torn
    assert path.read_bytes() == before


def test_records_of_another_environment_move_aside_with_the_first_new_one(path: Path) -> None:
    open_file(path).finish()
    before = path.read_bytes()
    other = open_file(path, "elsewhere")
    assert not other.is_done("exp", {"seed": 0})
    assert path.read_bytes() == before, "opening alone must not touch what is there"
    other.append(record(0, "elsewhere", 5.0))
    assert [r.identity for r in read(path).records] == ["elsewhere"]
    (older,) = (path.parent / "older").glob("*.jsonl")
    assert older.read_bytes() == before
    assert list((path.parent / "older").glob("*.manifest.json"))


def test_an_unfinished_run_of_another_environment_is_refused_until_asked_for(path: Path) -> None:
    """Finished records are outdated by new ones; those of a sweep that was interrupted may be hours of work."""
    open_file(path).finish()
    longer = open_file(path, trials=5)
    longer.append(record(3))
    before = path.read_bytes(), longer.manifest_path.read_bytes()
    with pytest.raises(UserError, match=r"4 of 5 trials.*threads 2, now 1, torch 2\.15\.0, now 2\.16\.0; .*--fresh"):
        open_file(path, "elsewhere", trials=5, threads=1, packages={"torch": "2.16.0"})
    with pytest.raises(UserError, match="begun by other code"):
        open_file(path, "elsewhere", trials=5)
    assert (path.read_bytes(), longer.manifest_path.read_bytes()) == before
    open_file(path, "elsewhere", fresh=True).append(record(0, "elsewhere"))
    assert seeds(path) == [0]
    (older,) = (path.parent / "older").glob("*.jsonl")
    assert older.read_bytes() == before[0]


def test_fresh_counts_nothing_as_done_and_loses_nothing(path: Path) -> None:
    fresh = open_file(path, fresh=True)
    assert not fresh.is_done("exp", {"seed": 0})
    fresh.append(record(0))
    assert seeds(path) == [0]
    assert len(list((path.parent / "older").glob("*.jsonl"))) == 1


def test_two_set_aside_in_one_second_do_not_overwrite_each_other(path: Path) -> None:
    for _ in range(3):
        open_file(path, fresh=True).append(record(0))
    assert len(list((path.parent / "older").glob("*.jsonl"))) == 3


def test_the_manifest_says_when_all_is_recorded(path: Path) -> None:
    records = open_file(path)
    assert '"finished": false' in records.manifest_path.read_text()
    records.finish()
    assert '"finished": true' in records.manifest_path.read_text()


def test_an_extension_is_unfinished_until_it_is_complete(path: Path) -> None:
    open_file(path).finish()
    more = open_file(path, trials=5)
    more.append(record(3))
    assert '"finished": false' in more.manifest_path.read_text()
    # The shorter command again has nothing to do, and does not make the file whole.
    open_file(path, trials=3).finish()
    assert '"finished": false' in more.manifest_path.read_text()
    rest = open_file(path, trials=5)
    rest.append(record(4))
    rest.finish()
    assert '"finished": true' in rest.manifest_path.read_text()


def test_a_manifest_of_a_finished_run_stays_as_it_is(path: Path) -> None:
    open_file(path).finish()
    before = open_file(path).manifest_path.read_bytes()
    RecordFile(path, "here", {"profile": "quick", "trials": 3, "commit": "a later one"}).finish()
    assert open_file(path).manifest_path.read_bytes() == before


def test_a_shorter_command_has_no_say_in_when_a_longer_ones_run_is_finished(path: Path) -> None:
    """Twenty seeds, one of them failed; then five seeds, which try that one again."""
    longer = open_file(path, trials=5)
    longer.append(record(3))
    longer.append(failed(4))
    longer.finish()
    shorter = RecordFile(path, "here", {"profile": "quick", "seeds": 1, "trials": 1})
    shorter.append(record(4))
    assert json.loads(shorter.manifest_path.read_text())["finished"] is False
    shorter.finish()
    manifest = json.loads(shorter.manifest_path.read_text())
    assert (manifest["finished"], manifest["trials"]) == (True, 5)


def test_a_run_that_lost_lines_is_finished_by_the_same_command(path: Path) -> None:
    open_file(path).finish()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    again = open_file(path)
    assert not again.is_done("exp", {"seed": 0})
    again.append(record(0))
    assert '"finished": false' in again.manifest_path.read_text()
    again.finish()
    assert '"finished": true' in again.manifest_path.read_text()
    assert sorted(map(str, seeds(path))) == ["0", "1", "2"]


def test_records_of_another_experiment_move_aside_and_are_named(path: Path) -> None:
    foreign = path.with_name("other-quick-cpu.jsonl")
    path.rename(foreign)
    records = open_file(foreign)
    assert not records.is_done("exp", {"seed": 0})
    records.append(replace(record(0), experiment="other"))
    older = foreign.parent / "older"
    assert records.warnings == [f"records of exp that were in other-quick-cpu.jsonl are now in {older}"]
    assert [r.experiment for r in read(foreign).records] == ["other"]


def test_a_newer_schema_is_refused_with_its_place(path: Path) -> None:
    body = json.loads(path.read_text().splitlines()[0])
    del body["crc"]
    path.write_text(seal({**body, "schema": 9}))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"exp-quick-cpu.jsonl:1: records of schema 9"):
        open_file(path)
    assert path.read_bytes() == before


def test_fresh_measures_anew_beside_a_schema_that_cannot_be_read(path: Path) -> None:
    body = json.loads(path.read_text().splitlines()[0])
    del body["crc"]
    path.write_text(seal({**body, "schema": 0}))
    before = path.read_bytes()
    open_file(path, fresh=True).append(record(0))
    assert seeds(path) == [0]
    (older,) = (path.parent / "older").glob("*.jsonl")
    assert older.read_bytes() == before


def failed(seed: int) -> Record:
    return Record("exp", {"seed": seed}, "here", [], failure=Failure("timeout", "longer than 1 s"))


def test_a_failed_trial_is_recorded_but_not_done(path: Path) -> None:
    records = open_file(path, trials=4)
    records.append(failed(3))
    records.finish()
    assert '"finished": true' in records.manifest_path.read_text()
    again = open_file(path, trials=4)
    assert not again.is_done("exp", {"seed": 3})
    assert [r.config["seed"] for r in read(path).failed] == [3]
    assert seeds(path) == [0, 1, 2]
    # The last record of a trial is the one that holds.
    again.append(record(3))
    again.finish()
    assert not read(path).failed
    assert seeds(path) == [0, 1, 2, 3]
    assert not open_file(path, trials=4).failed


def test_failed_trials_survive_the_repair_of_a_damaged_line(path: Path) -> None:
    open_file(path, trials=4).append(failed(3))
    path.write_text(path.read_text() + "{half")
    assert list(open_file(path, trials=4).failed) == [failed(3).key]
    assert [r.key for r in read(path).failed] == [failed(3).key]


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x85", "\u2028"])
def test_a_damaged_line_stays_one_line(path: Path, character: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace("loss", f"lo{character}s") + lines[2])
    content = read(path)
    assert [number for number, _ in content.damaged] == [2]
    assert not content.torn


def test_a_full_disk_takes_the_line_back_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    write = os.write

    def short_write(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[:7])

    monkeypatch.setattr(files.os, "write", short_write)
    with pytest.raises(UserError, match="no space left"):
        open_file(path).append(record(3))
    assert path.read_bytes() == before


def test_a_file_size_limit_of_the_system_keeps_earlier_records(path: Path) -> None:
    """A real refusal by the kernel, in a process of its own."""
    size = path.stat().st_size
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from initbench_core.records.files import append_line\n"
        "from initbench_core.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 10}, {size + 10}))\n"
        "try: append_line(Path(sys.argv[1]), 'x' * 100 + '\\n')\n"
        "except UserError as error: print(error); sys.exit(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert path.stat().st_size == size


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    replace_file(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from initbench_core.records import files\n"
        "files.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.replace_file(Path(sys.argv[1]), b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    replace_file(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot write .* --out"), (errno.EIO, "cannot write")],
)
def test_refusals_become_one_line(number: int, says: str) -> None:
    error = files.describe(OSError(number, os.strerror(number)), Path("results"))
    assert "\n" not in str(error)
    with pytest.raises(UserError, match=says):
        raise error


def test_appends_of_two_processes_do_not_tear(tmp_path: Path) -> None:
    """The lock keeps one writer; should it fail, lines still stay whole."""
    path = tmp_path / "lines"
    code = (
        "import sys; from pathlib import Path; from initbench_core.records.files import append_line\n"
        "for i in range(200): append_line(Path(sys.argv[1]), sys.argv[2] * 300 + '\\n')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    assert sorted(set(path.read_text().splitlines())) == ["a" * 300, "b" * 300]
    assert len(path.read_text().splitlines()) == 400


def test_append_creates_the_file(tmp_path: Path) -> None:
    append_line(tmp_path / "new", "x\n")
    assert (tmp_path / "new").read_text() == "x\n"
