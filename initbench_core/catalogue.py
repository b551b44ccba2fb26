"""Everything that leaves records, by name: the experiments, and the check on a GPU."""

from initbench_core import experiments
from initbench_core.checks.gpu_results import NAME, GpuCheck
from initbench_core.experiments import Experiment
from initbench_core.presentation.section import Presentable


def names() -> list[str]:
    """Return all names, sorted."""
    return sorted([*experiments.names(), NAME])


def find(name: str) -> Presentable:
    """Return what can make tables, findings and figures of the records of this name.

    Raises:
        UserError: there is none.
    """
    return GpuCheck() if name == NAME else Experiment(name)
