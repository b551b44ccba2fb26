"""`fuse_batch_norm_relu(model)`: the fused operator in an existing model, wherever that provably means the same.

Below `fuse`: `model` walks the modules; `tracing` makes a graph of each forward, which `source` (with `scope`) judges;
`patterns` finds in it what may be fused, `joined` finds pairs without a graph; `rewriting` makes the new forward.
"""

from initbench_kernels.fusion.fuse import fuse_batch_norm_relu
from initbench_kernels.fusion.report import FusionReport

__all__ = ["FusionReport", "fuse_batch_norm_relu"]
