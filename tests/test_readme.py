"""The README: its commands exist, its numbers are those of the report, its example runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from initbench_core import readme
from initbench_core.errors import UserError
from initbench_core.experiments import names
from initbench_core.records.schema import from_line

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_results_are_the_reports() -> None:
    """Every claim of the README stands in the committed results/README.md, generated from the records.

    Not in the working tree's: `make run` writes the results of the machine at hand there.
    """
    shown = subprocess.run(["git", "-C", str(ROOT), "show", "HEAD:results/README.md"], capture_output=True, text=True)
    if shown.returncode != 0:
        pytest.skip("not a git checkout")
    block = README.split("<!-- results", 1)[1].split("<!-- end of results -->")[0]
    tables = [re.findall(r"^\| (.*) \|$", table, re.MULTILINE)[2:] for table in block.split("\n\n")]
    rows = [row.split(" | ") for table in tables for row in table]
    assert len(rows) >= 10
    report = [line.split(" | ") for line in shown.stdout.splitlines()]
    for sentence, measured, theory in rows:
        assert any(
            sentence in line[0] and measured == line[1] and f"{theory} |" == line[-1]
            for line in report
            if len(line) == 4
        )


def test_its_speed_table_is_made_from_the_records(tmp_path: Path) -> None:
    """The committed ones: `python -m initbench_core.readme` fills the table from them."""
    name = "results/runs/batch_norm_relu_speed-quick-cpu.jsonl"
    shown = subprocess.run(["git", "-C", str(ROOT), "show", f"HEAD:{name}"], capture_output=True, text=True)
    if shown.returncode != 0:
        pytest.skip("no committed records")
    table = readme.speed_table([from_line(line) for line in shown.stdout.splitlines()])
    assert readme.filled(README, "speed", table) == README


def test_damaged_records_fill_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that cannot be read would shrink the table silently."""
    file = tmp_path / "README.md"
    file.write_text(README)
    results = tmp_path / "results"
    (results / "runs").mkdir(parents=True)
    for name in (f"{readme.SPEED}.jsonl", f"{readme.SPEED}.manifest.json"):
        (results / "runs" / name).write_bytes((ROOT / "results" / "runs" / name).read_bytes())
    records = results / "runs" / f"{readme.SPEED}.jsonl"
    records.write_text(records.read_text().replace("128x128", "128x127", 1))
    monkeypatch.setattr(readme, "README", file)
    monkeypatch.setattr(readme, "story_tables", lambda folder: "")
    monkeypatch.setattr(sys, "argv", ["readme", "--out", str(results)])
    assert readme.main() == 2
    assert "is damaged in 1 of its lines" in capsys.readouterr().err
    assert file.read_text() == README


def test_a_table_is_put_between_its_marks() -> None:
    text = "a\n<!-- speed: from x -->\nold\n<!-- end of speed -->\nb\n"
    assert readme.filled(text, "speed", "| new |") == (
        "a\n<!-- speed: from x -->\n\n| new |\n\n<!-- end of speed -->\nb\n"
    )
    for unmarked in ("a\nb\n", text + text):
        with pytest.raises(UserError, match="tables marked"):
            readme.filled(unmarked, "speed", "| new |")


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w/.-]+)\)", README))))
def test_its_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_its_files_exist() -> None:
    for path in re.findall(r"`((?:initbench_core|tests|kernels|benchmarks)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_its_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fused" in done.stdout


def test_results_are_committed_for_every_experiment() -> None:
    for name in names():
        assert (ROOT / "results" / "runs" / f"{name}-quick-cpu.jsonl").exists()
        assert list((ROOT / "results" / "figures").glob(f"{name}-*-quick-cpu.png"))
