"""DTensor parameters: every rank fills its shard with the values of the unsharded tensor, without communication."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

PROCESS = Path(__file__).with_name("dtensor_process.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("world_size", [2, 4])
def test_shards_hold_the_values_of_the_unsharded_tensor(world_size, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", PROCESS, str(rank), str(world_size), tmp_path / "store"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        reports = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(reports)
