"""How results look: one text form, one HTML form, from the same facts."""
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from textwrap import wrap
from typing import Any, NamedTuple

import pandas as pd

from appkit.printing import printable

_PLURALS = {"loss": "losses"}
_WIDTH = 100  # of a line of text; a longer word, such as a name to copy, stays whole
_STATEMENTS = 20
_LONGEST = 400

# Nothing here needs a style to be read, since some viewers drop them all. The classes keep `$` from becoming a formula.
_OPEN = '<div class="tex2jax_ignore mathjax_ignore" style="max-width: 60em; overflow-wrap: anywhere">'
_ASIS = "white-space: pre-wrap"  # the spaces of a value are facts too


class _Told(NamedTuple):
    """A finding as it is shown, in either form."""

    what: str
    where: str
    revision: str
    points: tuple[tuple[str, str], ...]  # what follows, each with its label


def count_severities(findings: pd.DataFrame) -> str:
    """Say how many findings there are of each severity: '2 losses, 1 warning'."""
    counts = Counter(findings["severity"])
    named = ((name, counts[name]) for name in ("loss", "outage", "failure", "warning"))
    return ", ".join(f"{count} {name if count == 1 else _PLURALS.get(name, name + 's')}"
                     for name, count in named if count) or "nothing found"


def text_of(title: str, findings: pd.DataFrame, tables: dict[str, pd.DataFrame], notes: Iterable[str]) -> str:
    """Give a rehearsal as lines of text: what it was, the findings, the tables that are not empty, the notes."""
    lines = [printable(title)]
    for told in _tell(findings):
        where = f" {told.where}" if told.where else ""
        lines += ["", f"{told.what}{where} (revision {told.revision})"]
        for label, text in told.points:
            lines += _wrapped(text, f"  {label + ':':8}")
    for caption, table in _filled(tables):
        lines += ["", caption, table.to_string(index=False)]
    lines += ["", *(line for note in notes for line in _wrapped(printable(note)))]
    return "\n".join(lines).rstrip()


def html_of(title: str, findings: pd.DataFrame, tables: dict[str, pd.DataFrame], statements: pd.DataFrame,
            notes: Iterable[str]) -> str:
    """Give the same as HTML, with the statements and their time folded away; every value is escaped."""
    parts = [f"<p><strong>{escape(printable(title))}</strong></p>", *map(_finding_as_html, _tell(findings))]
    for caption, table in _filled(tables):
        parts += [f"<p>{escape(caption)}</p>", _as_table(table)]
    parts += [f"<p>{escape(printable(note))}</p>" for note in notes]
    if len(statements):
        parts.append(_statements_as_html(statements))
    return "\n".join([_OPEN, *parts, "</div>"])


def json_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give a frame's rows as plain values, a missing one as None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _tell(findings: pd.DataFrame) -> Iterator[_Told]:
    for row in findings.itertuples():
        where, revision, *texts = map(printable, (row.where, row.revision, row.evidence, row.effect, row.advice))
        yield _Told(f"{row.severity.upper()} {row.finding}", where, revision,
                    tuple(zip(("seen", "effect", "do"), texts)))


def _filled(tables: dict[str, pd.DataFrame]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give the tables that have rows, with names that can be printed."""
    for caption, table in tables.items():
        if len(table):
            texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name].dtype)]
            yield caption, table.assign(**{name: table[name].map(printable) for name in texts})


def _wrapped(text: str, label: str = "") -> list[str]:
    return wrap(text, _WIDTH, initial_indent=label, subsequent_indent=" " * len(label),
                break_long_words=False, break_on_hyphens=False)


def _finding_as_html(told: _Told) -> str:
    where = f' <code style="{_ASIS}">{escape(told.where)}</code>' if told.where else ""
    points = "".join(f'<li><em>{label}:</em> <span style="{_ASIS}">{escape(text)}</span></li>'
                     for label, text in told.points)
    return f"<p><strong>{escape(told.what)}</strong>{where} (revision {escape(told.revision)})</p>\n<ul>{points}</ul>"


def _statements_as_html(statements: pd.DataFrame) -> str:
    count = f"{len(statements)} statement{'' if len(statements) == 1 else 's'}"
    shown = statements.head(_STATEMENTS)
    shown = shown[[name for name in shown if shown[name].notna().any() and shown[name].ne("").any()]]
    rest = len(statements) - len(shown)
    more = f"<p>… and {rest} more in <code>statements</code></p>" if rest else ""
    return f"<details><summary>{count}</summary>\n{_as_table(shown)}{more}</details>"


def _as_table(frame: pd.DataFrame) -> str:
    """Write a table, whole cells whatever pandas' options are."""
    sides = ["right" if pd.api.types.is_numeric_dtype(kind) else "left" for kind in frame.dtypes]
    head = "".join(f'<th style="text-align: {side}">{escape(str(name))}</th>' for side, name in zip(sides, frame))
    rows = ["".join(f'<td style="text-align: {side}; {_ASIS}">{escape(_cell(value))}</td>'
                    for side, value in zip(sides, row)) for row in frame.itertuples(index=False, name=None)]
    return "\n".join([f"<table><thead><tr>{head}</tr></thead><tbody>", *(f"<tr>{row}</tr>" for row in rows),
                      "</tbody></table>"])


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, float):  # seconds; less is noise, and would make each run look different
        return f"{value:.1f}" if value >= 0.1 else "< 0.1"
    text = str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
