"""The distributions of `reference.py` in place, over one chunk of words that stays in the cache.

Same operations in the same order, so the same bits; but every intermediate lives in a buffer that the next chunk uses
again. A chunk of torch operations is limited by memory traffic, and fresh intermediates would cost page faults.
"""

import torch

from initbench_kernels.random_fill.parameters import TAIL_SPLIT, Parameters
from initbench_kernels.random_fill.reference import (
    ATANH,
    CENTRAL,
    CENTRAL_OFFSET,
    FAR_TAIL,
    FAR_TAIL_OFFSET,
    LN2,
    SQRT_HALF_BITS,
    TAIL,
    TAIL_OFFSET,
)


class Chunk:
    """Buffers for up to `size` values on one device.

    Attributes:
        words: int32 [size], the raw words: to be filled before a transform runs.
        unit: float32 [size], what a transform leaves.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.words = torch.empty(size, dtype=torch.int32, device=device)
        self.unit, self._p, self._q, self._x, self._num, self._den = torch.empty(
            (6, size), dtype=torch.float32, device=device
        )
        self._wide = torch.empty(size, dtype=torch.float64, device=device)
        self._mask = torch.empty(size, dtype=torch.bool, device=device)

    def head(self, n: int) -> "Chunk":
        """Return the same buffers, cut to n values."""
        view = object.__new__(Chunk)
        for name, buffer in vars(self).items():
            setattr(view, name, buffer[:n])
        return view

    def transform(self, row: Parameters) -> torch.Tensor:
        """Turn `words` into the unit values of `row` (before scale, shift and bounds); return `unit`."""
        if row.kind == "uniform":
            return self.uniform()
        return self.normal() if row.kind == "normal" else self.truncated_normal(row)

    def uniform(self) -> torch.Tensor:
        """As `reference.uniform`; the words are used up."""
        return self.unit.copy_(self.words.bitwise_and_(0xFFFFFF)).mul_(2.0**-24)

    def normal(self) -> torch.Tensor:
        """As `reference.normal`; the words survive."""
        p = self._half_uniform()
        # The magnitude's own sign (q is negative) gives way to the word's.
        self._central(torch.sub(p, 0.5, out=self._q), self.unit)
        # The tails, 15% of the values, cost more than the centre: only they go through the logarithm and the root.
        where = torch.lt(p, TAIL_SPLIT, out=self._mask).nonzero().view(-1)
        tail = self.head(len(where))
        tail._negative_log(torch.index_select(p, 0, where, out=tail._q), tail._p)
        root = tail._exact_sqrt(tail._x).sub_(TAIL_OFFSET)
        tail._ratio(TAIL, root, tail._p)
        self.unit.scatter_(0, where, tail._p)
        return torch.copysign(self.unit, self.words.view(torch.float32), out=self.unit)

    def truncated_normal(self, row: Parameters) -> torch.Tensor:
        """As `reference.truncated_normal`; the words survive."""
        near, rest = self._half_uniform(), self._q
        from_low = torch.lt(self.words, 0, out=self._mask)
        torch.neg(near, out=rest).add_(1.0).mul_(row.mass)
        near.mul_(row.mass)
        q = torch.where(from_low, near + row.q_low, row.q_high - near)
        p_low = torch.where(from_low, near, rest).add_(row.tail_low)
        p_high = torch.where(from_low, rest, near).add_(row.tail_high)
        p = torch.minimum(p_low, p_high, out=self._p)
        self._negative_log(p, self.unit)
        root = self._exact_sqrt(self._x.add_(row.log_scale)).clone()
        self._ratio(TAIL, torch.sub(root, TAIL_OFFSET, out=self._x), self.unit)
        self._ratio(FAR_TAIL, torch.sub(root, FAR_TAIL_OFFSET, out=self._x), self._q)
        z = torch.where(root <= FAR_TAIL_OFFSET, self.unit, self._q)
        z = torch.where(p_low < p_high, -z, z)
        self._central(q, self._x)
        return torch.where(p < row.split, z, self._x, out=self.unit)

    def _half_uniform(self) -> torch.Tensor:
        magnitude = torch.bitwise_and(self.words, 0x7FFFFFFF, out=self._num.view(torch.int32))
        return self._p.copy_(magnitude).add_(0.5).mul_(2.0**-32)

    def _negative_log(self, p: torch.Tensor, scratch: torch.Tensor) -> None:
        """Leave -log(p) in `_x`; uses `_num`, `_den` and `scratch`."""
        bits = p.view(torch.int32)
        exponent = torch.sub(bits, SQRT_HALF_BITS, out=self._num.view(torch.int32)).bitwise_right_shift_(23)
        self._x.copy_(exponent).mul_(-LN2)
        mantissa = torch.sub(bits, exponent.bitwise_left_shift_(23), out=exponent).view(torch.float32)
        denominator = torch.add(mantissa, 1.0, out=self._den)
        s = mantissa.sub_(1.0).div_(denominator)
        series = self._polynomial(ATANH, torch.mul(s, s, out=self._den), scratch)
        self._x.sub_(series.mul_(s))

    def _exact_sqrt(self, x: torch.Tensor) -> torch.Tensor:
        """As `reference.exact_sqrt`, in place."""
        return x.copy_(self._wide.copy_(x).sqrt_())

    def _central(self, q: torch.Tensor, out: torch.Tensor) -> None:
        """Leave the central quantile of q, up to its sign's symmetry, in `out`; uses `_num` and `_den`."""
        r = torch.mul(q, q, out=out).neg_().add_(CENTRAL_OFFSET)
        numerator = self._polynomial(CENTRAL[0], r, self._num).mul_(q)
        torch.div(numerator, self._polynomial(CENTRAL[1], r, self._den), out=out)

    def _ratio(self, pair: tuple[tuple[float, ...], tuple[float, ...]], x: torch.Tensor, out: torch.Tensor) -> None:
        torch.div(self._polynomial(pair[0], x, self._num), self._polynomial(pair[1], x, self._den), out=out)

    @staticmethod
    def _polynomial(coefficients: tuple[float, ...], x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Horner's rule, one rounding per operation: a fused multiply-add would round once where two are due."""
        torch.mul(x, coefficients[-1], out=out).add_(coefficients[-2])
        for coefficient in reversed(coefficients[:-2]):
            out.mul_(x).add_(coefficient)
        return out
