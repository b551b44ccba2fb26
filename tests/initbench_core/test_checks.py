"""The two commands that judge speed: what they say where they cannot measure, and what they count."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from initbench_core.cpu_check import peak_activations
from initbench_kernels import BatchNormReLU1d


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a CUDA device")
def test_gpu_check_without_a_gpu() -> None:
    """One line that says what is missing, and exit status 2."""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "initbench_core.gpu_check"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "CUDA" in done.stderr


def test_fused_module_holds_one_activation_less() -> None:
    """At its peak the pair holds the batch norm's output and the ReLU's; the fused module holds one tensor."""
    x = torch.randn(4096, 64, requires_grad=True)
    pair = peak_activations(nn.Sequential(nn.BatchNorm1d(64), nn.ReLU()), x)
    fused = peak_activations(BatchNormReLU1d(64), x)
    assert 2.0 <= pair < 2.1
    assert 1.0 <= fused < 1.1
