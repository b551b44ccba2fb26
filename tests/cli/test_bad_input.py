"""What the user must put right: one line, code 2, nothing overwritten."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from initbench_core.experiments import activation_bn, mnist_cnn, plain_depth
from initbench_core.records.store import read
from initbench_core.training.setting import Setting
from tests.cli.command import Call


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
        (("run", "overflow", "--data-dir", "x" * 300), "is no folder"),
        (("run", "overflow", "--data-dir", __file__), f"--data-dir {__file__}: {__file__} is a file; name a folder"),
        (("run", "overflow", "--data-dir", __file__, "--download"), f"{__file__} is a file; name a folder"),
        (("run", "overflow", "--data-dir", f"{__file__}/data", "--download"), f"{__file__} is a file; name a folder"),
        (("run", "overflow", "--executor", "ray", "--cpus-per-trial", "1" * 400), "--cpus-per-trial"),
        *[
            (("run", "overflow", "--executor", "ray", "--gpus-per-trial", gpus), "give a fraction from 0.0001 to 1, or")
            for gpus in ("inf", "0.00001", "1.5")
        ],
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


def test_a_target_that_says_nothing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever always names one digit gets 10% right."""
    monkeypatch.setattr(plain_depth, "TARGET", 0.05)
    code, _, errors = call("run", "plain_depth", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    assert code == 2
    assert "the target validation_accuracy 0.05 on digits5k says nothing: a constant predictor has 0.1" in errors
    assert errors.count("\n") == 1


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


@pytest.mark.parametrize(
    ("module", "field", "value", "says"),
    [
        (plain_depth, "init", "kaimin", "unknown initializer 'kaimin': choose from zeros, constant, normal, "),
        (plain_depth, "init", "dirac", "parameter '1.weight': a Dirac weight needs 3 to 5 dimensions"),
        (plain_depth, "norm", "behind", "unknown place of normalization 'behind': choose from none, before, after"),
        (plain_depth, "data", "digits6k", "unknown data set 'digits6k': choose from digits5k, "),
        (activation_bn, "activation", "rleu", "unknown activation 'rleu': choose from linear, relu, "),
        (mnist_cnn, "implementation", "fast", "unknown implementation of batch normalization 'fast': choose from nat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_configuration_that_cannot_be_built(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, field: str, value: str, says: str
) -> None:
    """It ends the run, in this process and in workers; what was recorded before stays."""
    name = module.__name__.rpartition(".")[2]
    good, *_, last = module.grid(Setting("smoke", seeds=1))
    monkeypatch.setattr(module, "grid", lambda setting: [good, replace(last, **{field: value})])
    if field == "data":
        # Which data sets there are is known before the first trial.
        monkeypatch.setattr(module, "grid", lambda setting: [replace(last, **{field: value})])
    arguments = ("run", name, "overflow", "--profile", "smoke", "--device", "cpu", "--out", tmp_path)
    # Workers have other threads than this process has: what they begin is no continuation.
    for more in ((), ("--jobs", "2", "--fresh")):
        code, _, errors = call(*arguments, *more)
        assert code == 2
        assert errors.startswith(f"initbench: {name}: ")
        assert says in errors
        assert field == "data" or f"{field}={value!r}" in errors
        assert errors.count("\n") == 1
        content = read(tmp_path / "runs" / f"{name}-smoke-cpu.jsonl")
        assert not content.failed
        assert [record.config for record in content.records] == ([] if field == "data" else [vars(good)])
