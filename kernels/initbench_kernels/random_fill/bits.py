"""Raw random words on any device: torch's stateless Philox operators, or plain integer arithmetic; the same bits.

torch's operators are private and may change, so they serve a device only after their words there agreed with the
reference on a handful of counters, carries included.
"""

import functools

import torch

from initbench_kernels.random_fill.reference import WORD, philox4x32

# (Philox key, first group): a zero key, a key with the top bit set, and a carry into the second counter word.
_SELF_CHECK = ((0, 0), (0x9ABCDEF012345678, 3), (0xFFFFFFFFFFFFFFFF, WORD), (0x0123456789ABCDEF, (1 << 61) - 3))


def _signed(x: int) -> int:
    """Return the int64 with the same 64 bits."""
    return x - (1 << 64) if x >> 63 else x


def stateless_words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` by torch's private stateless Philox; arguments as `plain_words_`."""
    if isinstance(key, int):
        pair = torch.tensor([_signed(key), group], dtype=torch.int64, device=out.device)
        torch.ops.aten._philox_randint_(out, pair.view(torch.uint64), -(1 << 31), None)
    else:
        assert isinstance(group, torch.Tensor)
        pairs = torch.stack((key, group), dim=-1)[:, None]
        torch.ops.aten._philox_randint_(out.view(-1, 4), pairs.view(torch.uint64), -(1 << 31), None)


def plain_words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` with whole Philox blocks from plain integer arithmetic.

    Args:
        out: int32 [4 * groups], contiguous: the words of consecutive groups, as signed integers.
        key: the 64-bit Philox key of all groups; or int64 [groups], one each (the same 64 bits, signed).
        group: index of the first group, the others follow; or int64 [groups].
    """
    groups = out.numel() // 4
    if isinstance(group, int):
        group = torch.arange(group, group + groups, dtype=torch.int64, device=out.device)
    c0, c1 = group & WORD, group >> 32 & WORD
    k0, k1 = key & WORD, key >> 32 & WORD
    zero = torch.zeros((), dtype=torch.int64, device=out.device)
    columns = out.view(groups, 4)
    for i, word in enumerate(philox4x32(c0, c1, zero, zero, zero + k0, zero + k1)):
        # The low half of a little-endian int64: a cast would overflow from 2^31 on.
        columns[:, i] = word.view(torch.int32)[::2]


@functools.cache
def has_stateless_words(device: torch.device) -> bool:
    """Whether torch's stateless operators exist for `device` and give the reference's words."""
    if not hasattr(torch.ops.aten, "_philox_randint_"):
        return False
    found = torch.empty(8, dtype=torch.int32, device=device)
    wanted = torch.empty_like(found)
    batched = torch.empty(4 * len(_SELF_CHECK), dtype=torch.int32, device=device)
    keys, groups = (
        torch.tensor([_signed(pair[i]) for pair in _SELF_CHECK], dtype=torch.int64, device=device) for i in (0, 1)
    )
    try:
        for i, (key, group) in enumerate(_SELF_CHECK):
            stateless_words_(found, key, group)
            plain_words_(wanted, key, group)
            if not torch.equal(found, wanted):
                return False
            if i == 0:
                stateless_words_(batched, keys, groups)
            if not torch.equal(batched[4 * i : 4 * i + 4], wanted[:4]):
                return False
    except (RuntimeError, TypeError, AttributeError):
        # No kernel for this device, or another signature: a version that we do not know.
        return False
    return True


def words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` by the fastest source of its device; arguments as `plain_words_`."""
    source = stateless_words_ if has_stateless_words(out.device) else plain_words_
    source(out, key, group)
