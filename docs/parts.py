"""A hook of mkdocs: the line <!-- parts: --prior --> of a page becomes a table of all priors."""

import html
import re
from typing import get_type_hints

from scripts._explain import arguments_of, part_of
from scripts._pair import PARTS, compose, first_paragraph, parts

MARK = re.compile(r"^<!-- parts: (--\w+) -->$", re.MULTILINE)
"""What a page has in the place of a table; nobody sees it where there is no hook."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the tables into a page."""
    return MARK.sub(lambda found: table(found[1]), markdown)


def table(flag: str) -> str:
    """Return the parts that an argument of lowerbound train takes, as a table in Markdown."""
    package, _ = PARTS[flag]
    _, made = part_of(get_type_hints(compose).get(flag[2:]))  # how many arguments others give
    lines = ["| name | what it is | argument | its own arguments |", "|---|---|---|---|"]
    for name, part in parts(flag).items():
        link = f"[`{name}`](reference.md#{package.__name__}.{name})"
        own = ", ".join(f"`{each}`" for each in arguments_of(part, made))
        lines.append(f"| {link} | {cell(first_paragraph(part))} | `{flag} {name}` | {own} |")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Return text as Markdown that shows it as it is, code in backticks apart."""
    pieces = re.split(r"(`+[^`]+`+)", text)
    return "".join(
        f"`{piece.strip('`')}`" if n % 2 else re.sub(r"([\\*_|\[\]])", r"\\\1", html.escape(piece))
        for n, piece in enumerate(pieces)
    )
