"""Raw random words on any device: torch's stateless Philox operators, or plain integer arithmetic; the same bits.

torch's operators are private and may change, so they serve a device only after their words there agreed with the
reference on a handful of counters, carries included.
"""

import functools

import torch

from initbench_kernels.random_fill.reference import WORD, philox4x32, uniform

# (Philox key, first group): a zero key, a key with the top bit set, and a carry into the second counter word.
_SELF_CHECK = ((0, 0), (0x9ABCDEF012345678, 3), (0xFFFFFFFFFFFFFFFF, WORD), (0x0123456789ABCDEF, (1 << 61) - 3))


def _signed(x: int) -> int:
    """Return the int64 with the same 64 bits."""
    return x - (1 << 64) if x >> 63 else x


def _runs(key: int | torch.Tensor, group: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return int64 [runs, 2] of Philox keys and first groups."""
    if isinstance(key, int) and isinstance(group, int):
        return torch.tensor([(_signed(key), group)], dtype=torch.int64, device=device)
    assert isinstance(key, torch.Tensor)
    assert isinstance(group, torch.Tensor)
    return torch.stack((key, group), dim=-1)


def stateless_words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` by torch's private stateless Philox; arguments as `plain_words_`."""
    runs = _runs(key, group, out.device)
    torch.ops.aten._philox_randint_(out.view(len(runs), -1), runs[:, None].view(torch.uint64), -(1 << 31), None)


def stateless_uniform_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill float32 `out` with what `reference.uniform` makes of the words; arguments else as `plain_words_`.

    A single run may have any length, and then takes the first words of its last group.
    """
    runs = _runs(key, group, out.device)
    torch.ops.aten._philox_uniform_.default(out.view(len(runs), -1), runs[:, None].view(torch.uint64))


def plain_words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` with whole Philox blocks from plain integer arithmetic.

    Args:
        out: int32, contiguous, a whole number of groups of four in each run: the words as signed integers.
        key: the 64-bit Philox key of all groups; or int64 [runs], one each (the same 64 bits, signed).
        group: index of the first group, the others follow; or int64 [runs], the first group of each. All runs are
            equally long.
    """
    runs = _runs(key, group, out.device)
    group = runs[:, 1:] + torch.arange(out.numel() // (4 * len(runs)), dtype=torch.int64, device=out.device)
    zero = torch.zeros((), dtype=torch.int64, device=out.device)
    k0, k1 = runs[:, :1] & WORD, runs[:, :1] >> 32 & WORD
    columns = out.view(*group.shape, 4)
    for i, word in enumerate(philox4x32(group & WORD, group >> 32 & WORD, zero, zero, zero + k0, zero + k1)):
        # The low half of a little-endian int64: a cast would overflow from 2^31 on.
        columns[..., i] = word.view(torch.int32)[..., ::2]


def _self_check_tensors(device: torch.device) -> tuple[torch.Tensor, ...]:
    signed = [(_signed(key), group) for key, group in _SELF_CHECK]
    return torch.tensor(signed, dtype=torch.int64, device=device).unbind(1)


@functools.cache
def has_stateless_words(device: torch.device) -> bool:
    """Whether torch's stateless operators exist for `device` and give the reference's words."""
    if not hasattr(torch.ops.aten, "_philox_randint_"):
        return False
    found = torch.empty(8, dtype=torch.int32, device=device)
    wanted = torch.empty_like(found)
    batched = torch.empty(len(_SELF_CHECK), 8, dtype=torch.int32, device=device)
    try:
        for i, (key, group) in enumerate(_SELF_CHECK):
            stateless_words_(found, key, group)
            plain_words_(wanted, key, group)
            if not torch.equal(found, wanted):
                return False
            if i == 0:
                stateless_words_(batched, *_self_check_tensors(device))
            if not torch.equal(batched[i], wanted):
                return False
    except (RuntimeError, TypeError, AttributeError):
        # No kernel for this device, or another signature: a version that we do not know.
        return False
    return True


@functools.cache
def has_stateless_uniform(device: torch.device) -> bool:
    """Whether torch's stateless uniform exists for `device` and gives the reference's numbers."""
    if not hasattr(torch.ops.aten, "_philox_uniform_"):
        return False
    words = torch.empty(512, dtype=torch.int32, device=device)
    found = torch.empty(511, device=device)
    batched, wanted = torch.empty(len(_SELF_CHECK), 512, device=device), []
    try:
        for key, group in _SELF_CHECK:
            stateless_uniform_(found, key, group)
            plain_words_(words, key, group)
            wanted.append(uniform(words))
            if not torch.equal(found, wanted[-1][:511]):
                return False
        stateless_uniform_(batched, *_self_check_tensors(device))
        return torch.equal(batched, torch.stack(wanted))
    except (RuntimeError, TypeError, AttributeError):
        return False


def words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` by the fastest source of its device; arguments as `plain_words_`."""
    source = stateless_words_ if has_stateless_words(out.device) else plain_words_
    source(out, key, group)
