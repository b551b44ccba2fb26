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


def stateless_words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` by torch's private stateless Philox; arguments as `plain_words_`."""
    if isinstance(key, int) and isinstance(group, int):
        torch.ops.aten._philox_randint_(out, stateless_pairs([(key, group)], out.device)[0], -(1 << 31), None)
    else:
        assert isinstance(key, torch.Tensor)
        assert isinstance(group, torch.Tensor)
        pairs = torch.stack((key, group), dim=-1)[:, None]
        torch.ops.aten._philox_randint_(out.view(-1, 4), pairs.view(torch.uint64), -(1 << 31), None)


def stateless_uniform_(out: torch.Tensor, pair: torch.Tensor) -> None:
    """Fill float32 `out` [n], of any length, with what `reference.uniform` makes of the words of a key.

    Args:
        out: float32 [n].
        pair: uint64 [2], the Philox key and the first group, of `stateless_pairs`.
    """
    torch.ops.aten._philox_uniform_.default(out, pair)


def stateless_pairs(keys_and_groups: list[tuple[int, int]], device: torch.device) -> torch.Tensor:
    """Return uint64 [n, 2] of Philox keys and groups, as torch's operators take them."""
    signed = [(_signed(key), group) for key, group in keys_and_groups]
    return torch.tensor(signed, dtype=torch.int64, device=device).view(torch.uint64)


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


@functools.cache
def has_stateless_uniform(device: torch.device) -> bool:
    """Whether torch's stateless uniform exists for `device` and gives the reference's numbers."""
    if not hasattr(torch.ops.aten, "_philox_uniform_"):
        return False
    words = torch.empty(512, dtype=torch.int32, device=device)
    found = torch.empty(511, device=device)
    try:
        for key, group in _SELF_CHECK:
            stateless_uniform_(found, stateless_pairs([(key, group)], device)[0])
            plain_words_(words, key, group)
            if not torch.equal(found, uniform(words)[:511]):
                return False
    except (RuntimeError, TypeError, AttributeError):
        return False
    return True


def words_(out: torch.Tensor, key: int | torch.Tensor, group: int | torch.Tensor) -> None:
    """Fill `out` by the fastest source of its device; arguments as `plain_words_`."""
    source = stateless_words_ if has_stateless_words(out.device) else plain_words_
    source(out, key, group)
