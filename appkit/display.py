"""How results look: one text form, one HTML form, from the same facts."""
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from textwrap import wrap
from typing import Any, NamedTuple

import pandas as pd

_PLURALS = {"loss": "losses"}
_WIDTH = 100  # of a line of text; a longer word, such as a name to copy, stays whole
_STATEMENTS = 20
_LONGEST = 400
_LEDGER = "Rows that differ, by revision and table:"

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


def text_of(title: str, findings: pd.DataFrame, ledger: pd.DataFrame, notes: Iterable[str]) -> str:
    """Give a rehearsal as lines of text: what it was, the findings, the ledger of what changed."""
    lines = [_printable(title)]
    for told in _tell(findings):
        where = f" {told.where}" if told.where else ""
        lines += ["", f"{told.what}{where} (revision {told.revision})"]
        for label, text in told.points:
            lines += _wrapped(text, f"  {label + ':':8}")
    if len(ledger):
        lines += ["", _LEDGER, _named(ledger).to_string(index=False)]
    lines += ["", *(line for note in notes for line in _wrapped(_printable(note)))]
    return "\n".join(lines).rstrip()


def html_of(title: str, findings: pd.DataFrame, ledger: pd.DataFrame, statements: pd.DataFrame,
            notes: Iterable[str]) -> str:
    """Give the same as HTML, with the statements and their time folded away; every value is escaped."""
    parts = [f"<p><strong>{escape(_printable(title))}</strong></p>", *map(_finding_as_html, _tell(findings))]
    if len(ledger):
        parts += [f"<p>{escape(_LEDGER)}</p>", _as_table(_named(ledger))]
    parts += [f"<p>{escape(_printable(note))}</p>" for note in notes]
    if len(statements):
        parts.append(_statements_as_html(statements))
    return "\n".join([_OPEN, *parts, "</div>"])


def json_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give a frame's rows as plain values, a missing one as None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _tell(findings: pd.DataFrame) -> Iterator[_Told]:
    for row in findings.itertuples():
        where, revision, *texts = map(_printable, (row.where, row.revision, row.evidence, row.effect, row.advice))
        yield _Told(f"{row.severity.upper()} {row.finding}", where, revision,
                    tuple(zip(("seen", "effect", "do"), texts)))


def _named(ledger: pd.DataFrame) -> pd.DataFrame:
    return ledger.assign(revision=ledger["revision"].map(_printable), table=ledger["table"].map(_printable))


def _printable(text: str) -> str:
    """Spell out what cannot be seen: in a terminal it could move the cursor, or forge a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
