"""Raw random words on any device: torch's stateless Philox operators, or plain integer arithmetic; the same bits.

torch's operators are private and may change, so they serve a device only after their words there agreed with the
reference on a handful of counters, carries included.
"""

import functools
from collections.abc import Callable

import torch

from initbench_kernels.random_fill.reference import WORD, philox4x32, uniform

# (Philox key, first group): a zero key, a key with the top bit set, and a carry into the second counter word.
_SELF_CHECK = ((0, 0), (0x9ABCDEF012345678, 3), (0xFFFFFFFFFFFFFFFF, WORD), (0x0123456789ABCDEF, (1 << 61) - 3))


def _signed(x: int) -> int:
    """Return the int64 with the same 64 bits."""
    return x - (1 << 64) if x >> 63 else x


def runs(keys: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return uint64 [n, 1, 2]: each run's Philox key and first group, as torch's operators take them.

    Args:
        keys: int64 [n], the same 64 bits, signed.
        groups: int64 [n].
    """
    return torch.stack((keys, groups), dim=-1)[:, None].view(torch.uint64)


def stateless_words_(out: torch.Tensor, runs: torch.Tensor) -> None:
    """Fill `out` by torch's private stateless Philox; arguments as `plain_words_`."""
    torch.ops.aten._philox_randint_(out, runs, -(1 << 31), None)


def stateless_uniform_(out: torch.Tensor, runs: torch.Tensor) -> None:
    """Fill float32 `out` with what `reference.uniform` makes of the words; arguments else as `plain_words_`.

    A single run may have any length, and then takes the first words of its last group.
    """
    torch.ops.aten._philox_uniform_.default(out, runs)


def plain_words_(out: torch.Tensor, runs: torch.Tensor) -> None:
    """Fill `out` with whole Philox blocks from plain integer arithmetic.

    Args:
        out: int32 [n, 4 * groups], contiguous: the words of consecutive groups, as signed integers.
        runs: uint64 [n, 1, 2], key and first group of each, of `runs`.
    """
    key, first = runs.view(torch.int64).unbind(-1)
    group = first + torch.arange(out.shape[1] // 4, dtype=torch.int64, device=out.device)
    zero = torch.zeros((), dtype=torch.int64, device=out.device)
    k0, k1 = key & WORD, key >> 32 & WORD
    columns = out.view(*group.shape, 4)
    for i, word in enumerate(philox4x32(group & WORD, group >> 32 & WORD, zero, zero, zero + k0, zero + k1)):
        # The low half of a little-endian int64: a cast would overflow from 2^31 on.
        columns[..., i] = word.view(torch.int32)[..., ::2]


def _self_check_runs(device: torch.device) -> torch.Tensor:
    signed = [(_signed(key), group) for key, group in _SELF_CHECK]
    return runs(*torch.tensor(signed, dtype=torch.int64, device=device).unbind(1))


@functools.cache
def has_stateless_words(device: torch.device) -> bool:
    """Whether torch's stateless operators exist for `device` and give the reference's words."""
    if not hasattr(torch.ops.aten, "_philox_randint_"):
        return False
    return _is_like_plain(stateless_words_, torch.empty(len(_SELF_CHECK), 8, dtype=torch.int32, device=device))


@functools.cache
def has_stateless_uniform(device: torch.device) -> bool:
    """Whether torch's stateless uniform exists for `device` and gives the reference's numbers."""
    if not hasattr(torch.ops.aten, "_philox_uniform_"):
        return False
    return _is_like_plain(stateless_uniform_, torch.empty(len(_SELF_CHECK), 512, dtype=torch.float32, device=device))


def _is_like_plain(source: Callable[[torch.Tensor, torch.Tensor], None], found: torch.Tensor) -> bool:
    """Whether a source draws what follows from the plain words, many runs at a time and one by one."""
    checked = _self_check_runs(found.device)
    words = torch.empty(found.shape, dtype=torch.int32, device=found.device)
    plain_words_(words, checked)
    wanted = words if found.dtype == torch.int32 else uniform(words)
    # Of a single run a uniform may take part of the last group.
    length = found.shape[1] - (found.dtype != torch.int32)
    single = torch.empty((1, length), dtype=found.dtype, device=found.device)
    try:
        source(found, checked)
        if not torch.equal(found, wanted):
            return False
        for i in range(len(checked)):
            source(single, checked[i : i + 1])
            if not torch.equal(single[0], wanted[i, :length]):
                return False
    except (RuntimeError, TypeError, AttributeError):
        # No kernel for this device, or another signature: a version that we do not know.
        return False
    return True


def words_(out: torch.Tensor, runs: torch.Tensor) -> None:
    """Fill `out` by the fastest source of its device; arguments as `plain_words_`."""
    source = stateless_words_ if has_stateless_words(out.device) else plain_words_
    source(out, runs)
