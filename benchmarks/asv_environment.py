"""The asv environment "current": the interpreter at hand, with the source of the commit that is measured.

asv's own environments install torch anew at every commit, or save no results. This one checks a commit out and puts its
two source roots in front of the path: enough for a project without compiled parts. The versions of torch and triton,
the GPU and the thread count are part of the environment's name, so that no series ever mixes two of them.

The base class is asv's, which promises nothing about it: `pyproject.toml` bounds asv's version.
"""

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

from asv import util
from asv.environment import Environment, EnvironmentUnavailable
from asv.machine import Machine, MachineCollection

from initbench_core.environment import device_slug

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Where packages lie in a checkout.
SOURCE_ROOTS = (".", "kernels")


class Current(Environment):
    """The running interpreter; every dependency is the one installed for it, whatever the commit."""

    tool_name = "current"

    def __init__(self, conf: Any, python: str, requirements: dict[str, str], tagged_env_vars: dict[Any, str]) -> None:
        # asv's constructor names the environment by this before it sets it.
        self._requirements = requirements | _series()
        super().__init__(conf, python, self._requirements, tagged_env_vars)

    @classmethod
    def matches(cls, python: str) -> bool:
        """Serve the running version of Python alone."""
        return python == PYTHON

    def check_presence(self) -> bool:
        """Tell whether the folder for checkouts exists: there is nothing else to set up."""
        return os.path.isdir(self._path)

    def _setup(self) -> None:
        os.makedirs(self._path, exist_ok=True)

    def install_project(self, conf: Any, repo: Any, commit_hash: str) -> None:
        """Check the commit out, always: it takes a moment, and leaves nothing of another one."""
        self._set_installed_commit_hash(None)
        self.checkout_project(repo, commit_hash)
        self._set_installed_commit_hash(commit_hash)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run the interpreter with the checkout's packages, and those installed, on its path."""
        roots = os.pathsep.join(os.path.normpath(os.path.join(self._build_root, root)) for root in SOURCE_ROOTS)
        # asv drops PYTHONPATH unless both are set; processes that a benchmark starts read the second one.
        paths = {"ASV_PYTHONPATH": roots, "PYTHONPATH": roots}
        env = {**kwargs.pop("env", os.environ), **self._global_env_vars, **paths}
        return util.check_output([sys.executable, *args], env=env, **kwargs)


def _series() -> dict[str, str]:
    """Return what a series of measurements must have in common, beside the machine and the version of Python."""
    try:
        import torch
    except ImportError as error:
        raise EnvironmentUnavailable(f"{sys.executable} has no torch: {error}") from error
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return {
        "torch": importlib.metadata.version("torch"),
        "triton": triton,
        "gpu": device_slug("cuda") if torch.cuda.is_available() else "none",
        "threads": str(torch.get_num_threads()),
    }


def setup() -> None:
    """Describe this machine to asv where it has not been, instead of asking; asv calls this when it loads the plugin.

    Raises:
        util.UserError: the folder is no git checkout, or the home folder cannot be written.
    """
    if not Path(".git").exists():
        raise util.UserError("asv measures commits, and this folder is no git checkout: clone the repository")
    name = Machine.get_unique_machine_name()
    try:
        MachineCollection.load(name)
    except util.UserError:
        try:
            MachineCollection.save(name, Machine.get_defaults())
        except OSError as error:
            path = MachineCollection.get_machine_file_path()
            raise util.UserError(f"cannot write {path} ({error.strerror}): set HOME to a folder of yours") from error
