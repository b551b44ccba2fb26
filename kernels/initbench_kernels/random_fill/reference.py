"""The specification of the random fills: Philox bits, and what each distribution makes of them.

Every weight is a pure function of (seed, key, position in the unsharded tensor):

1. The key (a string or an integer) is hashed to 64 bits, and one Philox block under the seed turns the hash into the
   key's own 64-bit Philox key (`philox_key`). Keys need no order and no registry; two of n keys meet with probability
   n^2 / 2^65.
2. Position i takes word i % 4 of the block with counter (i // 4, 0, 0) under that key (`bits_at`). torch's stateless
   operators fix the upper counter words at zero too, so they produce the same words.
3. The word becomes a float32 number by exactly rounded operations alone (+, -, *, /, sqrt and conversions): the same
   bits on every device and in every instruction set. No fused multiply-add, no library logarithm.
4. Other dtypes hold that float32 number, rounded (half precision) or widened (float64).

Sources: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10); Wichura
1988, "Algorithm AS 241: the percentage points of the normal distribution" (PPND7, relative error 1e-7).
"""

import functools
import hashlib
from typing import TypeVar

import torch

from initbench_kernels.random_fill.parameters import Parameters

WORD = 0xFFFFFFFF
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)

# Third counter word of the block that derives a key: keeps it apart from the blocks that make values ("fill").
KEY_DOMAIN = 0x66696C6C

# So many keys are derived one by one in the time that tensors take for any number (0.3 ms: 150 operations).
FEW_KEYS = 32

# PPND7. The first line of each pair is the numerator, lowest power first; the second the denominator.
CENTRAL = (
    (3.3871327179e00, 5.0434271938e01, 1.5929113202e02, 5.9109374720e01),
    (1.0, 1.7895169469e01, 7.8757757664e01, 6.7187563600e01),
)
TAIL = (
    (1.4234372777e00, 2.7568153900e00, 1.3067284816e00, 1.7023821103e-01),
    (1.0, 7.3700164250e-01, 1.2021132975e-01),
)
FAR_TAIL = (
    (6.6579051150e00, 3.0812263860e00, 4.2868294337e-01, 1.7337203997e-02),
    (1.0, 2.4197894225e-01, 1.2258202635e-02),
)
CENTRAL_OFFSET, TAIL_OFFSET, FAR_TAIL_OFFSET = 0.180625, 1.6, 5.0

# log(m) = 2 atanh(s), s = (m - 1) / (m + 1): the series up to s^7 leaves 3e-8 where |s| <= 0.1716.
ATANH = (2.0, 2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0)
LN2 = 0.6931471805599453
SQRT_HALF_BITS = 0x3F3504F3

Words = TypeVar("Words", int, torch.Tensor)


def philox4x32(
    c0: Words, c1: Words, c2: Words, c3: Words, k0: Words | int, k1: Words | int
) -> tuple[Words, Words, Words, Words]:
    """Return the four output words of Philox4x32-10.

    Args:
        c0: lowest counter word, in [0, 2^32): an int64 tensor, or a Python integer. Tensors broadcast.
        c1: second counter word.
        c2: third counter word.
        c3: highest counter word.
        k0: low key word.
        k1: high key word.

    Returns:
        Four of the same kind, each in [0, 2^32).

    Source: Salmon et al. 2011, section 4.3; the known-answer vectors of Random123.
    """
    for _ in range(10):
        # The product of a tensor wraps to its low 64 bits, and the arithmetic shift smears the sign: hence the masks.
        product0, product2 = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product2 >> 32 ^ c1 ^ k0) & WORD,
            product2 & WORD,
            (product0 >> 32 ^ c3 ^ k1) & WORD,
            product0 & WORD,
        )
        k0, k1 = (k0 + PHILOX_WEYL[0]) & WORD, (k1 + PHILOX_WEYL[1]) & WORD
    return c0, c1, c2, c3


@functools.lru_cache(maxsize=1 << 16)
def key_hash(key: str | int) -> int:
    """Return the 64-bit hash of a key; a string and an integer never share their bytes."""
    data = b"s" + key.encode(errors="surrogatepass") if isinstance(key, str) else b"i" + key.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def philox_key(seed: int, key: str | int) -> tuple[int, int]:
    """Return the two 32-bit words of the Philox key under which the values of `key` are drawn."""
    return _philox_key(seed, key_hash(key))


def _philox_key(seed: int, hashed: int) -> tuple[int, int]:
    return philox4x32(hashed & WORD, hashed >> 32 & WORD, KEY_DOMAIN, 0, seed & WORD, seed >> 32)[:2]


def philox_keys(seed: int, hashes: torch.Tensor) -> torch.Tensor:
    """Return the 64-bit Philox keys, high word first, of many keys: as `philox_key`, in one pass.

    Args:
        seed: in [0, 2^64).
        hashes: int64 [n]: those of `key_hash`, the same 64 bits, signed.

    Returns:
        int64 of the same shape: the same 64 bits, signed.
    """
    each = hashes.tolist()
    distinct = set(each)
    if len(distinct) <= FEW_KEYS:
        words = {hashed: _philox_key(seed, hashed) for hashed in distinct}
        low, high = hashes.new_tensor([words[hashed] for hashed in each]).view(-1, 2).unbind(1)
    else:
        zero = torch.zeros_like(hashes)
        counter = (hashes & WORD, hashes >> 32 & WORD, zero + KEY_DOMAIN, zero)
        low, high = philox4x32(*counter, seed & WORD, seed >> 32)[:2]
    return high << 32 | low


def bits_at(seed: int, key: str | int, positions: torch.Tensor) -> torch.Tensor:
    """Return the raw word of each position.

    Args:
        seed: in [0, 2^64).
        key: the parameter's key.
        positions: int64, any shape, >= 0: flat index in the unsharded tensor.

    Returns:
        int64 of the same shape, in [0, 2^32).
    """
    zero = torch.zeros_like(positions)
    group = positions >> 2
    k0, k1 = (zero + word for word in philox_key(seed, key))
    words = torch.stack(philox4x32(group & WORD, group >> 32, zero, zero, k0, k1))
    return words.gather(0, (positions & 3)[None])[0]


def uniform(words: torch.Tensor) -> torch.Tensor:
    """Return float32 in [0, 1): the low 24 bits of each word (as torch's stateless uniform takes them)."""
    return (words & 0xFFFFFF).to(torch.float32) * 2.0**-24


def half_uniform(words: torch.Tensor) -> torch.Tensor:
    """Return float32 in (0, 1/2]: the low 31 bits of each word. The sign stays apart, so both tails keep precision."""
    return ((words & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-32


def _polynomial(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def exact_sqrt(x: torch.Tensor) -> torch.Tensor:
    """Return the exactly rounded square root of float32.

    Not `x.sqrt()`: on CPU torch hands long float32 tensors to MKL's vector library, which rounds wrongly in 18% of
    cases (torch 2.15, x86-64). The float64 root is good to an ulp or so, 2^-52, and no root of a float32 number lies
    within 2^-50 of the middle between two float32 neighbours, so rounding it once more is exact.
    """
    return x.double().sqrt().to(torch.float32)


def negative_log(p: torch.Tensor) -> torch.Tensor:
    """Return -log(p) of positive, normal float32, from exactly rounded operations."""
    bits = p.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent.to(torch.float32) * -LN2 - _polynomial(ATANH, s * s) * s


def central_quantile(q: torch.Tensor) -> torch.Tensor:
    """Return z with Phi(z) = 1/2 + q, for |q| <= 0.425."""
    r = CENTRAL_OFFSET - q * q
    return _polynomial(CENTRAL[0], r) * q / _polynomial(CENTRAL[1], r)


def tail_quantile(log_p: torch.Tensor, far: bool = True) -> torch.Tensor:
    """Return z > 0 with Phi(-z) = exp(-log_p).

    Args:
        log_p: float32, the negative logarithm of the tail's probability, in [2.59, 700].
        far: whether log_p may exceed 25 (z beyond 6.7).
    """
    r = exact_sqrt(log_p)
    near = r - TAIL_OFFSET
    z = _polynomial(TAIL[0], near) / _polynomial(TAIL[1], near)
    if not far:
        return z
    beyond = r - FAR_TAIL_OFFSET
    return torch.where(r <= FAR_TAIL_OFFSET, z, _polynomial(FAR_TAIL[0], beyond) / _polynomial(FAR_TAIL[1], beyond))


def normal(words: torch.Tensor) -> torch.Tensor:
    """Return standard normal float32: sign and 31 bits of magnitude of each word, up to |z| = 6.2."""
    p = half_uniform(words)
    z = torch.where(p < 0.075, tail_quantile(negative_log(p), far=False), central_quantile(0.5 - p))
    return torch.where((words & 0x80000000) != 0, -z, z)


def truncated_normal(words: torch.Tensor, row: Parameters) -> torch.Tensor:
    """Return standard normal float32 between the standardized bounds of `row`.

    The word measures the mass from one end of the interval: the lower for a set sign bit, else the upper. The nearer
    tail's probability is then a sum of positive terms, and the central distance keeps the precision of its own ulp:
    nothing cancels, whether the interval is wide, narrow or far out.
    """
    from_low = (words & 0x80000000) != 0
    t = half_uniform(words)
    near, rest = t * row.mass, (1.0 - t) * row.mass
    p_low = torch.where(from_low, near, rest) + row.tail_low
    p_high = torch.where(from_low, rest, near) + row.tail_high
    p = torch.minimum(p_low, p_high)
    z = tail_quantile(negative_log(p) + row.log_scale)
    z = torch.where(p_low < p_high, -z, z)
    q = torch.where(from_low, near + row.q_low, row.q_high - near)
    return torch.where(p < row.split, z, central_quantile(q))


def fill(words: torch.Tensor, row: Parameters) -> torch.Tensor:
    """Return what `row` makes of raw words.

    Args:
        words: int64 in [0, 2^32), any shape.
        row: the numbers of the distribution.

    Returns:
        `row.dtype` of the same shape.
    """
    if row.kind == "constant":
        return torch.full_like(words, row.value, dtype=row.dtype)
    if row.kind == "uniform":
        unit = uniform(words)
    elif row.kind == "normal":
        unit = normal(words)
    else:
        unit = truncated_normal(words, row)
    return (unit * row.scale + row.shift).clamp(row.floor, row.ceiling).to(row.dtype)
