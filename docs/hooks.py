"""Pages link to files outside docs/ by paths that also hold in the repository: this puts those files into the site.

CONTRIBUTING.md, CHANGELOG.md, examples/README.md and the notes in research/ become pages, and any other file that a
page links to or shows is copied. A link to a file that does not exist is a warning, which --strict turns into an error;
README.md is no page of the site, and its links are checked all the same.
"""

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from properdocs.config.defaults import ProperDocsConfig
from properdocs.plugins import get_plugin_logger
from properdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "research/*.md")
# The site's theme is light, whatever a browser prefers, and transparent pictures for dark pages vanish on it.
DARK = re.compile(r"<source media=\"\(prefers-color-scheme: dark\)\"[^>]*>\s*")
log = get_plugin_logger("links")
# Targets of Markdown links and of <img> and <source>, without anchors; code has none.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)#\s]+|(?<=(?:src|set)=\")[^\"]+")
CODE = re.compile(r"^```.*?^```$|^ {4}.*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def in_site(path: str) -> str:
    """Where a file of the repository stands in the site."""
    return path.removeprefix("docs/")


def in_repository(uri: str) -> str:
    """The reverse of `in_site`."""
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def on_files(files: Files, config: ProperDocsConfig) -> Files:
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        add(files, str(path.relative_to(ROOT)), config)
    for here in ["README.md", *(in_repository(page.src_uri) for page in files.documentation_pages())]:
        for link in LINK.findall(CODE.sub("", (ROOT / here).read_text())):
            target = target_of(here, link)
            if not (ROOT / target).is_file():
                log.warning(f"{here} links to {link}, which is no file of the repository")
            elif here != "README.md" and not files.get_file_from_path(in_site(target)):
                add(files, target, config)
    return files


def target_of(here: str, link: str) -> str:
    """The path in the repository that a link on the page `here` means."""
    return normpath(f"{dirname(here)}/{link}".lstrip("/"))


def add(files: Files, path: str, config: ProperDocsConfig) -> None:
    files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that hold in the repository into those that hold in the site; drop pictures for dark pages."""
    here = in_repository(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        target = target_of(here, found[0])
        if not (ROOT / target).is_file():
            return found[0]
        return relpath(in_site(target), dirname(in_site(here)) or ".")

    parts = re.split(f"({CODE.pattern})", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if number % 2 else LINK.sub(moved, DARK.sub("", part)) for number, part in enumerate(parts))
