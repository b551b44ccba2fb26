"""Quick help, the list, a run and what is derived from it."""

import resource
import subprocess
from itertools import pairwise
from pathlib import Path

from initbench_core.experiments import names
from tests.cli.command import COMMAND, ENVIRONMENT, Call


def test_help_answers_at_once() -> None:
    """Under 0.5 s of processor time, the least of five: the wall's clock would count what other processes take."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, env=ENVIRONMENT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help_fills_the_lines_of_a_terminal() -> None:
    for command in ("run", "plot", "report", "compare"):
        done = subprocess.run(
            [*COMMAND, command, "--help"],
            check=True,
            capture_output=True,
            encoding="utf-8",
            env=ENVIRONMENT | {"COLUMNS": "80", "PYTHONUTF8": "1"},
        )
        prose = [line.strip() for line in done.stdout.partition("╭")[0].splitlines()]
        for line, following in pairwise(prose):
            if line and following:
                assert len(f"{line} {following.split()[0]}") > 76, f"{following!r} could begin in the line before"


def test_list_names_every_experiment(call: Call) -> None:
    code, output, _ = call("list")
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == names()


def test_run_plot_report(call: Call, tmp_path: Path) -> None:
    code, output, _ = call("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    assert code == 0
    assert f"Records: {tmp_path}/runs/*.jsonl" in output
    assert "\x1b" not in output, "plain lines where the output is no terminal"
    figure = tmp_path / "figures" / "overflow-powers-smoke-cpu.png"
    report = tmp_path / "README.md"
    page = tmp_path / "index.html"
    assert f"Report:  {report}, {page}" in output
    for derived, command in (
        (figure, ("plot",)),
        (figure, ("plot", "overflow")),
        (report, ("report",)),
        (page, ("report",)),
    ):
        derived.unlink()
        assert call(*command, "--out", tmp_path)[0] == 0
        assert derived.exists()


def test_checkpoints_and_tensorboard_go_where_asked(call: Call, tmp_path: Path) -> None:
    options = ("--checkpoints", tmp_path / "c", "--tensorboard", tmp_path / "t", "--out", tmp_path / "results")
    assert call("run", "cifar_mlp", "--profile", "smoke", "--seeds", 1, "--device", "cpu", *options)[0] == 0
    assert len(list((tmp_path / "t").rglob("events.out.tfevents.*"))) == 4
    assert not list((tmp_path / "c").iterdir()), "recorded trials need no checkpoint"
