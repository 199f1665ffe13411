"""What a report says in words and tables, as HTML in which all that comes from a run is text."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from .comparison import ADDED, COLUMNS, Group, flat
from .differences import Difference
from .report_parts import kind_of
from .tables import printable, run_numbers

OPEN, MOST = 12, 500
"""Verdicts that are seen at once, and that are in the page at all."""

VALUE = 200
"""Letters of a value that a table shows."""

RUN = (
    "run", "seed", "finished", "best_elbo", "elbo", "log_px", "log_px_se", "steps", "seconds",
)  # fmt: skip
"""Of `run_numbers`, what the table of runs shows."""


def shown(text: object) -> str:
    """Return anything as text of HTML: no tag, no quote, nothing that can't be printed."""
    return escape(printable(str(text)))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], name: str = "") -> str:
    """Return a table whose cells are HTML already; its columns can be sorted by their heads."""
    head = "".join(
        f'<th scope="col"><button type="button">{c}</button></th>' if c else "<th></th>"
        for c in columns
    )
    lines = [f"<tr>{''.join(row)}</tr>" for row in rows]
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table class="sortable {name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: object, marked: bool = False) -> str:
    """Return a cell; a text in another direction does not turn its neighbours around."""
    value = str(text)
    cut = value if len(value) <= VALUE else f"{value[:VALUE]}..."
    return f"<td{' class=marked' if marked else ''}><bdi>{shown(cut)}</bdi></td>"


def verdict_list(groups: Sequence[Group], found: Sequence[Difference], quantity: str) -> str:
    """Return what the numbers say of each two configurations, the first `OPEN` unfolded."""
    if not found:
        return f"<p>{len(groups)} configuration: there is none to compare it with.</p>"
    known = sorted(
        found, key=lambda each: math.isnan(each.difference)
    )  # those that say why not last
    cards = [_verdict(each) for each in known[:MOST]]
    said = (
        f"<p>Differences of {shown(quantity)}, paired by datum; p by Holm over {len(found):,}.</p>"
    )
    more = "".join(cards[OPEN:])
    folded = f"<details><summary>{len(cards) - OPEN:,} more</summary><ul>{more}</ul></details>"
    rest = f"<p>All {len(found):,} are in differences.csv.</p>" if len(found) > MOST else ""
    return f"{said}<ul>{''.join(cards[:OPEN])}</ul>{folded if more else ''}{rest}"


def _verdict(each: Difference) -> str:
    return (
        f'<li class="verdict {kind_of(each)}"><strong><bdi>{shown(each.b)}</bdi></strong> against '
        f"<bdi>{shown(each.a)}</bdi><p>{shown(each.verdict)}.</p></li>"
    )


def group_table(groups: Sequence[Group], unit: str) -> str:
    """Return a line of `COLUMNS` for each configuration, with the colour that it is drawn in."""
    columns = ["", *map(shown, COLUMNS)]
    rows = [
        [f'<td><i class="key" data-group="{place}"></i></td>', *map(_cell, group.cells())]
        for place, group in enumerate(groups)
    ]
    return (
        f"{_table(columns, rows, 'groups')}<p>{shown(unit)} per datum; +- is the sd over seeds.</p>"
    )


def configuration_table(groups: Sequence[Group]) -> str:
    """Return the arguments that differ, those that are not the most frequent value marked."""
    configs = [flat(ADDED | group.runs[0].config) for group in groups]
    keys = sorted({key for config in configs for key in config} - {"run", "seed"})
    usual = {
        key: Counter(config.get(key, "-") for config in configs).most_common(1)[0] for key in keys
    }
    differing = [key for key in keys if usual[key][1] < len(groups)]
    rows = [
        [
            _cell(group.label),
            *(_cell(c.get(k, "-"), marked=c.get(k, "-") != usual[k][0]) for k in differing),
        ]
        for group, c in zip(groups, configs, strict=True)
    ]
    shared = [[_cell(key), _cell(usual[key][0])] for key in keys if key not in differing]
    table = _table(["configuration", *map(shown, differing)], rows) if differing else ""
    return (
        f"{table or '<p>One configuration.</p>'}<details><summary>{len(shared)} arguments that all "
        f"share</summary>{_table(['argument', 'value'], shared)}</details>"
    )


def environment_table(groups: Sequence[Group]) -> str:
    """Return where the runs were made, a column for each environment; what differs is marked."""
    lines: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in (run for group in groups for run in group.runs):
        facts = flat(
            {k: v for k, v in run.environment.items() if k not in ("parameters", "segments")}
        )
        lines.setdefault(tuple(facts.items()), []).append(str(run.path))
    keys = list(dict.fromkeys(key for facts in lines for key, _ in facts))
    rows = [
        [
            _cell(key),
            *(_cell(value, marked=len({*values}) > 1) for value in values),
        ]
        for key in keys
        for values in [[dict(facts).get(key, "-") for facts in lines]]
    ]
    names = [
        f"{shown(runs[0])}{f' and {len(runs) - 1} more' if runs[1:] else ''}"
        for runs in lines.values()
    ]
    return _table(["", *names], rows)


def run_table(groups: Sequence[Group]) -> str:
    """Return what is known of each run, folded."""
    rows = []
    for group in groups:
        for run in group.runs:
            found = run_numbers(run)
            rows.append([_cell(group.label), *(_cell(_figure_of(found[name])) for name in RUN)])
    heads = [shown(name.replace("_", " ")) for name in ("configuration", *RUN)]
    return f"<details><summary>Each run</summary>{_table(heads, rows)}</details>"


def _figure_of(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:.3f}" if isinstance(value, float) else str(value)
