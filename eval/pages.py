"""HTML pages that need no other file and no network, from the templates beside this file."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from eval.tables import duration, verdict

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, pictures: dict[str, dict[str, bytes]], folder: Path = _TEMPLATES, **context: Any) -> bytes:
    """A page as UTF-8. `pictures` are PNG bytes by name and theme ("light", "dark"); all else is text, escaped.

    The template is in `folder`, and may use those of the run's report, which are beside this file.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template(template)
    text = page.render(pictures=data_uris(pictures), duration=duration, verdict=verdict, **context)
    # A name of a file may hold bytes that are not UTF-8.
    return text.encode("utf-8", "backslashreplace")


def data_uris(pictures: dict[str, dict[str, bytes]]) -> dict[str, dict[str, str]]:
    """The pictures as addresses that hold them."""
    start = "data:image/png;base64,"
    return {
        name: {theme: start + base64.b64encode(png).decode() for theme, png in themes.items()}
        for name, themes in pictures.items()
    }
