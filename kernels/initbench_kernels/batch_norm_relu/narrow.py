"""Training passes over a narrow matrix on the CPU, [R, C] of many rows and few channels, in PyTorch's operations.

PyTorch walks a matrix row by row. What a row leaves over beyond whole vector registers it computes one value at a time,
and a long column is summed in one float32: at 880,802 x 3 gradients are off by 3e-4 where 6e-7 is possible. So FOLD
rows are viewed as one: [R / FOLD, FOLD * C] has long rows, and its columns ("lanes") sum FOLD times fewer values each.
Lanes are merged per channel in float64. Rows go through all operations in blocks that stay in the cache; beside its
results a pass holds one block in float32, or none where the block of the result serves.

Source: T. Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu.reference import updated_running

# Rows viewed as one.
FOLD = 128
# Values of a block: with fewer, calls and threads that wait for each other take longer; with more, a pass holds more.
BLOCK = 2**17


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same rows of each contiguous [R, C] as views [n, FOLD * C]; what is left over makes one shorter row."""
    rows, channels = tensors[0].shape
    width = FOLD * channels
    even = rows // FOLD * FOLD
    yield from zip(*(t[:even].view(-1, width).split(BLOCK // width) for t in tensors), strict=True)
    if even < rows:
        yield tuple(t[even:].view(1, -1) for t in tensors)


def _lanes(*values: Tensor) -> Tensor:
    """Repeat each of several [C] for every lane; return float32 [len(values), FOLD * C]."""
    # Contiguous also where C is 1: PyTorch's batch norm kernels take that for granted.
    return torch.stack(values).float().unsqueeze(1).expand(-1, FOLD, -1).contiguous().view(len(values), -1)


def _scratch(x: Tensor) -> Tensor:
    return x.new_empty(min(BLOCK, x.numel()), dtype=torch.float32)


def _minus(x: Tensor, lanes: Tensor, scratch: Tensor) -> Tensor:
    """Return a block less a float32 number of each lane, written into `scratch`."""
    return torch.sub(x, lanes, out=scratch[: x.numel()].view(x.shape))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, float64 [C]."""
    scratch, lanes = _scratch(x), []
    for (block,) in _blocks(x):
        # A value of the lane itself takes a large mean away, whatever order the rows are in. An infinite one would make
        # the mean NaN where it is infinite.
        origin = block[0].float().nan_to_num(posinf=0.0, neginf=0.0)
        mean, var = torch.batch_norm_update_stats(_minus(block, origin, scratch), None, None, 0.0)
        lanes.append(torch.stack([origin, mean, var, torch.full_like(mean, len(block))]))
    origins, means, variances, counts = torch.cat(lanes, dim=1).view(4, -1, x.shape[1]).double()
    means, shares = origins + means, counts / len(x)
    mean = (means * shares).sum(0)
    return mean, ((variances + (means - mean).square()) * shares).sum(0)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Normalize a batch with its own statistics and apply ReLU.

    Args:
        x: contiguous [R, C] float32, float16 or bfloat16, with at least FOLD rows.
        weight: [C] or None.
        bias: [C] or None.
        running_mean: [C] to update, or None.
        running_var: [C] to update, or None.
        num_batches_tracked: int64 scalar to increment, or None.
        momentum: of the update; None means the cumulative average, 1 / num_batches_tracked.
        eps: added to the variance.

    Returns:
        y as `x`; stats [2, C] = mean, rstd in float32.
    """
    mean, var = _statistics(x)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    share = 1.0 / float(num_batches_tracked or 1) if momentum is None else momentum
    for running, batch in ((running_mean, mean), (running_var, var * (len(x) / (len(x) - 1)))):
        if running is not None:
            # As PyTorch's update, this is no change to autograd: its batch norm keeps them for a backward pass to come.
            running.data.copy_(updated_running(running, batch, share))
    stats = torch.stack([mean, (var + eps).rsqrt()]).float()
    mean, scale = stats[0], _scale(stats, weight)
    lanes = _lanes(mean, scale, torch.zeros_like(mean) if bias is None else bias.float())
    y = torch.empty_like(x)
    scratch = None if y.dtype == torch.float32 else _scratch(x)
    # A ReLU that rounds as it writes, and lets NaN pass.
    zero = stats.new_zeros(())
    for x_block, y_block in _blocks(x, y):
        mean, scale, shift = lanes[:, : x_block.shape[1]]
        z = _minus(x_block, mean, y_block.view(-1) if scratch is None else scratch)
        torch.addcmul(shift, z, scale, out=z)
        torch.maximum(z, zero, out=y_block)
    return y, stats


def _scale(stats: Tensor, weight: Tensor | None) -> Tensor:
    return stats[1] if weight is None else stats[1] * weight


def backward(
    dy: Tensor, x: Tensor, y: Tensor, weight: Tensor | None, stats: Tensor, need_dx: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of `forward`; see `reference.gradients`.

    Args:
        dy: as `x`.
        x: as in `forward`.
        y: what `forward` returned.
        weight: as in `forward`.
        stats: what `forward` returned.
        need_dx: whether to compute dx.

    Returns:
        dx as `x`, or None where it is not needed; dweight and dbias, float64 [C].
    """
    rows, channels = x.shape
    mean, rstd = stats
    lanes = _lanes(mean, rstd)
    dx = torch.empty_like(x) if need_dx else None
    sums = []
    for x_block, y_block, dy_block, dx_block in _blocks(x, y, dy, x if dx is None else dx):
        g = torch.empty_like(x_block) if dx is None else dx_block
        torch.ops.aten.threshold_backward.grad_input(dy_block, y_block, 0, grad_input=g)
        _, *of_lanes = torch.ops.aten.native_batch_norm_backward(
            g, x_block, None, None, None, *lanes[:, : x_block.shape[1]], True, 0.0, (False, True, True)
        )
        sums.append(torch.stack(of_lanes).view(2, -1, channels))
    dweight, dbias = torch.cat(sums, dim=1).sum(1, dtype=torch.float64)
    if dx is not None:
        # dx = scale * (g - dbias / R - (x - mean) * rstd * dweight / R), of which dx holds g so far.
        scale = _scale(stats, weight)
        lanes = _lanes(mean, scale, scale * rstd * dweight / -rows, scale * dbias / -rows)
        scratch = _scratch(x)
        for x_block, dx_block in _blocks(x, dx):
            mean, scale, slope, shift = lanes[:, : x_block.shape[1]]
            of_sums = _minus(x_block, mean, scratch)
            torch.addcmul(shift, of_sums, slope, out=of_sums)
            torch.addcmul(of_sums, dx_block, scale, out=dx_block)
    return dx, dweight, dbias
