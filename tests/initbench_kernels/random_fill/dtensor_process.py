"""One process of the DTensor tests: `python dtensor_process.py RANK WORLD_SIZE STORE_FILE`; exits 0 where all agree."""

import math
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from initbench_core.networks import initialize_
from initbench_kernels import Fill, fill_

SEED = 2**63 + 17
DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")
# Shapes that no number of processes here divides, a 1-D one, one with fewer rows than processes, long and short runs.
SHAPES = [(7, 5), (13,), (1, 6), (3, 10_001), (5, 3, 3, 2), (64, 96)]
PLACEMENTS = {
    1: [[Shard(0)], [Shard(1)], [Replicate()]],
    2: [
        [Shard(0), Shard(1)],
        [Shard(1), Shard(0)],
        [Shard(0), Shard(0)],
        [Replicate(), Shard(1)],
        [Shard(1), Shard(1)],
    ],
}


def whole(shape: tuple[int, ...], distribution: str, dtype: torch.dtype, key: str = "w") -> torch.Tensor:
    """The fill of one process."""
    tensor = torch.full(shape, math.nan, dtype=dtype)
    fill_([Fill(tensor, distribution, key)], seed=SEED)
    return tensor


def filled_without_communication(rows: list[Fill]) -> None:
    # Under any default device: on the meta device a helper tensor would have no values.
    with CommDebugMode() as communication, torch.device("meta"):
        fill_(rows, seed=SEED)
    assert communication.get_total_counts() == 0


def check_placements(mesh) -> None:
    """Every placement of every shape against torch's own way to distribute the whole tensor."""
    for number, shape in enumerate(SHAPES):
        for placements in PLACEMENTS[mesh.ndim]:
            if any(isinstance(p, Shard) and p.dim >= len(shape) for p in placements):
                continue
            distribution, dtype = DISTRIBUTIONS[number % 3], (torch.float32, torch.bfloat16)[number % 2]
            expected = whole(shape, distribution, dtype)
            tensor = distribute_tensor(torch.full(shape, math.nan, dtype=dtype), mesh, placements)
            filled_without_communication([Fill(tensor, distribution, "w")])
            wanted = distribute_tensor(expected, mesh, placements).to_local()
            assert torch.equal(tensor.to_local(), wanted), (shape, placements)
            assert torch.equal(tensor.full_tensor(), expected), (shape, placements)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 7), nn.Conv2d(3, 5, 3))


def check_model(sharded: nn.Module) -> None:
    """Parameters of a sharded model, materialized from the meta device, against the plain model."""
    sharded.to_empty(device="cpu")
    parameters = dict(sharded.named_parameters())
    assert any(isinstance(p, DTensor) for p in parameters.values())
    filled_without_communication([Fill(p, "normal", name) for name, p in parameters.items()])
    for name, parameter in parameters.items():
        expected = whole(tuple(parameter.shape), "normal", torch.float32, name)
        found = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        assert torch.equal(found.detach(), expected), name
    check_initialize(sharded)


def check_initialize(sharded: nn.Module) -> None:
    """`initialize_` of a sharded model against the plain one, for drawn weights and for factorized ones."""
    plain = model()
    for scheme in ("kaiming_normal", "xavier_uniform", "orthogonal"):
        with CommDebugMode() as communication:
            table = initialize_(sharded, scheme, seed=SEED)
        assert communication.get_total_counts() == 0
        assert table == initialize_(plain, scheme, seed=SEED)
        for name, parameter in sharded.named_parameters():
            found = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            assert torch.equal(found, plain.get_parameter(name)), (scheme, name)


def check_after_a_forward_pass(sharded: nn.Module) -> None:
    """FSDP2 leaves whole parameters in place then, which it throws away later: what is filled must stay."""
    sharded(torch.ones(2, 6))
    assert not any(isinstance(p, DTensor) for p in sharded[0].parameters(recurse=False))
    initialize_(sharded, seed=SEED)
    sharded.reshard()
    plain = nn.Sequential(nn.Linear(6, 7))
    initialize_(plain, seed=SEED)
    for name, parameter in sharded.named_parameters():
        assert torch.equal(parameter.full_tensor(), plain.get_parameter(name)), name
    with pytest.raises(ValueError, match=r"'0.weight' is sharded"):
        initialize_(sharded, "lsuv", seed=1, batch=torch.ones(2, 6))
    for name, parameter in sharded.named_parameters():
        assert torch.equal(parameter.full_tensor(), plain.get_parameter(name)), name


class Tied(nn.Module):
    """An embedding that is the output layer's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(51, 8), nn.Linear(8, 51, bias=False)
        self.output.weight = self.embedding.weight


def check_tied(mesh) -> None:
    sharded, plain = fully_shard(Tied(), mesh=mesh), Tied()
    assert initialize_(sharded, seed=SEED) == initialize_(plain, seed=SEED)
    assert sharded.output.weight is sharded.embedding.weight
    assert torch.equal(sharded.output.weight.full_tensor(), plain.output.weight)


def check_replicated() -> None:
    replicated, plain = nn.parallel.DistributedDataParallel(model()), model()
    assert initialize_(replicated, seed=SEED) == initialize_(plain, seed=SEED)
    assert all(map(torch.equal, replicated.parameters(), plain.parameters()))


def check_partial(mesh) -> None:
    tensor = DTensor.from_local(torch.full((4,), 7.0), mesh, [Partial()] * mesh.ndim, run_check=False)
    with pytest.raises(ValueError, match="partial sums"):
        fill_([Fill(tensor, "normal", "partial sums")], seed=SEED)
    assert (tensor.to_local() == 7.0).all()


def main(rank: int, world_size: int, store_file: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(store_file, world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=120))
    line = init_device_mesh("cpu", (world_size,))
    check_placements(line)
    check_partial(line)
    with torch.device("meta"):
        sharded = model()
    check_model(fully_shard(sharded, mesh=line))
    check_after_a_forward_pass(fully_shard(nn.Sequential(nn.Linear(6, 7)), mesh=line))
    check_tied(line)
    check_replicated()
    with torch.device("meta"):
        parallel = model()
    check_model(parallelize_module(parallel, line, {"0": ColwiseParallel(), "2": RowwiseParallel()}))
    if world_size == 4:
        square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        check_placements(square)
        with torch.device("meta"):
            both = model()
        parallelize_module(both, square["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        check_model(fully_shard(both, mesh=square["data"]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
