"""The fills on a CUDA device: the bits of the CPU, by the compiled kernel and by eager PyTorch."""

import math

import pytest
import torch
from gpu_device import DEVICE, REHEARSING, needs_hardware, sized
from random_fill_cases import CASES, DTYPES, SEED
from torch import nn

from initbench_core.networks import initialize_
from initbench_kernels import Fill, fill_
from initbench_kernels.random_fill import bits, eager, rows

pytestmark = pytest.mark.gpu


def tensors(device: str) -> list[torch.Tensor]:
    """A long one, one of every dtype, views of up to six strides, a scalar, an empty one, and many small ones."""
    found = [torch.full(sized(5_000_003), math.nan, device=device)]
    found += [torch.full(sized(70_001), math.nan, device=device, dtype=dtype) for dtype in DTYPES]
    found += [torch.full((80, 90), math.nan, device=device)[:, 1::2], torch.full((7, 9), math.nan, device=device).t()]
    found += [torch.full((6, 8, 4, 9), math.nan, device=device).to(memory_format=torch.channels_last)]
    found += [torch.full((2, 3, 4, 3, 3, 8), math.nan, device=device)[:, ::2, ::2, ::2, ::2, ::2]]
    found += [torch.full((), math.nan, device=device), torch.full((0, 3), math.nan, device=device)]
    many = 60 if REHEARSING else 2000
    return found + [torch.full((1 + i % 13,), math.nan, device=device, dtype=DTYPES[i % 4]) for i in range(many)]


def filled(device: str, case: str, backend: str) -> list[torch.Tensor]:
    distribution, numbers = CASES[case]
    filled = tensors(device)
    fills = [Fill(t, distribution, i, offset=2**34 * (i % 3), **numbers) for i, t in enumerate(filled)]
    fill_(fills, seed=SEED, backend=backend)
    return filled


@pytest.mark.parametrize("backend", ["triton", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_both_backends_write_the_bits_of_the_cpu(case: str, backend: str) -> None:
    for found, wanted in zip(filled(DEVICE, case, backend), filled("cpu", case, "eager"), strict=True):
        assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_plain_integer_words_give_the_same_values(distribution: str) -> None:
    found, wanted = torch.empty(300_001, device=DEVICE), torch.empty(300_001)
    eager.Loads(rows.check_rows([Fill(found, distribution, "w")])).fill_(SEED, words=bits.plain_words_)
    fill_([Fill(wanted, distribution, "w")], seed=SEED)
    assert torch.equal(found.cpu(), wanted)


@needs_hardware
def test_blocks_beyond_2_31_values() -> None:
    size = 2**31 + 1500
    if torch.cuda.mem_get_info()[0] < 3 * size:
        pytest.skip("needs 6 GB of GPU memory")
    found, wanted = torch.empty(size, device=DEVICE, dtype=torch.bfloat16), torch.empty(3000, dtype=torch.bfloat16)
    fill_([Fill(found, "normal", "w")], seed=SEED)
    fill_([Fill(wanted, "normal", "w", offset=size - 3000)], seed=SEED)
    assert torch.equal(found[-3000:].cpu(), wanted)


@pytest.mark.parametrize("scheme", ["kaiming_normal", "torch_default", "kaiming_truncated_normal", "orthogonal"])
def test_models_are_those_of_the_cpu(scheme: str) -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(30, 20), nn.Linear(20, 5).bfloat16())

    on_gpu, on_cpu = model().to(DEVICE), model()
    assert initialize_(on_gpu, scheme, seed=1) == initialize_(on_cpu, scheme, seed=1)
    for found, wanted in zip(on_gpu.state_dict().values(), on_cpu.state_dict().values(), strict=True):
        assert torch.equal(found.cpu(), wanted)


def test_one_call_fills_a_model_on_two_devices() -> None:
    parts = [torch.empty(1000, device=device) for device in ("cpu", DEVICE)]
    fill_([Fill(t, "normal", "w") for t in parts], seed=SEED)
    assert torch.equal(parts[1].cpu(), parts[0])
