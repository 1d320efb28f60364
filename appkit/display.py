"""How results look: one text form, one HTML form, from the same facts."""
from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd

_PLURALS = {"loss": "losses"}
_ROWS = 20


def count_severities(findings: pd.DataFrame) -> str:
    """Say how many findings there are of each severity: '2 losses, 1 warning'."""
    counts = Counter(findings["severity"])
    named = ((name, counts[name]) for name in ("loss", "outage", "failure", "warning"))
    return ", ".join(f"{count} {name if count == 1 else _PLURALS.get(name, name + 's')}"
                     for name, count in named if count) or "nothing found"


def text_of(title: str, findings: pd.DataFrame, ledger: pd.DataFrame, notes: Iterable[str]) -> str:
    """Give a rehearsal as lines of text: what it was, the findings, the ledger of what changed."""
    lines = [title]
    for row in findings.itertuples():
        where = f" {row.where}" if row.where else ""
        lines += ["", f"{row.severity.upper()} {row.finding}{where} (revision {row.revision})",
                  f"  seen:   {row.evidence}", f"  effect: {row.effect}", f"  do:     {row.advice}"]
    if len(ledger):
        lines += ["", "Rows that differ, by revision and table:", ledger.to_string(index=False)]
    lines += ["", *notes]
    return "\n".join(lines).rstrip()


def html_of(title: str, findings: pd.DataFrame, ledger: pd.DataFrame, statements: pd.DataFrame,
            notes: Iterable[str]) -> str:
    """Give the same as HTML, with the time of each statement; every value is escaped."""
    parts = [f"<p><strong>{escape(title)}</strong></p>"]
    if len(findings):
        parts += ["<h4>Findings</h4>", _table(findings)]
    if len(ledger):
        parts += ["<h4>Rows that differ</h4>", _table(ledger)]
    if len(statements):
        parts += ["<h4>Statements</h4>", _table(statements)]
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    return "\n".join(parts)


def _table(frame: pd.DataFrame) -> str:
    shown = frame.head(_ROWS)
    html = shown.to_html(index=False, escape=True, na_rep="", border=0, float_format=lambda seconds: f"{seconds:.3f}")
    rest = len(frame) - len(shown)
    return html + (f"<p>… and {rest} more</p>" if rest else "")


def json_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give a frame's rows as plain values, a missing one as None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
