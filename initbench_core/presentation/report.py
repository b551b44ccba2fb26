"""From records to the report, README.md and index.html.

What an experiment's records mean only the experiment knows: the callers pass a function that finds it by name.
"""

from pathlib import Path

import jinja2

from initbench_core.presentation import page
from initbench_core.presentation.section import INTERVALS, Find, collect
from initbench_core.presentation.tables import escaped, markdown
from initbench_core.records.files import replace_file
from initbench_core.records.folder import ResultsFolder
from initbench_core.records.schema import OUTCOMES


def write_report(folder: ResultsFolder, find: Find) -> list[Path]:
    """Write `README.md` and `index.html`, a table of all results and then each run; and each run's table as CSV.

    Returns:
        The two files.

    Raises:
        UserError: records that are damaged or foreign; nothing is written.
    """
    collected = collect(folder, find)
    context = {"report": collected, "outcome_meaning": OUTCOMES, "intervals": INTERVALS}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=False, undefined=jinja2.StrictUndefined
    )
    templates.filters |= {"markdown": markdown, "escaped": escaped}
    readme = templates.get_template("report.md.j2").render(context).rstrip() + "\n"
    written = {folder.path / "README.md": readme, folder.path / "index.html": page.render(context)}
    for section in collected.sections:
        replace_file(folder.tables / f"{section.run}.csv", section.table.to_csv(index=False).encode())
    for path, text in written.items():
        replace_file(path, text.encode())
    return list(written)
