"""Costs of the fused kernels that need no GPU and repeat exactly: what the compiler emits, what the interpreter counts.

They say where a time would go before any clock does: a spill, a narrower access, one more pass over the data.
"""

from .common import need_triton, project

Costs = dict[tuple[str, ...], dict[str, float]]

# Architectures to compile for, of NVIDIA and AMD; others cost more compilation and tell the same story.
TARGETS = ("sm_90", "gfx942")
FORWARD_BUILDS = (
    "stats-rows_64-bf16",
    "stats-rows_411_unaligned-bf16",
    "stats-planes_7x7-bf16",
    "normalize_train-rows_64-bf16",
    "normalize_train-rows_411_unaligned-bf16",
    "normalize_train-planes_7x7-bf16",
    "normalize_eval-planes_7x7-bf16",
)
BACKWARD_BUILDS = (
    "reduce_train-rows_64-bf16",
    "reduce_train-rows_411_unaligned-bf16",
    "reduce_train-planes_7x7-bf16",
    "reduce_residual-planes_7x7-bf16",
    "dx-rows_64-bf16",
    "dx-rows_411_unaligned-bf16",
    "dx-planes_7x7-bf16",
)
FILL_BUILDS = ("random_fill",)
FILL_RUNS = ("random_fill-one_tensor", "random_fill-many_tensors")
EVALUATION_RUNS = ("forward_eval-rows_64", "forward_eval-planes_7x7", "backward_eval-rows_64")
TRAINING_RUNS = (
    "forward_train-rows_3",
    "forward_train-rows_64",
    "forward_train-planes_7x7",
    "backward_train-rows_3",
    "backward_train-rows_64",
    "backward_train-planes_7x7",
    "forward_residual-planes_7x7",
    "backward_residual-planes_7x7",
)


def compiled(names: tuple[str, ...]) -> Costs:
    """Compile these builds for each target and read their costs; {} where this machine or commit cannot."""
    try:
        need_triton()
        static_cost = project("initbench_core.measurement.static_cost")
    except NotImplementedError:
        return {}
    costs: Costs = {}
    for build in static_cost.builds():
        if build.name not in names:
            continue
        for target in TARGETS:
            cost = static_cost.cost_of(build, target)
            costs[build.name, target] = {
                "registers": cost.registers,
                "spill_bytes": cost.spill_bytes,
                "accesses": sum(cost.loads.values()) + sum(cost.stores.values()),
                "narrow": int(not cost.wide),
            }
    return costs


def counted(names: tuple[str, ...]) -> Costs:
    """Count launches and bytes of these runs under Triton's interpreter; {} where this machine or commit cannot."""
    try:
        need_triton()
        static_cost = project("initbench_core.measurement.static_cost")
    except NotImplementedError:
        return {}
    records = static_cost.traffic_records("|".join(f"^{name}$" for name in names))
    return {(record["name"],): {key: record[key] for key in ("launches", "bytes_per_element")} for record in records}


class _Builds:
    """Registers, spills and accesses of compiled kernels."""

    param_names = ("build", "target")
    version = "1"

    def setup(self, costs: Costs, build: str, target: str) -> None:
        if (build, target) not in costs:
            raise NotImplementedError(f"no build {build} for {target} here")

    def track_exact_registers(self, costs: Costs, build: str, target: str) -> float:
        return costs[build, target]["registers"]

    def track_exact_spill_bytes(self, costs: Costs, build: str, target: str) -> float:
        return costs[build, target]["spill_bytes"]

    def track_exact_global_accesses(self, costs: Costs, build: str, target: str) -> float:
        """Load and store instructions in the binary: more of them are narrower ones."""
        return costs[build, target]["accesses"]

    def track_exact_narrow(self, costs: Costs, build: str, target: str) -> float:
        """1 where an access is narrower than the alignment of its tensor permits, else 0."""
        return costs[build, target]["narrow"]

    track_exact_registers.unit = "registers per thread"  # type: ignore[attr-defined]
    track_exact_spill_bytes.unit = "bytes per thread"  # type: ignore[attr-defined]
    track_exact_global_accesses.unit = "instructions"  # type: ignore[attr-defined]
    track_exact_narrow.unit = "1 = narrow"  # type: ignore[attr-defined]


class ForwardBuilds(_Builds):
    params = (FORWARD_BUILDS, TARGETS)

    # asv shares a cache between classes that inherit it, so each class has its own.
    def setup_cache(self) -> Costs:
        return compiled(FORWARD_BUILDS)


class BackwardBuilds(_Builds):
    params = (BACKWARD_BUILDS, TARGETS)

    def setup_cache(self) -> Costs:
        return compiled(BACKWARD_BUILDS)


class FillBuilds(_Builds):
    params = (FILL_BUILDS, TARGETS)

    def setup_cache(self) -> Costs:
        return compiled(FILL_BUILDS)


class _Traffic:
    """Launches and bytes of whole passes, in bfloat16."""

    param_names = ("run",)
    version = "1"

    def setup(self, costs: Costs, run: str) -> None:
        if (run,) not in costs:
            raise NotImplementedError(f"no run {run} here")

    def track_exact_launches(self, costs: Costs, run: str) -> float:
        return costs[run,]["launches"]

    def track_exact_bytes_per_element(self, costs: Costs, run: str) -> float:
        return costs[run,]["bytes_per_element"]

    track_exact_launches.unit = "launches"  # type: ignore[attr-defined]
    track_exact_bytes_per_element.unit = "bytes"  # type: ignore[attr-defined]


class TrainingTraffic(_Traffic):
    params = (TRAINING_RUNS,)

    def setup_cache(self) -> Costs:
        return counted(TRAINING_RUNS)


class EvaluationTraffic(_Traffic):
    params = (EVALUATION_RUNS,)

    def setup_cache(self) -> Costs:
        return counted(EVALUATION_RUNS)


class FillTraffic(_Traffic):
    params = (FILL_RUNS,)

    def setup_cache(self) -> Costs:
        return counted(FILL_RUNS)
