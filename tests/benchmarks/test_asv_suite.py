"""The asv suite, run in this process: every benchmark works, with the registries' parameters and one threshold."""

import ast
import dataclasses
import importlib
import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("asv")

import json5
from asv.config import Config
from asv.step_detect import detect_regressions, detect_steps
from asv_runner.discovery import disc_benchmarks
from asv_suite import batch_norm_relu, common, convergence, initializers, kernel_cost

from initbench_core.measurement import static_cost
from initbench_core.measurement.shapes import parse
from initbench_core.measurement.workload import WrongResultError
from initbench_core.networks.implementations import IMPLEMENTATIONS, available
from initbench_core.networks.initializers import SCHEMES, parse_scheme
from initbench_core.networks.models import NORM_PLACES
from initbench_kernels.batch_norm_relu import offline as batch_norm_relu_offline
from initbench_kernels.random_fill import offline as random_fill_offline

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = {name: json5.loads((ROOT / name).read_text()) for name in ("asv.conf.json", "asv.isolated.conf.json")}
THRESHOLDS = CONFIGURATIONS["asv.conf.json"]["regressions_thresholds"]
BENCHMARKS = list(disc_benchmarks(str(ROOT / "benchmarks" / "asv_suite")))


def unknown_keys(configuration: dict[str, Any]) -> set[str]:
    """Keys that asv does not read: it takes any, and says nothing."""
    # The format's version and the cache of builds have no default in asv's class.
    return set(configuration) - set(vars(Config())) - {"version", "build_cache_size"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_key_is_one_that_asv_reads(name: str) -> None:
    assert not unknown_keys(CONFIGURATIONS[name])
    assert unknown_keys(CONFIGURATIONS[name] | {"regression_thresholds": {}}) == {"regression_thresholds"}


def test_both_configurations_measure_alike() -> None:
    """They differ in the environment alone, and the isolated one has the torch of constraints.txt."""
    current, isolated = CONFIGURATIONS.values()
    shared = ("repo", "branches", "benchmark_dir", "results_dir", "plugins", "launch_method", "regressions_thresholds")
    for key in shared:
        assert current[key] == isolated[key], key
    (version,) = isolated["matrix"]["req"]["torch"]
    assert f"torch=={version}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("case", BENCHMARKS, ids=lambda case: case.name)
def test_each_benchmark_says_how_far_it_can_be_trusted(case: Any) -> None:
    """One threshold (the largest of several would win), 0 for what is counted; a version and a unit of its own."""
    (threshold,) = (value for pattern, value in THRESHOLDS.items() if re.match(pattern, case.name))
    assert (threshold == 0) == ("track_exact_" in case.name)
    assert re.fullmatch(r"\d+", case.version), "asv would make one of the source, and start a new series"
    assert case.unit != "unit"


def test_implementations_are_those_of_the_registry() -> None:
    assert set(common.IMPLEMENTATIONS) == {row.name for row in IMPLEMENTATIONS.values() if not row.compiled}
    for name in common.IMPLEMENTATIONS:
        reason = available(name, "cpu")
        has_a_cpu_path = reason is None or reason.startswith("not installed")
        assert (name in common.CPU_IMPLEMENTATIONS) == has_a_cpu_path, f"{name}: {reason}"


def test_parameters_are_those_of_the_registries() -> None:
    # In any order: a new one goes to the end here, wherever it stands there.
    assert sorted(initializers.SCHEMES) == sorted(SCHEMES)
    for cell in convergence.CELLS:
        scheme, norm = cell.split()
        parse_scheme(scheme)
        assert norm in NORM_PLACES
    for label in batch_norm_relu.CPU_SHAPES + batch_norm_relu.CUDA_SHAPES:
        assert str(parse(label)).startswith(label)
    assert set(kernel_cost.TARGETS) <= set(static_cost.TARGETS)
    builds = {build.name for build in static_cost.builds()}
    assert {*kernel_cost.FORWARD_BUILDS, *kernel_cost.BACKWARD_BUILDS, *kernel_cost.FILL_BUILDS} <= builds
    runs = {run.name for module in (batch_norm_relu_offline, random_fill_offline) for run in module.runs()}
    assert {*kernel_cost.TRAINING_RUNS, *kernel_cost.EVALUATION_RUNS, *kernel_cost.FILL_RUNS} <= runs


def test_parameters_are_only_ever_appended() -> None:
    """To those of the committed results: whoever moves or drops one ends a series."""
    name = "results/asv/benchmarks.json"
    shown = subprocess.run(["git", "-C", str(ROOT), "show", f"HEAD:{name}"], capture_output=True, text=True)
    if shown.returncode != 0:
        pytest.skip("no committed results")
    before, compared = json.loads(shown.stdout), 0
    for case in BENCHMARKS:
        was = before.get(case.name)
        if was and was["version"] == case.version:
            assert was["param_names"] == list(case.param_names)[: len(was["param_names"])], case.name
            for old, new in zip(was["params"], case.params, strict=True):
                assert new[: len(old)] == old, case.name
                compared += 1
    assert compared > 0


@pytest.mark.parametrize(
    ("values", "is_reported"),
    [((100, 102), True), ((0, 16), True), ((100, 100.5), False), ((100, 100.5, 100.5), True), ((100, 99), False)],
)
def test_what_publish_reports_of_counts(values: tuple[float, ...], is_reported: bool) -> None:
    """As the README says: any rise, below 1% once it has lasted for two commits."""
    (exact,) = (value for pattern, value in THRESHOLDS.items() if re.match(pattern, "m.C.track_exact_x"))
    latest, _, _ = detect_regressions(detect_steps(list(values)), exact)
    assert (latest is not None) == is_reported


# Of every class that is for the CPU, a benchmark: they share parameters and set-up.
ON_CPU = {case.name.rpartition(".")[0]: case for case in BENCHMARKS if "OnCuda" not in case.name}


def not_applicable(case: Any) -> set[tuple[str, ...]]:
    """Return the parameters at which asv would show n/a here: no failure, and no number that could get worse."""
    if case.name.startswith("kernel_cost."):
        operators = (batch_norm_relu_offline, random_fill_offline)
        builds = {(build.name, target): {} for build in static_cost.builds() for target in static_cost.TARGETS}
        case.set_cache(builds | {(run.name,): {} for module in operators for run in module.runs()})
    found = set()
    # asv keeps parameters by their repr.
    for index, parameters in enumerate(itertools.product(*case.params)):
        if case.params:
            case.set_param_idx(index)
        if case.do_setup():
            found.add(tuple(map(ast.literal_eval, parameters)))
    return found


@pytest.mark.parametrize("case", ON_CPU.values(), ids=ON_CPU)
def test_what_must_run_without_a_gpu_is_applicable(case: Any) -> None:
    """At all parameters but timm's rows: its layer takes images alone, and may not be installed."""
    shapes = [value for value in itertools.product(*case.params) if "'timm'" in value]
    expected = {tuple(map(ast.literal_eval, value)) for value in shapes}
    if available("timm", "cpu") is None:
        expected = {value for value in expected if not any(part.count("x") == 3 for part in value)}
    assert not_applicable(case) == expected


def test_a_lost_benchmark_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shape that our own implementation no longer takes; one kernel that is compiled no more."""
    ours = IMPLEMENTATIONS["fused_eager"]
    planes = dataclasses.replace(ours, refuses=lambda x: "takes rows only" if x.ndim > 2 else None)
    monkeypatch.setitem(IMPLEMENTATIONS, "fused_eager", planes)
    batch_norm_relu.checked.cache_clear()
    assert ("fused_eager", "16x64x28x28") in not_applicable(ON_CPU["batch_norm_relu.OnCpu"])
    batch_norm_relu.checked.cache_clear()
    kept = [build for build in static_cost.builds() if build.name != "dx-rows_64-bf16"]
    monkeypatch.setattr(static_cost, "builds", lambda: iter(kept))
    lost = not_applicable(ON_CPU["kernel_cost.BackwardBuilds"])
    assert lost == {("dx-rows_64-bf16", target) for target in kernel_cost.TARGETS}


@pytest.fixture(scope="module")
def caches() -> Iterator[dict[str, Any]]:
    """Results of `setup_cache`, each made once, and of one entry of each list."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (kernel_cost, ("FORWARD_BUILDS", "BACKWARD_BUILDS", "FILL_BUILDS", "TARGETS")),
            (kernel_cost, ("EVALUATION_RUNS", "TRAINING_RUNS", "FILL_RUNS")),
            (convergence, ("CELLS", "SEEDS")),
        ):
            for name in names:
                patch.setattr(module, name, getattr(module, name)[:1])
        threads = torch.get_num_threads()
        yield {}
        torch.set_num_threads(threads)


@pytest.mark.parametrize("case", BENCHMARKS, ids=lambda case: case.name)
def test_every_benchmark_runs(case: Any, caches: dict[str, Any]) -> None:
    """Once, at the first parameters that this machine can run; where it has no GPU, those of CUDA are n/a."""
    key = case.setup_cache_key
    if key is not None:
        if key not in caches:
            caches[key] = case.do_setup_cache()
        case.set_cache(caches[key])
    combinations = 1
    for values in case.params:
        combinations *= len(values)
    for index in range(combinations):
        if case.params:
            case.set_param_idx(index)
        skipped = case.do_setup()
        if not skipped:
            break
    assert skipped == ("OnCuda" in case.name and not torch.cuda.is_available())
    if skipped:
        return
    result = case.do_run() if case.type == "track" else case.func(*case._build_params())
    if case.type == "track":
        assert type(result) in (int, float), "asv takes no numpy number"
        assert json.loads(json.dumps(result, allow_nan=False)) >= 0
    elif result is not None:
        exec(result, {})


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = IMPLEMENTATIONS["eager"]
    wrong = dataclasses.replace(right, function=lambda *arguments: right.function(*arguments) * 1.01)
    monkeypatch.setitem(IMPLEMENTATIONS, "eager", wrong)
    batch_norm_relu.checked.cache_clear()
    with pytest.raises(WrongResultError, match="eager at 16384x64 float32: output is off"):
        batch_norm_relu.OnCpu().setup("eager", "16384x64")


def test_an_unwritten_fill_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("initbench_core.networks.initialize").FillPlan, "fill_", print)
    initializers.checked.cache_clear()
    with pytest.raises(AssertionError, match="left weight unwritten"):
        initializers.OnCpu().setup("kaiming_normal")


def test_only_the_commits_own_source_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not the installed one, nor another; and what an old commit lacks is n/a."""
    monkeypatch.setenv("ASV_ENV_DIR", str(ROOT))
    assert common.project("initbench_core.errors")
    with pytest.raises(NotImplementedError, match=r"this commit has no initbench_core\.measurement\.unheard_of"):
        common.project("initbench_core.measurement.unheard_of")
    monkeypatch.setenv("ASV_ENV_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"not from asv's checkout in "):
        common.project("initbench_core.errors")
