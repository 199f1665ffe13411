"""One page that shows a comparison: verdicts, tables, drawings, in a file that needs no other."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import atomic
from .comparison import Group
from .differences import LEVEL, Difference
from .report_parts import (
    FOREST,
    PICTURES,
    album,
    code_data,
    curve_data,
    forest_data,
    plane_data,
    trace_data,
)
from .report_tables import (
    configuration_table,
    environment_table,
    group_table,
    run_table,
    shown,
    verdict_list,
)
from .tables import printable

INSTALL = "a report needs plotly: pip install 'lowerbound[report]'"
"""How to get what draws a report."""

NAMED = {"elbo": "ELBO", "kl": "KL"}
"""How the page writes names of columns that are abbreviations."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)
"""What the page may load: nothing from anywhere, whatever stands in it."""


def can_report() -> bool:
    """Return whether plotly is installed, which draws a report."""
    return find_spec("plotly") is not None


def write_report(
    groups: Sequence[Group],
    found: Sequence[Difference],
    path: Path,
    quantity: str = "log p(x)",
) -> Path:
    """Write a comparison as one page of HTML that loads nothing.

    Whatever comes from a run is escaped: as text of HTML, as JSON inside a script, and as text of
    plotly, which reads tags too.

    Args:
        groups: what `compare` returned.
        found: the differences between them.
        path: of the page; its folder is made if it is not there.
        quantity: what the differences are of.

    Returns:
        The path.

    Raises:
        ValueError: plotly is not installed.
        OSError: the page can't be written; one that was there stays.
    """
    text = page(groups, found, quantity)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def page(groups: Sequence[Group], found: Sequence[Difference], quantity: str = "log p(x)") -> str:
    """Return the page; see `write_report`."""
    if not can_report():
        raise ValueError(f"{INSTALL[0].upper()}{INSTALL[1:]}.")
    from plotly.offline import get_plotlyjs  # takes half a second, and few commands need it

    unit, data = groups[0].runs[0].unit, groups[0].runs[0].environment["data"]
    count = sum(len(group.runs) for group in groups)
    title = f"{data['name']}: {count} runs, {len(groups)} configurations"
    own = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    drawn = {
        "unit": unit,
        "quantity": quantity,
        "labels": [printable(group.label) for group in groups],
        "traces": trace_data(groups),
        "forest": forest_data(found, groups),
        "plane": plane_data(groups),
        "curves": curve_data(groups),
        "codes": code_data(groups),
    }
    sections = (
        _section("Verdicts", verdict_list(groups, found, quantity)),
        _section("Configurations", group_table(groups, unit)),
        _section("Traces", _figure("traces", _controls())),
        _section("Differences", _figure("forest"), drawn["forest"], _forest_note(found, unit)),
        _section("Rate and distortion", _figure("plane"), any(drawn["plane"])),
        _section("Bound over K", _figure("curves"), any(drawn["curves"])),
        _section("KL by dimension", _figure("codes"), any(drawn["codes"])),
        _section("Samples and reconstructions", *_pictures(groups)),
        _section("What differs", configuration_table(groups)),
        _section("Environment", environment_table(groups)),
        _section("Runs", run_table(groups)),
    )
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{shown(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n",
            f"<header><h1>{shown(title)}</h1><p>{shown(unit)}, per datum; lowerbound {__version__}",
            '</p><button id="theme" type="button">dark or light</button></header>\n<main>\n',
            *sections,
            "</main>\n",
            f'<script type="application/json" id="drawn">{in_script(drawn)}</script>\n',
            f"<script>{get_plotlyjs()}</script>\n<script>\n{own}</script>\n</body>\n</html>\n",
        )
    )


def in_script(value: Any) -> str:
    r"""Return JSON that may stand in a script element, which ``</script>`` or ``<!--`` would end.

    >>> from inference.runs.report import in_script
    >>> in_script({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'

    Raises:
        ValueError: a number is not finite, which JSON does not have.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _section(name: str, inside: str, there: object = True, note: str = "") -> str:
    if not there:
        return ""
    said = f"<p>{note}</p>" if note else ""
    return f"<section><h2>{name}</h2>{said}{inside}</section>\n"


def _figure(name: str, controls: str = "") -> str:
    return f'{controls}<div class="drawing" id="{name}"></div>'


def _controls() -> str:
    """Return the choices of the traces: what is drawn, over what, of whom, on which axis."""
    choices = {
        "value": ("elbo", "kl", "reconstruction"),
        "over": ("step", "epoch", "seconds"),
        "of": ("means", "seeds"),
        "split": ("valid", "train"),
        "axis": ("linear", "log"),
    }
    fields = []
    for name, values in choices.items():
        buttons = "".join(
            f'<label><input type="radio" name="{name}" value="{value}"'
            f"{'' if place else ' checked'}><span>{NAMED.get(value, value)}</span></label>"
            for place, value in enumerate(values)
        )
        fields.append(f"<fieldset><legend>{name}</legend>{buttons}</fieldset>")
    return f'<form class="controls" id="choices">{"".join(fields)}</form><div id="legend"></div>'


def _forest_note(found: Sequence[Difference], unit: str) -> str:
    known = sum(each.difference == each.difference for each in found)
    first = f"The first {FOREST} of {known:,}. " if known > FOREST else ""
    return (
        f"{first}95 % intervals over data and seeds, {shown(unit)} per datum; filled where p, "
        f"corrected, is below {LEVEL}."
    )


def _pictures(groups: Sequence[Group]) -> tuple[str, bool]:
    pages = album(groups)
    parts = []
    for group, found in zip(groups, pages, strict=True):
        if not found:
            continue
        shots = "".join(
            f'<figure><img src="{found[kind]}" alt="{kind} of {shown(found["run"])}">'
            f"<figcaption>{kind}</figcaption></figure>"
            for kind in PICTURES
            if kind in found
        )
        name = f"<h3><bdi>{shown(group.label)}</bdi></h3><p><bdi>{shown(found['run'])}</bdi></p>"
        parts.append(f'<div class="album">{name}<div class="shots">{shots}</div></div>')
    return "".join(parts), bool(parts)
