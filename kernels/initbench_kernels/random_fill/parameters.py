"""The numbers of a row: what the arguments of a distribution become before any word is drawn.

Everything here is float64 on the host and ends in float32 values, so that every backend starts from the same bits.
"""

import functools
import math
import struct
from dataclasses import dataclass

import torch

FLOAT32_MAX = 3.4028234663852886e38
SQRT2 = math.sqrt(2.0)

# Below this probability of the nearer tail the tail's formula takes over (AS 241: |q| > 0.425).
TAIL_SPLIT = 0.075


# Compared by identity: constants of 0.0 and -0.0 are two rows, which a comparison of their numbers takes for one.
@dataclass(frozen=True, eq=False)
class Parameters:
    """What one row draws: value = clamp(unit * scale + shift, floor, ceiling), each a float32 number.

    Attributes:
        kind: "constant", "uniform", "normal" or "truncated_normal".
        dtype: of the tensor.
        value: of a constant (float64).
        shift: mean, or lower bound of a uniform.
        scale: standard deviation, or width of a uniform.
        floor: no value lies below.
        ceiling: no value lies above; for a uniform the largest number of `dtype` below `high`.
        mass: probability between the bounds of a truncated normal, in units of exp(-log_scale).
        tail_low: probability below the lower bound, same unit.
        tail_high: probability above the upper bound, same unit.
        q_low: Phi(lower bound) - 1/2.
        q_high: Phi(upper bound) - 1/2.
        log_scale: 0; for an interval in one tail the negative logarithm of that tail's probability.
        split: the tail's formula serves probabilities below it.
    """

    kind: str
    dtype: torch.dtype
    value: float = 0.0
    shift: float = 0.0
    scale: float = 1.0
    floor: float = -math.inf
    ceiling: float = math.inf
    mass: float = 1.0
    tail_low: float = 0.0
    tail_high: float = 0.0
    q_low: float = -0.5
    q_high: float = 0.5
    log_scale: float = 0.0
    split: float = TAIL_SPLIT


def as_float(x: object, name: str) -> float:
    """Return x as a float: a cache that kept a tensor would not see its value change.

    Args:
        x: a real number of any type, a tensor of one element among them; no string.
        name: of the number, for the message.

    Raises:
        ValueError: x is no such number.
    """
    if type(x) is float:
        return x
    try:
        # What float() asks too; but it would read a string.
        return float(x.__float__())  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{name} must be a number, got {x!r}") from None


def float32(x: float, name: str = "value") -> float:
    """Return the float32 number nearest to x; there is one zero, the positive one.

    Raises:
        ValueError: x is NaN or beyond float32.
    """
    if not abs(x) <= FLOAT32_MAX:
        raise ValueError(f"{name} must be a finite float32 number, got {x}")
    # The caches take 0.0 and -0.0 for one number, so what they keep must not tell which came first.
    return float(struct.unpack("<f", struct.pack("<f", x))[0]) + 0.0


def _float32_step(x: float, up: bool) -> float:
    """Return the float32 number next to the float32 number x."""
    if x == 0.0:
        return math.copysign(2.0**-149, 1.0 if up else -1.0)
    (bits,) = struct.unpack("<I", struct.pack("<f", x))
    return float(struct.unpack("<f", struct.pack("<I", bits + (1 if (x > 0) == up else -1)))[0])


def largest_below(x: float, dtype: torch.dtype) -> float:
    """Return the largest float32 number below x that `dtype` holds too (-inf where there is none)."""
    below = float32(x)
    if below >= x:
        below = _float32_step(below, up=False)
    if dtype == torch.bfloat16:
        (bits,) = struct.unpack("<I", struct.pack("<f", below))
        # Toward -inf: cut a positive number's low half, round a negative one's magnitude up.
        bits = bits & 0xFFFF0000 if below >= 0 else (bits + 0xFFFF) & 0xFFFF0000
        return float(struct.unpack("<f", struct.pack("<I", bits))[0])
    if dtype == torch.float16:
        if below >= 65504.0:
            return 65504.0
        if below < -65504.0:
            return -math.inf
        (half,) = struct.unpack("<e", struct.pack("<e", below))
        if half > below:
            (bits,) = struct.unpack("<H", struct.pack("<e", half))
            # Below a positive number (half > below >= 0 excludes +0) the magnitude shrinks, below others it grows;
            # zero steps down to the smallest negative number.
            bits = 0x8001 if half == 0 else bits + (-1 if half > 0 else 1)
            (half,) = struct.unpack("<e", struct.pack("<H", bits))
        return float(half)
    return below


@functools.lru_cache(maxsize=4096)
def uniform_parameters(dtype: torch.dtype, low: float, high: float) -> Parameters:
    """Return the numbers of a uniform on [low, high).

    Raises:
        ValueError: low >= high, a width beyond float32, or no number of `dtype` in [low, high).
    """
    if not low < high:
        raise ValueError(f"low must be less than high, got low={low} and high={high}")
    shift = float32(low, "low")
    float32(high, "high")
    scale = float32(high - low, "high - low")
    ceiling = largest_below(high, dtype)
    if ceiling < (shift if dtype == torch.float32 else low):
        raise ValueError(f"no {dtype} number lies in [low, high) = [{low}, {high})")
    return Parameters("uniform", dtype, shift=shift, scale=scale, floor=_bound(low, dtype, up=True), ceiling=ceiling)


@functools.lru_cache(maxsize=4096)
def normal_parameters(dtype: torch.dtype, mean: float, std: float) -> Parameters:
    """Return the numbers of a normal.

    Raises:
        ValueError: a negative std, or a number beyond float32.
    """
    if not std >= 0:
        raise ValueError(f"std must not be negative, got {std}")
    return Parameters("normal", dtype, shift=float32(mean, "mean"), scale=float32(std, "std"))


@functools.lru_cache(maxsize=4096)
def truncated_normal_parameters(dtype: torch.dtype, mean: float, std: float, a: float, b: float) -> Parameters:
    """Return the numbers of a normal (mean, std) conditioned on [a, b]; the bounds may be infinite.

    Raises:
        ValueError: a negative std, a number beyond float32, or bounds that leave no mass (in float64).
    """
    plain = normal_parameters(dtype, mean, std)
    if not a < b:
        raise ValueError(f"the bounds leave no mass: a={a} is not less than b={b}")
    if std == 0:
        if not a <= mean <= b:
            raise ValueError(f"the bounds leave no mass: mean={mean} with std=0 lies outside [a, b] = [{a}, {b}]")
        return plain
    low, high = (a - mean) / std, (b - mean) / std
    tail_low, tail_high = 0.5 * math.erfc(-low / SQRT2), 0.5 * math.erfc(high / SQRT2)
    q_low, q_high = 0.5 * math.erf(low / SQRT2), 0.5 * math.erf(high / SQRT2)
    log_scale, split = 0.0, TAIL_SPLIT
    # An interval inside one tail is measured in units of that tail, so that float32 holds it however far out it is.
    # The other tail's probability, then useless, becomes 2: never the smaller one.
    upper_tail, lower_tail = 0.5 * math.erfc(low / SQRT2), 0.5 * math.erfc(-high / SQRT2)
    if upper_tail < TAIL_SPLIT:
        mass, unit, tails = upper_tail - tail_high, upper_tail, (2.0, tail_high)
    elif lower_tail < TAIL_SPLIT:
        mass, unit, tails = lower_tail - tail_low, lower_tail, (tail_low, 2.0)
    else:
        mass, unit, tails = q_high - q_low, 1.0, (tail_low, tail_high)
    if mass <= 0:
        raise ValueError(f"the bounds leave no mass: [a, b] = [{a}, {b}] for mean={mean} and std={std}")
    if unit != 1.0:
        log_scale, split = -math.log(unit), math.inf
        tails = (tails[0] if tails[0] == 2.0 else tails[0] / unit, tails[1] if tails[1] == 2.0 else tails[1] / unit)
    return Parameters(
        "truncated_normal",
        dtype,
        shift=plain.shift,
        scale=plain.scale,
        floor=_bound(a, dtype, up=True),
        ceiling=_bound(b, dtype, up=False),
        mass=float32(mass / unit),
        tail_low=float32(tails[0]),
        tail_high=float32(tails[1]),
        q_low=float32(q_low),
        q_high=float32(q_high),
        log_scale=float32(log_scale),
        split=split,
    )


def _bound(x: float, dtype: torch.dtype, up: bool) -> float:
    """Return x as float32; a float64 tensor would show the rounding, so for it the bound moves inward."""
    if not abs(x) <= FLOAT32_MAX:
        return x
    bound = float32(x)
    outside = bound < x if up else bound > x
    return _float32_step(bound, up) if dtype == torch.float64 and outside else bound


def constant_parameters(dtype: torch.dtype, value: float) -> Parameters:
    """Return the numbers of a constant; infinities, NaN and the negative zero are values like any other.

    Raises:
        ValueError: a finite value beyond `dtype`.
    """
    return _constant_parameters(dtype, value, math.copysign(1.0, value))


@functools.lru_cache(maxsize=4096)
def _constant_parameters(dtype: torch.dtype, value: float, _sign: float) -> Parameters:
    """The same; the sign is for the cache, which takes 0.0 and -0.0 for one number."""
    if math.isfinite(value) and abs(value) > torch.finfo(dtype).max:
        raise ValueError(f"value must be a {dtype} number or infinite, got {value}")
    return Parameters("constant", dtype, value=value)
