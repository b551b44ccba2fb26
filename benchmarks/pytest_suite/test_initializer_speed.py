"""Initializers: a loop of torch.nn.init against keyed fills, within a workload and distribution."""

import math
from collections.abc import Callable

import pytest
import torch

from initbench_core.experiments.initializer_speed import CONTENDERS, DISTRIBUTIONS, Config, contender
from initbench_core.measurement.fills import STD, torch_loop, workload_tensors
from initbench_core.measurement.roofline import FILL_PASSES

WORKLOADS = ("tensor_1000000", "mlp_100x64")
LOOP = "torch.nn.init"
# Standard deviations of what is drawn: uniform on +-STD, normal, and normal cut off at two of its own.
EXPECTED_STD = {"uniform": STD / math.sqrt(3), "normal": STD, "truncated_normal": 0.8796 * STD}
# Five standard errors of a standard deviation over 400,000 values or more, of a normal.
RELATIVE_ERROR = 5 / math.sqrt(2 * 400_000)


@pytest.mark.parametrize("name", [LOOP, *CONTENDERS])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_initializer(workload: str, distribution: str, name: str, timed: Callable[..., None], device: str) -> None:
    if name == "plain_words" and device != "cpu":
        pytest.skip("plain_words: the CPU's way alone")
    tensors = workload_tensors(workload, device)
    fill = (
        torch_loop(tensors, distribution) if name == LOOP else contender(tensors, Config(workload, distribution, name))
    )
    fill()
    drawn = torch.cat([t.flatten() for t in tensors.values() if t.dim() > 1 or len(tensors) == 1])
    assert abs(float(drawn.std()) / EXPECTED_STD[distribution] - 1) < RELATIVE_ERROR
    if name != LOOP:
        # Values of a key are the same from every source of words and on every device.
        expected = workload_tensors(workload, "cpu")
        contender(expected, Config(workload, distribution, "plain_words"))()
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor.cpu(), expected[key], rtol=0.0, atol=0.0)
    num_bytes = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    timed(fill, group=f"{distribution} fill, {workload}", dtype="float32", num_bytes=num_bytes, passes=FILL_PASSES)
