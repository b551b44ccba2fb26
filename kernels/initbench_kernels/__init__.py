"""Kernels of initbench: a leaf package that needs torch alone (and triton where a kernel runs).

It knows numbers, never the names of schemes: which standard deviation makes a Kaiming initialization is decided in
``initbench_core.networks``, not here.
"""

from initbench_kernels.batch_norm_relu import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d, batch_norm_relu
from initbench_kernels.fusion import fuse_batch_norm_relu
from initbench_kernels.random_fill import Fill, FillPlan, fill_

__all__ = [
    "BatchNormReLU1d",
    "BatchNormReLU2d",
    "BatchNormReLU3d",
    "Fill",
    "FillPlan",
    "batch_norm_relu",
    "fill_",
    "fuse_batch_norm_relu",
]
