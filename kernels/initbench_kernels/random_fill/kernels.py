"""The Triton kernel of the random fills: every block of every tensor of a model in one launch.

The formulas are those of `reference.py`, operation by operation. Each operation must round once: the kernel is compiled
with enable_fp_fusion=False (no fused multiply-add), and division and square root are the exactly rounded ones.
"""

import triton
import triton.language as tl

from initbench_kernels.random_fill import reference, table
from initbench_kernels.random_fill.parameters import TAIL_SPLIT

KEY_DOMAIN: tl.constexpr = tl.constexpr(reference.KEY_DOMAIN)
LN2: tl.constexpr = tl.constexpr(reference.LN2)
SQRT_HALF_BITS: tl.constexpr = tl.constexpr(reference.SQRT_HALF_BITS)
ATANH: tl.constexpr = tl.constexpr(reference.ATANH)
CENTRAL_NUM: tl.constexpr = tl.constexpr(reference.CENTRAL[0])
CENTRAL_DEN: tl.constexpr = tl.constexpr(reference.CENTRAL[1])
TAIL_NUM: tl.constexpr = tl.constexpr(reference.TAIL[0])
TAIL_DEN: tl.constexpr = tl.constexpr(reference.TAIL[1])
FAR_TAIL_NUM: tl.constexpr = tl.constexpr(reference.FAR_TAIL[0])
FAR_TAIL_DEN: tl.constexpr = tl.constexpr(reference.FAR_TAIL[1])
CENTRAL_OFFSET: tl.constexpr = tl.constexpr(reference.CENTRAL_OFFSET)
TAIL_OFFSET: tl.constexpr = tl.constexpr(reference.TAIL_OFFSET)
FAR_TAIL_OFFSET: tl.constexpr = tl.constexpr(reference.FAR_TAIL_OFFSET)
SPLIT: tl.constexpr = tl.constexpr(TAIL_SPLIT)
COLUMNS: tl.constexpr = tl.constexpr(table.COLUMNS)
FIRST_NUMBER: tl.constexpr = tl.constexpr(table.FIRST_NUMBER)
FIRST_DIMENSION: tl.constexpr = tl.constexpr(table.FIRST_DIMENSION)
MAX_DIMENSIONS: tl.constexpr = tl.constexpr(table.MAX_DIMENSIONS)
VALUE: tl.constexpr = tl.constexpr(table.VALUE)


@triton.jit
def _number(entry, i: tl.constexpr):
    """Return float32 number i of a table line."""
    return tl.load(entry + FIRST_NUMBER + i).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _words_of_groups(key, group):
    """Return the four words of each group: uint32 like `group` (int64)."""
    low = (group & 0xFFFFFFFF).to(tl.uint32)
    high = (group >> 32).to(tl.uint32)
    zero = low * 0
    return tl.philox(key, low, high, zero, zero)


@triton.jit
def _run(key, start, size, base, BLOCK: tl.constexpr):
    """Return words, memory offsets and mask of a block of consecutive positions in contiguous memory."""
    # The row starts inside a group of four when `base` does: its first lanes are masked off.
    skip = base & 3
    offsets = start + tl.arange(0, BLOCK) - skip
    mask = (offsets >= 0) & (offsets < size)
    group = ((base - skip + start) >> 2) + tl.arange(0, BLOCK // 4)
    w0, w1, w2, w3 = _words_of_groups(key, group)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3)), offsets, mask


@triton.jit
def _box(entry, key, start, size, base, BLOCK: tl.constexpr):
    """The same for any box of a tensor in any memory: coordinates by division, and a whole Philox block a value."""
    rest = start + tl.arange(0, BLOCK)
    mask = rest < size
    offsets = rest * 0
    position = base + offsets
    for i in tl.static_range(MAX_DIMENSIONS):
        column = entry + FIRST_DIMENSION + MAX_DIMENSIONS - 1 - i
        length = tl.load(column)
        coordinate = rest % length
        rest = rest // length
        offsets += coordinate * tl.load(column + MAX_DIMENSIONS)
        position += coordinate * tl.load(column + 2 * MAX_DIMENSIONS)
    w0, w1, w2, w3 = _words_of_groups(key, position >> 2)
    odd = (position & 1) != 0
    return tl.where((position & 2) != 0, tl.where(odd, w3, w2), tl.where(odd, w1, w0)), offsets, mask


@triton.jit
def _quadratic(c: tl.constexpr, x):
    return (x * c[2] + c[1]) * x + c[0]


@triton.jit
def _cubic(c: tl.constexpr, x):
    return ((x * c[3] + c[2]) * x + c[1]) * x + c[0]


@triton.jit
def _negative_log(p):
    bits = p.to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    mantissa = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    s = tl.math.div_rn(mantissa - 1.0, mantissa + 1.0)
    return exponent.to(tl.float32) * -LN2 - _cubic(ATANH, s * s) * s


@triton.jit
def _half_uniform(words):
    return ((words & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * 2.3283064365386963e-10


@triton.jit
def _normal(words):
    p = _half_uniform(words)
    near = tl.math.sqrt_rn(_negative_log(p)) - TAIL_OFFSET
    q = 0.5 - p
    r = CENTRAL_OFFSET - q * q
    # One division serves both formulas: the quotient of the selected pair is the selected quotient.
    is_tail = p < SPLIT
    numerator = tl.where(is_tail, _cubic(TAIL_NUM, near), _cubic(CENTRAL_NUM, r) * q)
    denominator = tl.where(is_tail, _quadratic(TAIL_DEN, near), _cubic(CENTRAL_DEN, r))
    z = tl.math.div_rn(numerator, denominator)
    return tl.where((words & 0x80000000) != 0, -z, z)


@triton.jit
def _truncated_normal(words, mass, tail_low, tail_high, q_low, q_high, log_scale, split):
    from_low = (words & 0x80000000) != 0
    t = _half_uniform(words)
    near = t * mass
    rest = (1.0 - t) * mass
    p_low = tl.where(from_low, near, rest) + tail_low
    p_high = tl.where(from_low, rest, near) + tail_high
    is_low = p_low < p_high
    p = tl.where(is_low, p_low, p_high)
    root = tl.math.sqrt_rn(_negative_log(p) + log_scale)
    is_near = root <= FAR_TAIL_OFFSET
    x = tl.where(is_near, root - TAIL_OFFSET, root - FAR_TAIL_OFFSET)
    q = tl.where(from_low, near + q_low, q_high - near)
    r = CENTRAL_OFFSET - q * q
    is_tail = p < split
    numerator = tl.where(is_near, _cubic(TAIL_NUM, x), _cubic(FAR_TAIL_NUM, x))
    denominator = tl.where(is_near, _quadratic(TAIL_DEN, x), _quadratic(FAR_TAIL_DEN, x))
    numerator = tl.where(is_tail, tl.where(is_low, -numerator, numerator), _cubic(CENTRAL_NUM, r) * q)
    denominator = tl.where(is_tail, denominator, _cubic(CENTRAL_DEN, r))
    return tl.math.div_rn(numerator, denominator)


@triton.jit
def _bfloat16_bits(value):
    """Round to nearest even by hand: the interpreter's own conversion truncates. Values are never NaN here."""
    bits = value.to(tl.uint32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16).to(tl.int16, bitcast=True)


@triton.jit
def _store(address, offsets, mask, value, value64, dtype, is_constant, FULL: tl.constexpr):
    """Store float32 values in the row's dtype.

    Without a mask, and with the alignment known, a thread writes 128 bits at a time; a masked store against a run-time
    length falls back to single elements.
    """
    if dtype == 0:
        out = address.to(tl.pointer_type(tl.float32))
        if FULL:
            tl.store(tl.multiple_of(out, 16) + offsets, value)
        else:
            tl.store(out + offsets, value, mask=mask)
    elif dtype == 1:
        half = address.to(tl.pointer_type(tl.float16))
        if FULL:
            tl.store(tl.multiple_of(half, 16) + offsets, value.to(tl.float16))
        else:
            tl.store(half + offsets, value.to(tl.float16), mask=mask)
    elif dtype == 2:
        bits = address.to(tl.pointer_type(tl.int16))
        if FULL:
            tl.store(tl.multiple_of(bits, 16) + offsets, _bfloat16_bits(value))
        else:
            tl.store(bits + offsets, _bfloat16_bits(value), mask=mask)
    else:
        double = address.to(tl.pointer_type(tl.float64))
        wide = tl.where(is_constant, value64, value.to(tl.float64))
        if FULL:
            tl.store(tl.multiple_of(double, 16) + offsets, wide)
        else:
            tl.store(double + offsets, wide, mask=mask)


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def random_fill_kernel(table_ptr, row_of_block_ptr, seed_low, seed_high, BLOCK: tl.constexpr):
    """Fill one block of one row.

    One program: looks up the row of its block, derives the row's Philox key (one scalar block), draws BLOCK words,
    four to a Philox block, and stores BLOCK values. Memory traffic: one write of every value, and a table line a block.

    Args:
        table_ptr: int64 [rows, COLUMNS], see `table.py`.
        row_of_block_ptr: int32 [grid]: the row of each block.
        seed_low: the seed's low word, as a signed int32.
        seed_high: its high word.
        BLOCK: values per program, a power of two.
    """
    block = tl.program_id(0)
    entry = table_ptr + tl.load(row_of_block_ptr + block).to(tl.int64) * COLUMNS
    address = tl.load(entry)
    kind = tl.load(entry + 1)
    dtype = tl.load(entry + 2)
    size = tl.load(entry + 3)
    start = (block - tl.load(entry + 4)) * BLOCK
    base = tl.load(entry + 5)
    hashed = tl.load(entry + 6)
    is_box = tl.load(entry + 7)

    seed = (seed_low.to(tl.int64) & 0xFFFFFFFF) | (seed_high.to(tl.int64) << 32)
    domain = (hashed & 0).to(tl.uint32) + KEY_DOMAIN
    k0, k1, _, _ = tl.philox(
        seed, (hashed & 0xFFFFFFFF).to(tl.uint32), (hashed >> 32).to(tl.uint32), domain, domain * 0
    )
    key = k0.to(tl.uint64) | (k1.to(tl.uint64) << 32)

    if is_box != 0:
        words, offsets, mask = _box(entry, key, start, size, base, BLOCK)
    else:
        words, offsets, mask = _run(key, start, size, base, BLOCK)

    value64 = tl.load(entry + VALUE).to(tl.float64, bitcast=True)
    scale = _number(entry, 0)
    shift = _number(entry, 1)
    if kind == 0:
        # Not by adding zeros: that would take the sign of a negative zero.
        value = tl.broadcast_to(value64.to(tl.float32), [BLOCK])
    else:
        if kind == 1:
            unit = (words & 0xFFFFFF).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
        elif kind == 2:
            unit = _normal(words)
        else:
            unit = _truncated_normal(
                words,
                _number(entry, 4),
                _number(entry, 5),
                _number(entry, 6),
                _number(entry, 7),
                _number(entry, 8),
                _number(entry, 9),
                _number(entry, 10),
            )
        value = unit * scale + shift
        value = tl.minimum(tl.maximum(value, _number(entry, 2)), _number(entry, 3))

    full = (is_box == 0) & ((base & 3) == 0) & (start + BLOCK <= size) & ((address & 15) == 0)
    if full:
        width = tl.where(dtype == 0, 4, tl.where(dtype == 3, 8, 2))
        _store(address + start * width, tl.arange(0, BLOCK), mask, value, value64, dtype, kind == 0, FULL=True)
    else:
        _store(address, offsets, mask, value, value64, dtype, kind == 0, FULL=False)
