"""A Ray cluster that is there already: found by its address, asked what it has, left as it was."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")
ROOT = Path(__file__).parents[3]
# Clusters and drivers of these tests want no token of each other.
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "RAY_AUTH_MODE": "disabled"}
HEAD = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"]

DRIVER = """
import sys
from initbench_core.errors import UserError
from initbench_core.execution.ray_cluster import RayExecutor
from tests.initbench_core.execution.jobs import Devices
executor = RayExecutor(sys.argv[1], cpus=1, gpus=0.5)
print(*sorted(done.result for done in executor.run([Devices()] * 4, timeout=None, retries=0)))
executor.close()
try:
    RayExecutor(sys.argv[1], cpus=1, gpus=2)
except UserError as error:
    print(error)
"""


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of one machine with two cores and, as it says, one GPU."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray")  # pytest's own is too long a name for a socket
    resources = [f"--port={port}", f"--temp-dir={folder}", "--num-cpus=2", "--num-gpus=1"]
    head = subprocess.Popen([*HEAD, *resources], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert head.stdout
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    yield f"127.0.0.1:{port}"
    assert head.poll() is None, "a driver that leaves takes no cluster with it"
    head.terminate()
    head.communicate(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def test_trials_share_a_gpu_of_the_cluster_and_ask_for_no_more_than_it_has(address: str) -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER, address], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shared, refused = done.stdout.splitlines()
    assert shared == "0 0 0 0", "the trials' CUDA_VISIBLE_DEVICES"
    assert refused == "a trial wants 1 CPU and 2 GPU, and no machine of the Ray cluster has that (at most 2 CPU, 1 GPU)"
