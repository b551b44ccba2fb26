"""Host side of the fill kernel: the table on its device, and the grid."""

from array import array

import torch

from initbench_kernels.builds import warp_size
from initbench_kernels.random_fill import table
from initbench_kernels.random_fill.kernels import random_fill_kernel
from initbench_kernels.random_fill.layout import Region

# Values and threads per program. Chosen from registers and store width of sm_90 binaries; not timed on a GPU yet.
BLOCK, THREADS = 1024, 256

# A fused multiply-add rounds once where the specification rounds twice.
OPTIONS = {"enable_fp_fusion": False}


def _signed32(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


class Table:
    """Regions of one device, tabulated for the kernel.

    Args:
        regions: from `check_rows`, all on one device.
        block: values per program; the values do not depend on it.
    """

    def __init__(self, regions: list[Region], *, block: int = BLOCK) -> None:
        self._block = block
        self._regions = regions
        device = regions[0].tensor.device
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        # Arrays, not lists of lists: torch reads 2,000 lines of those for 10 ms.
        lines, counts, first = array("q"), array("q"), 0
        for region in regions:
            walkable = self._walkable(region) if table.needs_copy(region) else region
            lines.extend(table.line(walkable, first))
            counts.append(table.blocks(walkable, block))
            first += counts[-1]
        if first >= 1 << 31:
            raise ValueError(f"{first} blocks of {block} values exceed one launch: split the rows")
        self._table = torch.frombuffer(lines, dtype=torch.int64).to(device)
        repeats = torch.frombuffer(counts, dtype=torch.int64).to(device)
        rows = torch.arange(len(counts), dtype=torch.int32, device=device)
        self._row_of_block = rows.repeat_interleave(repeats, output_size=first)

    def _walkable(self, region: Region) -> Region:
        """Return a contiguous stand-in for memory of too many strides, to be copied after the launch."""
        stand_in = torch.empty(region.tensor.shape, dtype=region.tensor.dtype, device=region.tensor.device)
        self._copies.append((region.tensor, stand_in))
        walkable = Region(region.key, region.row, stand_in, region.base, region.strides)
        if table.needs_copy(walkable):
            raise ValueError(f"{region.key!r}: a shard cut along more than {table.MAX_DIMENSIONS} dimensions")
        return walkable

    @torch.no_grad()
    def fill_(self, seed: int) -> None:
        """Write every region.

        Args:
            seed: in [0, 2^64).
        """
        grid = (self._row_of_block.numel(),)
        device = self._table.device
        with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad():
            random_fill_kernel[grid](
                self._table,
                self._row_of_block,
                _signed32(seed & 0xFFFFFFFF),
                _signed32(seed >> 32),
                BLOCK=self._block,
                num_warps=THREADS // warp_size(),
                **OPTIONS,
            )
        for tensor, stand_in in self._copies:
            tensor.copy_(stand_in)
        # Autograd must see that the memory changed, as it does for torch's own in-place operations.
        for region in self._regions:
            if not region.tensor.is_inference():
                torch.autograd.graph.increment_version(region.tensor)
