"""Batch normalization and ReLU in one operator, forward and backward."""

from initbench_kernels.batch_norm_relu.function import batch_norm_relu
from initbench_kernels.batch_norm_relu.module import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d

__all__ = [
    "BatchNormReLU1d",
    "BatchNormReLU2d",
    "BatchNormReLU3d",
    "batch_norm_relu",
]
