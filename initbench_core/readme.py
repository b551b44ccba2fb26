"""Fill the README's tables from a results folder: python -m initbench_core.readme [--out results].

A table stands between `<!-- results: ... -->` or `<!-- speed: ... -->` and its `<!-- end of ... -->`. Only the finished
quick runs on the CPU count.
"""

import argparse
import re
import sys
from pathlib import Path

from initbench_core import catalogue
from initbench_core.errors import UserError
from initbench_core.experiments import batch_norm_relu_speed
from initbench_core.presentation.section import collect
from initbench_core.presentation.story import CORE, Claim
from initbench_core.presentation.tables import escaped, markdown
from initbench_core.records.files import replace_file
from initbench_core.records.folder import ResultsFolder, RunName
from initbench_core.records.run import read_run
from initbench_core.records.schema import Record

README = Path(__file__).parents[1] / "README.md"
SPEED = RunName("batch_norm_relu_speed", "quick", "cpu")


def story_tables(folder: ResultsFolder) -> str:
    """Return a table per chapter of the report's story, with the first claim of each experiment of the core."""
    parts = []
    for chapter, claims in collect(folder, catalogue.find).story.items():
        first: dict[str, Claim] = {}
        for section, claim in claims:
            if section.run.device == SPEED.device:
                first.setdefault(section.run.experiment, claim)
        rows = [
            f"| {escaped(claim.sentence)} | {claim.measured_text} | {escaped(claim.theory_text)} |"
            for claim in (first[name] for name in CORE if name in first)
        ]
        parts.append("\n".join([f"| {chapter} | measured | theory or source |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def speed_table(records: list[Record]) -> str:
    """Return speed-ups over eager PyTorch, a row per implementation."""
    return markdown(batch_norm_relu_speed.summary(records))


def filled(text: str, name: str, table: str) -> str:
    """Return the README's text with a table between its marks.

    Raises:
        UserError: the marks are not there.
    """
    pattern = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)"
    result, count = re.subn(pattern, lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise UserError(f"README.md has {count} tables marked <!-- {name}: ... --> to <!-- end of {name} -->, not one")
    return result


def main() -> int:
    """Fill both tables; return 2 where there is nothing to fill them with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), help="the results folder")
    options = parser.parse_args()
    try:
        with ResultsFolder(options.out).existing() as folder:
            speed = read_run(folder.records(SPEED), SPEED)
            if not speed.is_finished:
                raise UserError(f"no finished run {SPEED} in {options.out}: initbench run {SPEED.experiment}")
            text = filled(README.read_text(), "results", story_tables(folder))
            text = filled(text, "speed", speed_table(speed.content.records))
        replace_file(README, text.encode())
    except UserError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
