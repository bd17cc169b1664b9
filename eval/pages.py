"""HTML pages that need no other file and no network, from the templates beside this file."""

from pathlib import Path
from typing import Any

import jinja2

from eval.layout import duration
from eval.plots import THEMES
from eval.tables import verdict

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, folder: Path = TEMPLATES, **context: Any) -> bytes:
    """A page as UTF-8. Text is escaped, except the `svg` of pictures.

    The template is in `folder`, and may use those of the run's report, which are beside this file.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = templates.get_template(template).render(themes=THEMES, duration=duration, verdict=verdict, **context)
    # A name of a file may hold bytes that are not UTF-8.
    return text.encode("utf-8", "backslashreplace")
