"""Random fills: one launch fills a whole model, the same weights everywhere."""

from initbench_kernels.random_fill.plan import FillPlan, fill_
from initbench_kernels.random_fill.rows import Fill

__all__ = ["Fill", "FillPlan", "fill_"]
