"""The report as one HTML file that needs nothing beside it: no network, no folder of figures, no installation.

Everything that a record says reaches the page through Jinja's escaping. As a second lock the page forbids itself, by
its content security policy, every script but its own and every address.
"""

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from initbench_core.errors import UserError
from initbench_core.presentation.plots import OUTCOME_STYLE
from initbench_core.presentation.section import Section
from initbench_core.presentation.story import CORE, Claim
from initbench_core.presentation.tables import cell_text

HERE = Path(__file__).parent
# A claim, and the run that makes it.
Told = tuple[Section, Claim]
# So many claims of an experiment of the core stand in its chapter at once.
LEADING = 3
# The markers of the figures as characters.
GLYPHS = {"o": "●", "D": "◆", "^": "▲", "s": "■", "X": "✖"}
OUTCOMES = re.compile(rf"(\d+ )?\b({'|'.join(OUTCOME_STYLE)})\b")


def render(context: Mapping[str, Any]) -> str:
    """Return the page; `context` is the one of report.md.j2."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"inline": inline, "prose": prose, "outcomes": outcomes, "cell": cell_text, "order": order, "lead": lead}
    templates.filters |= filters
    script = (HERE / "report.js").read_text()
    return templates.get_template("report.html.j2").render(
        **context,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        outcome_style={name: (color, GLYPHS[marker]) for name, (color, marker) in OUTCOME_STYLE.items()},
    )


def lead(claims: Sequence[Told]) -> tuple[list[Told], list[Told]]:
    """Split a chapter into the first claims of each experiment of the core (without any, all) and the others."""
    leading: list[Told] = []
    others: list[Told] = []
    told = Counter[str]()
    for section, claim in claims:
        name = section.run.experiment
        told[name] += 1
        (leading if name in CORE and told[name] <= LEADING else others).append((section, claim))
    return (leading, others) if leading else (others, [])


def inline(path: Path) -> Mapping[str, Any]:
    """Return a figure as source, width and height of an image: WebP without loss, a third of the PNG's size.

    Raises:
        UserError: the file is no whole image.
    """
    stream = io.BytesIO()
    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except (OSError, SyntaxError) as error:  # what PIL raises for a broken file
        raise UserError(f"{path} is no whole image: `initbench plot` draws it again") from error
    pixels.save(stream, "WEBP", lossless=True, quality=80)
    width, height = pixels.size
    source = f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return {"source": source, "width": width, "height": height}


def prose(text: str) -> Markup:
    """Return a docstring as paragraphs, with `code` and the labels that it begins paragraphs with."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n|\n(?=Source:)", text.strip()):
        body = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(paragraph)))
        paragraphs.append(re.sub(r"^(Question|Expected|Source):", r"<strong>\1:</strong>", body))
    return Markup("".join(f"<p>{paragraph}</p>" for paragraph in paragraphs))


def outcomes(text: object) -> Markup:
    """Return a cell's text with the outcomes that it names, and their counts, marked as in the figures."""
    return Markup(OUTCOMES.sub(r'<span class="outcome \2">\g<0></span>', str(escape(text))))


def order(value: object) -> float | None:
    """Return what a column of numbers is sorted by; None for a text and for what is missing."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and value == value:
        return float(value)
    return None
