"""Which backend serves a setting, and what it is recorded as."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from initbench_core.cli import main
from initbench_core.networks.initialize import initialize_
from initbench_core.networks.models import mlp
from initbench_core.training.seeding import initialize_for_
from initbench_core.training.setting import Setting


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INITBENCH_BACKEND", raising=False)


def test_the_device_decides_unless_asked() -> None:
    assert Setting().kernels == "eager"
    assert Setting(device="cuda").kernels == "triton"
    assert Setting(device="cuda", backend="eager").kernels == "eager"


def test_a_named_backend_is_never_replaced() -> None:
    with pytest.raises(RuntimeError, match="need a CUDA tensor"):
        _ = Setting(backend="triton").kernels


@pytest.mark.parametrize(
    ("backend", "message"), [("triton", "need a CUDA tensor"), ("cudnn", "no backend 'cudnn': choose from auto, eager")]
)
def test_a_backend_that_cannot_serve_is_one_line(
    backend: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "overflow", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["initbench", *arguments, "--backend", backend])
    assert main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_the_backend_is_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["initbench", "run", "overflow", "--profile", "smoke", "--out", str(tmp_path)])
    assert main() == 0
    (manifest,) = (tmp_path / "runs").glob("*.json")
    expected = "triton" if torch.cuda.is_available() else "eager"
    assert json.loads(manifest.read_text())["environment"]["backend"] == expected


def test_weights_are_the_same_wherever_they_are_filled() -> None:
    models: list[nn.Module] = [mlp(8, 16, 2, 4) for _ in range(2)]
    initialize_(models[0], "kaiming_normal", seed=3)
    lines = initialize_for_(Setting(), models[1], "kaiming_normal", seed=3)
    assert [line.filled for line in lines][:2] == ["kaiming_normal", "constant(0)"]
    for mine, theirs in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(mine, theirs)
