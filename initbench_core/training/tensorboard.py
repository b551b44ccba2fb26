"""TensorBoard event files, for who asks for them with `--tensorboard`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from initbench_core.errors import UserError


@contextmanager
def scalar_writer(folder: Path | None) -> Iterator[Callable[[str, float, int], None]]:
    """Give a function (name, value, epoch) that logs into `folder`, or does nothing where there is none.

    Raises:
        UserError: the package tensorboard is not installed.
    """
    if folder is None:
        yield lambda name, value, epoch: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs the package tensorboard: pip install 'initbench[tensorboard]'") from error
    writer = SummaryWriter(str(folder))
    try:
        yield writer.add_scalar
    finally:
        writer.close()
