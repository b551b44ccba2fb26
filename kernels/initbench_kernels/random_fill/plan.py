"""`fill_`: many tensors, one launch; and the plan behind it, which can be run again with another seed."""

from collections.abc import Callable, Iterable

from initbench_kernels.backend import named_backend, resolve_backend
from initbench_kernels.random_fill.eager import Loads
from initbench_kernels.random_fill.layout import Region
from initbench_kernels.random_fill.rows import Fill, check_rows, check_seed


class FillPlan:
    """Checked rows, ready to be filled as often as wanted: a sweep over seeds checks and tabulates them once.

    A plan is bound to the memory that the tensors had when it was made.

    Args:
        rows: what to fill; tensors may lie on several devices.
        backend: "triton", "eager", or None as in `resolve_backend`.

    Raises:
        ValueError: a bad row, its key named; see `fill_`.
        RuntimeError: `backend` cannot serve the tensors.
    """

    def __init__(self, rows: Iterable[Fill], *, backend: str | None = None) -> None:
        rows = list(rows)
        # Detached, a tensor keeps its memory whatever becomes of the original (`to_empty`, `parameter.data = ...`).
        regions = [region._replace(tensor=region.tensor.detach()) for region in check_rows(rows)]
        self._fills = _prepare(rows, regions, backend)

    def fill_(self, seed: int) -> None:
        """Write every row.

        Args:
            seed: in [0, 2^64).

        Raises:
            ValueError: the seed is not such an integer; nothing is written.
        """
        seed = check_seed(seed)
        for fill in self._fills:
            fill(seed)


def _prepare(rows: list[Fill], regions: list[Region], backend: str | None) -> list[Callable[[int], None]]:
    """Return what fills the regions of each device, given a seed."""
    fills: list[Callable[[int], None]] = []
    # A wrong name is an error even where nothing is to be filled, and of empty tensors there are no regions.
    named_backend(backend)
    for device in dict.fromkeys(row.tensor.device for row in rows):
        name = resolve_backend(backend, device)
        there = [region for region in regions if region.tensor.device == device]
        if not there:
            continue
        if name == "eager":
            fills.append(Loads(there).fill_)
        else:
            # Triton is imported where a kernel runs, never by `import initbench_kernels`.
            from initbench_kernels.random_fill.launch import Table

            fills.append(Table(there).fill_)
    return fills


def fill_(rows: Iterable[Fill], *, seed: int, backend: str | None = None) -> None:
    """Fill tensors in place with values that depend on (seed, key, position in the unsharded tensor) alone.

    Not on the device, the backend, the number or order of the rows, strides, dtype (half precision is the float32
    value rounded, except that a uniform never returns `high`), tile sizes or threads. Everything is checked before
    anything is written.

    Args:
        rows: what to fill, see `Fill`.
        seed: in [0, 2^64).
        backend: "triton", "eager", or None for `INITBENCH_BACKEND` and then the device's default. "triton" serves CPU
            tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: a seed or key out of range; a key used twice with different shapes (disjoint slices apart); memory
            that two rows share, or two elements of one view; a tensor that is not floating point, not strided, or on
            the meta device; low >= high; a negative std; bounds that leave no mass; what is no number; a number beyond
            float32, a constant beyond its tensor's dtype. The message starts with the key.
        RuntimeError: the named backend cannot serve the tensors.
    """
    seed = check_seed(seed)
    rows = list(rows)
    for fill in _prepare(rows, check_rows(rows), backend):
        fill(seed)
