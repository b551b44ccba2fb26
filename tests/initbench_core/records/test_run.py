"""What is derived from is one run, whole: nothing of it damaged, foreign or lost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from interrupted import as_if_interrupted

from initbench_core.environment import DESCRIBED, describe
from initbench_core.errors import UserError
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.run import command, read_run
from initbench_core.records.schema import Failure, Record, scalar, to_line
from initbench_core.records.store import RecordFile

RUN = RunName("exp", "quick", "cpu")
TRIALS = 4


def record(seed: int) -> Record:
    return Record("exp", {"seed": seed}, "here", [scalar("loss", "1", 1.0)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished run whose last trial failed."""
    folder = ResultsFolder(tmp_path)
    folder.prepare()
    manifest = {"trials": TRIALS, "seeds": TRIALS, "environment": describe("cpu")}
    file = RecordFile(folder.records(RUN), "here", manifest)
    for seed in range(TRIALS - 1):
        file.append(record(seed))
    file.append(Record("exp", {"seed": TRIALS - 1}, "here", [], failure=Failure("timeout", "longer than 1 s")))
    file.finish()
    return file.path


def test_a_finished_run_has_all_its_trials_failed_ones_included(path: Path) -> None:
    run = read_run(path, RUN)
    assert run.is_finished
    assert (run.trials, len(run.content.records), len(run.content.failed)) == (4, 3, 1)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_finished_run_that_lost_trials_is_refused(path: Path, left: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[TRIALS - left :]))
    again = f"`initbench run exp --profile quick --device cpu --seeds 4 --out {path.parents[1]}`"
    with pytest.raises(UserError) as refused:
        read_run(path, RUN)
    assert str(refused.value).startswith(f"{path} has lost trials, {left} of 4 are there: bring the file back, or ")
    assert again in str(refused.value)
    with pytest.raises(UserError, match=f"{left} of 4 are there: .* with the command that measured them"):
        read_run(path)


def test_a_line_twice_does_not_make_up_for_one_that_is_lost(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[0], *lines[2:]]))
    with pytest.raises(UserError, match="has lost trials, 3 of 4 are there"):
        read_run(path, RUN)


def test_more_trials_than_the_manifest_says(path: Path) -> None:
    path.write_text(path.read_text() + to_line(record(7)))
    with pytest.raises(UserError, match="holds 5 trials, 4 by its manifest: measure again with --fresh"):
        read_run(path, RUN)


def test_a_run_that_was_killed_may_lack_trials_and_half_a_line(path: Path) -> None:
    as_if_interrupted(path)
    whole = path.read_text()
    for text, trials in (("", 0), (whole[:30], 0), (whole[:-30], 3), (whole, 4)):
        path.write_text(text)
        run = read_run(path, RUN)
        assert not run.is_finished
        assert run.trials == trials


def test_a_run_that_was_killed_is_held_against_its_name_all_the_same(path: Path) -> None:
    as_if_interrupted(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "garbage\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"is damaged in 1 of its lines \(2\)"):
        read_run(path, RUN)
    path.write_text("".join(lines))
    with pytest.raises(UserError, match="holds records of exp, not of other: move it away"):
        read_run(path, RunName("other", "quick", "cpu"))


def test_without_a_manifest_records_are_unfinished_and_garbage_is_no_run(path: Path) -> None:
    path.with_suffix(".manifest.json").unlink()
    run = read_run(path, RUN)
    assert not run.is_finished
    assert run.trials == 4
    for garbage in ("", "garbage", "garbage\n"):
        path.write_text(garbage)
        with pytest.raises(UserError, match="is not a file of records: no line of it is one; move it away"):
            read_run(path, RUN)


def test_two_runs_in_one_file(path: Path) -> None:
    """Appended by hand: records of another experiment, or of another machine."""
    whole = path.read_text()
    path.write_text(whole + to_line(replace(record(3), identity="there")))
    with pytest.raises(UserError, match="mixes records of 2 machines, versions or codes"):
        read_run(path)
    path.write_text(whole + to_line(replace(record(3), experiment="other")))
    with pytest.raises(UserError, match="mixes records of exp, other"):
        read_run(path)


@pytest.mark.parametrize(
    ("environment", "lacks"),
    [
        ({}, "device, device_name, cores, threads, platform, python, cuda, packages, commit, dirty"),
        ({"device": "cpu", **{name: "?" for name in DESCRIBED if name != "threads"}}, "threads"),
        (dict.fromkeys(DESCRIBED, "?"), "packages"),
    ],
)
def test_a_manifest_that_does_not_tell_the_machine(path: Path, environment: dict[str, str], lacks: str) -> None:
    """Finished or not, nothing can be said of its numbers."""
    manifest = path.with_suffix(".manifest.json")
    for finished in (True, False):
        body = json.loads(manifest.read_text()) | {"environment": environment, "finished": finished}
        manifest.write_text(json.dumps(body))
        with pytest.raises(UserError, match=rf"manifest.json is damaged \(its environment lacks {lacks}\): measure"):
            read_run(path)


def test_a_run_has_the_command_that_its_manifest_names() -> None:
    manifest = {"command": "python -m check", "environment": {"device": "cuda"}}
    assert command(RUN, manifest, Path("results")) == "python -m check"
