"""Kernels of initbench: a leaf package that needs torch alone (and triton where a kernel runs).

It knows numbers, never the names of schemes: which standard deviation makes a Kaiming initialization is decided in
``initbench_core.networks``, not here.
"""

from initbench_kernels.random_fill import Fill, FillPlan, fill_

__all__ = ["Fill", "FillPlan", "fill_"]
