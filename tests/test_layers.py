"""The house's rules, read from the source: who may import whom, and what stays lazy."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
CORE, KERNELS = ROOT / "initbench_core", ROOT / "kernels" / "initbench_kernels"

# Each room of the core, and the rooms it may import from; the kernels are below all of them.
ALLOWED: dict[str, set[str]] = {
    "networks": set(),
    "measurement": {"networks"},
    "environment": set(),
    "records": {"environment"},
    "presentation": {"records", "measurement"},
    "comparison": {"records", "presentation"},
    "execution": {"records", "environment"},
    "training": {"networks", "measurement", "records", "execution"},
    "experiments": {"training", "networks", "measurement", "records", "presentation"},
    "checks": {"environment", "execution", "networks", "measurement", "records", "training", "presentation"},
    "catalogue": {"experiments", "checks", "presentation"},
    "readme": {"catalogue", "experiments", "presentation", "records"},
    "runner": {"catalogue", "experiments", "execution", "presentation", "records", "training", "environment"},
    "cli": {"catalogue", "comparison", "execution", "experiments", "presentation", "records", "runner"},
    "__main__": {"cli"},
}
# The same of the kernels: each operator stands alone, and what changes models is above them.
ALLOWED_KERNELS: dict[str, set[str]] = {
    "builds": set(),
    "backend": set(),
    "batch_norm_relu": {"backend", "builds"},
    "random_fill": {"backend", "builds"},
    "fusion": {"batch_norm_relu"},
}


def imports(path: Path) -> set[str]:
    """Names of all modules that a file imports, at any depth, annotations aside."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


KERNEL_FILES = [p for p in sorted(KERNELS.rglob("*.py")) if p.parent != KERNELS or p.name != "__init__.py"]
CORE_FILES = [p for p in sorted(CORE.rglob("*.py")) if p.name != "__init__.py" or p.parent != CORE]


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda p: str(p.relative_to(CORE)))
def test_imports_go_downwards(path: Path) -> None:
    here = room(path)
    if here == "errors":
        return
    targets = {m.split(".")[1] for m in imports(path) if m.startswith("initbench_core.")}
    assert targets - {here, "errors"} <= ALLOWED[here]


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda p: str(p.relative_to(KERNELS)))
def test_kernels_are_a_leaf(path: Path) -> None:
    third_party = {m.split(".")[0] for m in imports(path)} - set(sys.stdlib_module_names)
    assert third_party <= {"torch", "triton", "initbench_kernels"}


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda p: str(p.relative_to(KERNELS)))
def test_imports_of_kernels_go_downwards(path: Path) -> None:
    here = path.relative_to(KERNELS).parts[0].removesuffix(".py")
    targets = {m.split(".")[1] for m in imports(path) if m.startswith("initbench_kernels.")}
    assert targets - {here} <= ALLOWED_KERNELS[here]


@pytest.mark.parametrize("path", [*CORE_FILES, *KERNELS.rglob("*.py")], ids=lambda p: p.name)
def test_nothing_imports_tests_or_benchmarks(path: Path) -> None:
    assert not {m.split(".")[0] for m in imports(path)} & {"tests", "benchmarks", "kernels"}


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda p: str(p.relative_to(CORE)))
def test_matplotlib_lives_in_presentation(path: Path) -> None:
    """Experiments may name its Figure; they draw through `presentation.plots`."""
    used = {m for m in imports(path) if m.split(".")[0] == "matplotlib"}
    assert room(path) == "presentation" or used <= {"matplotlib.figure", "matplotlib.figure.Figure"}


def test_the_command_line_and_the_kernels_start_light() -> None:
    code = (
        "import sys, initbench_core.cli; assert not {'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "import initbench_kernels; assert 'triton' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=PATHS)
    assert done.returncode == 0, done.stderr


def test_what_runs_in_a_worker_cannot_write_records() -> None:
    """The driver alone does: all that a trial needs is loaded, and nothing that opens a file of records."""
    code = (
        "import sys, initbench_core.training.cell, initbench_core.execution.worker\n"
        "import initbench_core.execution.ray_cluster\n"
        "from initbench_core.experiments import Experiment, names\n"
        "assert all(Experiment(name).runs_together in (True, False) for name in names())\n"
        "assert 'initbench_core.experiments.tanh_phase' in sys.modules\n"
        "assert not {'initbench_core.records.store', 'initbench_core.training.sweep'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=PATHS)
    assert done.returncode == 0, done.stderr


def test_the_gpu_check_needs_few_packages() -> None:
    """Whoever has a GPU may be unable to install anything: what torch and the check itself need has to do."""
    absent = ("mlxtend", "torchvision", "jinja2", "asv", "pytest_benchmark", "hypothesis", "tensorboard")
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); import initbench_core.checks.gpu"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=PATHS)
    assert done.returncode == 0, done.stderr
