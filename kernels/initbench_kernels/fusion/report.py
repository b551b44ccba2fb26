"""What `fuse_batch_norm_relu` did."""

from dataclasses import dataclass, field


@dataclass
class FusionReport:
    """What `fuse_batch_norm_relu` did, by qualified module name.

    Attributes:
        fused: batch norms fused with their ReLU.
        with_residual: those of them that took a residual addition along.
        left: batch norms left alone, and why.
    """

    fused: list[str] = field(default_factory=list)
    with_residual: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the counts, and a line for each batch norm left alone."""
        counts = f"{len(self.fused)} fused ({len(self.with_residual)} with a residual), {len(self.left)} left"
        return "\n".join([counts, *(f"  {name}: {reason}" for name, reason in self.left.items())])
