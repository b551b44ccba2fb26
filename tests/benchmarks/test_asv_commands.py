"""asv's commands on a repository made from the working tree: no questions, results kept, regressions reported."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("asv")

ROOT = Path(__file__).parents[2]
TRITON_CACHE = os.environ.get("TRITON_CACHE_DIR", str(Path.home() / ".triton" / "cache"))
LAUNCH = "kernels/initbench_kernels/batch_norm_relu/launch.py"

# One more pass over the data: the statistics, computed in evaluation too, where nothing needs them.
PASS_BEFORE = "        merge_splits = normalize.splits\n"
EXTRA_PASS = """\
        extra = _plan("fwd_stats", layout, x.itemsize, x.device, True)
        unused = torch.empty(3, extra.splits, channels, dtype=torch.float32, device=x.device)
        extra.launch(batch_norm_relu_fwd_stats_kernel, x, unused, None)
"""
# Spilled registers: tiles 16 times as large, for as many warps.
TILE = re.compile(r'(\("bwd_dx", "wide"\): Tile\(num_bytes=)8192')

# What reports them, and next to nothing beside.
MEASURED = (r"EvaluationTraffic", r"BackwardBuilds.*(spill|registers).*dx-rows_64-bf16")


class Repository:
    """A git repository with two commits: the working tree, and the planted regressions on top."""

    def __init__(self, folder: Path) -> None:
        self.root, self.home = folder / "initbench", folder / "home"
        self.home.mkdir()
        ignored = shutil.ignore_patterns(".*", "__pycache__", "results", "data")
        shutil.copytree(ROOT, self.root, ignore=ignored)
        shutil.copy(ROOT / ".gitignore", self.root)
        self.environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "HOME": str(self.home),
            "TRITON_CACHE_DIR": TRITON_CACHE,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.git("init", "--quiet")
        self.commit("working tree")

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.org", *arguments]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def plant(self) -> None:
        source = (self.root / LAUNCH).read_text()
        assert source.count(PASS_BEFORE) == 1
        source, tiles = TILE.subn(r"\g<1>131072", source.replace(PASS_BEFORE, PASS_BEFORE + EXTRA_PASS))
        assert tiles == 1
        (self.root / LAUNCH).write_text(source)
        self.commit("one more pass, and spilled registers")

    def asv(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run asv as a batch job would: no terminal, nothing to read."""
        return subprocess.run(
            [sys.executable, "-m", "asv", *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The repository, before asv has ever run on this machine as far as its home folder tells."""
    made = Repository(tmp_path_factory.mktemp("asv"))
    made.plant()
    return made


@pytest.fixture(scope="module")
def continuous(repository: Repository) -> subprocess.CompletedProcess[str]:
    """Compare the two commits, once for all tests."""
    benches = [part for pattern in MEASURED for part in ("--bench", pattern)]
    return repository.asv("continuous", "--factor", "1", *benches, "HEAD~1", "HEAD")


def changed(output: str) -> dict[str, tuple[str, str]]:
    """Rows that asv marks as worse: benchmark to (before, after)."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if "| " in line]
    return {name: (before, after) for mark, before, after, _, name in rows if mark == "+"}


def test_continuous_reports_a_planted_regression(continuous: subprocess.CompletedProcess[str]) -> None:
    """One more pass over bfloat16 is two bytes per element and one launch; spills are bytes where there were none."""
    assert continuous.returncode == 1, continuous.stdout
    assert "PERFORMANCE DECREASED" in continuous.stdout
    worse = changed(continuous.stdout)
    traffic = "kernel_cost.EvaluationTraffic.track_exact_"
    assert worse[f"{traffic}launches('forward_eval-rows_64')"] == ("1", "2")
    before, after = worse[f"{traffic}bytes_per_element('forward_eval-rows_64')"]
    assert float(after) - float(before) == pytest.approx(2, abs=0.1)
    before, after = worse["kernel_cost.BackwardBuilds.track_exact_spill_bytes('dx-rows_64-bf16', 'sm_90')"]
    assert before == "0"
    assert float(after) > 100
    assert "kernel_cost.BackwardBuilds.track_exact_registers('dx-rows_64-bf16', 'sm_90')" in worse
    assert not any("backward_eval" in name for name in worse), "what was not touched has not changed"


def test_no_questions_and_results_of_both_commits(
    repository: Repository, continuous: subprocess.CompletedProcess[str]
) -> None:
    """The series is named by Python, torch, Triton, GPU and threads; asv knows the machine without having asked."""
    (machine,) = (key for key in json.loads((repository.home / ".asv-machine.json").read_text()) if key != "version")
    kept = sorted(path.name for path in (repository.root / "results" / "asv" / machine).glob("*-current-*.json"))
    commits = sorted(repository.git("rev-parse", revision)[:8] for revision in ("HEAD~1", "HEAD"))
    assert [name.partition("-")[0] for name in kept] == commits
    for name in kept:
        assert re.search(r"-py3\.\d+-gpu[\w-]+-threads\d+-torch\d[\d.]+-triton\d", name)
    assert not repository.git("status", "--porcelain", "--", ".", ":!results"), "asv leaves the checkout clean"


def test_compare_and_publish(repository: Repository, continuous: subprocess.CompletedProcess[str]) -> None:
    """What was measured can be compared again and published, without measuring."""
    compared = repository.asv("compare", "--factor", "1", "--only-changed", "HEAD~1", "HEAD")
    assert compared.returncode == 0, compared.stdout
    assert changed(compared.stdout) == changed(continuous.stdout)
    published = repository.asv("publish")
    assert published.returncode == 0, published.stdout
    pages = repository.root / ".asv" / "html"
    assert (pages / "index.html").exists()
    assert any("track_exact_launches" in path.name for path in pages.rglob("*.json"))
    reported = json.loads((pages / "regressions.json").read_text())["regressions"]
    assert {name for name, *_ in reported} == set(changed(continuous.stdout))


def test_a_new_clone_is_measured_as_it_is(repository: Repository, tmp_path: Path) -> None:
    """`asv run` alone, in a home of its own: no questions, and the current commit's results are kept, no other's."""
    clone = copy.copy(repository)
    clone.root, clone.home = tmp_path / "clone", tmp_path / "home"
    clone.home.mkdir()
    clone.environment = repository.environment | {"HOME": str(clone.home)}
    repository.git("clone", "--quiet", str(repository.root), str(clone.root))
    done = clone.asv("run", "--bench", r"EvaluationTraffic\.track_exact_launches")
    assert done.returncode == 0, done.stdout
    (kept,) = (clone.root / "results" / "asv").glob("*/*-current-*.json")
    assert kept.name.startswith(clone.git("rev-parse", "HEAD")[:8])
    (launches,) = json.loads(kept.read_text())["results"].values()
    assert launches[0] == [2, 2, 2], "the planted pass is in both forward evaluations; backward has two launches"


def test_nothing_to_measure_is_an_error_and_not_a_pass(repository: Repository) -> None:
    """Code 1, a mistake in the call or the configuration; a benchmark that fails gives 2."""
    done = repository.asv("run", "--bench", "no_such_benchmark")
    assert done.returncode == 1
    assert "No benchmarks selected" in done.stdout


def test_a_failing_benchmark_gives_code_2(repository: Repository) -> None:
    """The commit's reference no longer agrees with what is compared: nothing is timed."""
    reference = repository.root / "kernels" / "initbench_kernels" / "batch_norm_relu" / "reference.py"
    whole = reference.read_text()
    broken = whole.replace("weight, bias, residual).relu()", "weight, bias, residual).abs()")
    assert broken != whole
    reference.write_text(broken)
    repository.commit("wrong results")
    benches = ("--bench", r"OnCpu\.time_eval\('eager', '1024x1024'\)")
    done = repository.asv("run", "--quick", "--dry-run", "--show-stderr", *benches)
    assert done.returncode == 2, done.stdout
    assert "WrongResultError: eager at 1024x1024 float32" in done.stdout
    repository.git("reset", "--hard", "--quiet", "HEAD~1")


def test_what_is_no_checkout_or_has_no_home_is_told_so(repository: Repository, tmp_path: Path) -> None:
    """One line each, code 1."""
    archive = tmp_path / "archive"
    shutil.copytree(repository.root, archive, ignore=shutil.ignore_patterns(".git", ".asv", "results"))
    command = [sys.executable, "-m", "asv", "run"]
    for folder, home, says in (
        (archive, repository.home, "asv measures commits, and this folder is no git checkout"),
        (repository.root, os.devnull, "cannot write /dev/null/.asv-machine.json"),
    ):
        environment = repository.environment | {"HOME": str(home)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert says in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
