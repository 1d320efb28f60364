"""How a value of any kind is kept in DuckDB, and how two of them are told apart there."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from appkit.batches import Batch, Parts
from appkit.databases import Table

# How a value is kept, by its kind. SQLite stores any kind in any column, so a column that holds several is kept as a
# union of them: 1, 1.0, '1' and x'31' stay four different values. 'x' is text whose bytes are no UTF-8, 'n' an exact
# decimal without needless zeros, 'z' an instant, as the timestamp that it is in UTC.
KINDS = {"i": "BIGINT", "r": "DOUBLE", "t": "VARCHAR", "b": "BLOB", "x": "BLOB",
         "f": "BOOLEAN", "n": "VARCHAR", "d": "DATE", "m": "TIMESTAMP", "z": "TIMESTAMP"}
UNION = "UNION(" + ", ".join(f"{kind} {type_}" for kind, type_ in KINDS.items()) + ")"
SEVERAL = "u"
# A real as databases write it: no '1e3' nor ' 1.0', and no '1', which is an integer and may be too long for a real.
_WRITTEN = r"-?(Inf|(0|[1-9][0-9]*)(\.([0-9]*[1-9]|0)(e[+-][0-9][0-9]+)?|e[+-][0-9][0-9]+))"
# A text in the form of an exact decimal, and the digits that count of one: of 15 a real loses none.
_TRIMMED = ("CASE WHEN regexp_full_match({0}, '-?(0|[1-9][0-9]*)\\.[0-9]+') THEN rtrim(rtrim({0}, '0'), '.') "
            "ELSE {0} END")
_DIGITS = "length(trim(regexp_replace({0}, '[^0-9]', '', 'g'), '0'))"
_TRUE, _FALSE = "('true', 't', 'yes', 'y', 'on', '1')", "('false', 'f', 'no', 'n', 'off', '0')"
# What says that a value survived, by its kinds before and after.
_FORMS = {
    "ir": "({1} = trunc({1}) AND TRY_CAST({1} AS HUGEINT) = {0})",
    "ri": "({0} = trunc({0}) AND TRY_CAST({0} AS HUGEINT) = {1})",
    "it": "({1} = {0}::VARCHAR OR {1} = {0}::VARCHAR || '.0')",
    "rt": "(TRY_CAST({1} AS DOUBLE) = {0})",
    "ti": "({0} = {1}::VARCHAR)",
    "tr": "({0} = {1}::VARCHAR OR {0} || '.0' = {1}::VARCHAR)",
    "ib": "(encode({0}::VARCHAR) = {1})",
    "bi": "({0} = encode({1}::VARCHAR))",
    "rb": "(TRY_CAST(TRY(decode({1})) AS DOUBLE) = {0})",
    "br": "({0} = encode({1}::VARCHAR) OR {0} = encode(regexp_replace({1}::VARCHAR, '\\.0$', '')))",
    "tb": "(encode({0}) = {1})",
    "bt": "({0} = encode({1}))",
    "xb": "({0} = {1})",
    "bx": "({0} = {1})",
    "in": "({0}::VARCHAR = {1})",
    "ni": "({0} = {1}::VARCHAR)",
    "rn": "(TRY_CAST({1} AS DOUBLE) = {0})",
    "nr": f"(TRY_CAST({{0}} AS DOUBLE) = {{1}} AND ({_DIGITS} <= 15 OR {{0}} = {{1}}::VARCHAR))",
    "nt": f"({{0}} = {_TRIMMED.replace('{0}', '{1}')})",
    "tn": f"({_TRIMMED} = {{1}})",
    "fi": "({0}::BIGINT = {1})",
    "if": "({0} = {1}::BIGINT)",
    "ft": f"(lower({{1}}) IN {_TRUE} AND {{0}} OR lower({{1}}) IN {_FALSE} AND NOT {{0}})",
    "tf": "({0} = {1}::VARCHAR)",
    "dm": "({0}::TIMESTAMP = {1})",
    "md": "({0} = {1}::TIMESTAMP)",
    "dz": "({0}::TIMESTAMP = {1})",
    "zd": "({0} = {1}::TIMESTAMP)",
    "mz": "({0} = {1})",  # where the session's zone is not UTC, the cast has shifted the value
    "zm": "({0} = {1})",
    "dt": "({0}::VARCHAR = {1})",
    "td": "({0} = {1}::VARCHAR)",
    "mt": "(TRY_CAST({1} AS TIMESTAMP) = {0})",
    "tm": "(TRY_CAST({0} AS TIMESTAMP) = {1})",
    "zt": "(TRY_CAST(regexp_replace({1}, '(\\+00(:00)?|Z| UTC)$', '') AS TIMESTAMP) = {0})",
    "tz": "(TRY_CAST(regexp_replace({0}, '(\\+00(:00)?|Z| UTC)$', '') AS TIMESTAMP) = {1})",
}


@dataclass
class Kept:
    """A table as it stood at one revision: where its rows are kept, and what the catalogue said of it."""

    table: Table
    relation: str = ""  # its name in the DuckDB file; none as long as its rows are not kept there
    rows: int = 0
    values: list[int] = field(default_factory=list)  # values that are not NULL, per column
    kinds: list[str] = field(default_factory=list)  # '', one of KINDS, or SEVERAL, per column; once the rows are kept
    last: int | None = None  # of the keys, where the key is one column of integers, each larger than the one before
    held: list[set[str]] = field(default_factory=list)  # the kinds that a column of SEVERAL holds, per column
    few: Batch | None = None  # the rows themselves, where they are few
    read: Callable[[], Iterable[Batch]] | None = None  # where the rows are, as long as they are not kept

    def position(self, column: str) -> int:
        """Give a column's place."""
        return self.names.index(column)

    def holds(self, place: int, kinds: str) -> bool:
        """Say whether a column may hold any of some kinds."""
        if self.kinds[place] != SEVERAL:
            return self.kinds[place] != "" and self.kinds[place] in kinds
        return not self.held or bool(self.held[place] & set(kinds))

    @property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""
        return [column.name for column in self.table.columns]


def stored(place: int, parts: Parts, kind: str) -> str:
    """Give the SQL that puts a batch's arrays of one column into its kept form."""
    if not parts:
        return "NULL"
    if kind != SEVERAL:
        return _incoming(place, kind)
    cases = " ".join(f"WHEN c{place}_{part} IS NOT NULL THEN union_value({part} := {_incoming(place, part)})::{UNION}"
                     for part in parts)
    return f"CASE {cases} END"


def _incoming(place: int, kind: str) -> str:
    return f"make_timestamp(epoch_us(c{place}_z))" if kind == "z" else f"c{place}_{kind}"


def as_union(expression: str, kind: str) -> str:
    if kind == SEVERAL:
        return expression
    if not kind:
        return f"NULL::{UNION}"
    return f"CASE WHEN {expression} IS NOT NULL THEN union_value({kind} := {expression})::{UNION} END"


def boxed(letter: str, kept: Kept, place: int) -> str:
    return as_union(f"{letter}.c{place}", kept.kinds[place])


def _member(letter: str, kept: Kept, place: int, kind: str) -> str | None:
    """Give the SQL of a value as one kind, NULL where it is of another; None where the column never is of that kind."""
    held = kept.kinds[place]
    if held == kind:
        return f"{letter}.c{place}"
    return f"union_extract({letter}.c{place}, '{kind}')" if held == SEVERAL else None


def canonical(letter: str, before: Kept, b: int, after: Kept, a: int) -> str:
    """Give the SQL of a value as text that is the same before and after where `_equal` says that the value survived.

    1 and 1.0 and '1' are one; a text is brought to the form of a number where numbers may have become text.
    """
    kept, place = (before, b) if letter == "b" else (after, a)
    number = "CASE WHEN {0} = trunc({0}) AND abs({0}) < 9e18 THEN {0}::BIGINT::VARCHAR ELSE {0}::VARCHAR END"
    text = "{0}"
    if before.holds(b, "ir") and after.holds(a, "tb"):
        # As text, -0.0 is another than 0.
        number = number.replace("WHEN", "WHEN {0}::VARCHAR <> '-0.0' AND")
        text = (f"CASE WHEN regexp_full_match({{0}}, '{_WRITTEN}') "
                f"THEN coalesce({number.format('TRY_CAST({0} AS DOUBLE)')}, {{0}}) ELSE {{0}} END")
    elif after.kinds[a] == "r":
        text = "regexp_replace({0}, '^(-?[0-9]+)\\.0$', '\\1')"
    elif "n" in (before.kinds[b], after.kinds[a]):
        text = _TRIMMED
    forms = {"i": "{0}::VARCHAR", "r": number, "t": text, "x": "'x' || hex({0})",
             "b": f"coalesce({text.format('TRY(decode({0}))')}, 'x' || hex({{0}}))",
             "f": "{0}::VARCHAR" if "t" in (before.kinds[b], after.kinds[a]) else "{0}::BIGINT::VARCHAR", "n": "{0}",
             "d": "{0}::VARCHAR" if "t" in (before.kinds[b], after.kinds[a]) else "{0}::TIMESTAMP::VARCHAR",
             "m": "{0}::VARCHAR", "z": "{0}::VARCHAR"}
    members = [(_member(letter, kept, place, kind), form) for kind, form in forms.items()]
    held = ", ".join(form.format(member) for member, form in members if member)
    return f"coalesce({held})" if held else "NULL::VARCHAR"


def same_value(before: Kept, b: int, after: Kept, a: int, *, retyped: bool) -> str:
    old, new = before.kinds[b], after.kinds[a]
    if not old or not new:
        return "false"
    if not retyped:
        if old == new:
            return f"b.c{b} = a.c{a}"
        shared = [(_member("b", before, b, kind), _member("a", after, a, kind)) for kind in KINDS]
        return "(" + (" OR ".join(f"coalesce({x} = {y}, false)" for x, y in shared if x and y) or "false") + ")"
    ways = [_equal(_member("b", before, b, x), _member("a", after, a, y), x + y) for x in KINDS for y in KINDS]
    return "(" + (" OR ".join(f"coalesce({way}, false)" for way in ways if way) or "false") + ")"


def _equal(old: str | None, new: str | None, kinds: str) -> str | None:
    """Give the SQL that says whether a value survived a change of its column's type, by its kinds before and after.

    A number that became text must give the number back; a text that became a number must have been exactly that
    number's own text, for '007' is not what 7 gives back.
    """
    if old is None or new is None:
        return None
    if kinds[0] == kinds[1]:
        return f"{old} = {new}"
    return _FORMS[kinds].format(old, new) if kinds in _FORMS else None


def as_python(kept: Kept, place: int, value: Any) -> Any:
    """Give a value that DuckDB gives as Python has it: a decimal, or an instant, where the column holds such."""
    if kept.kinds[place] == "n" and isinstance(value, str):
        return Decimal(value)
    if kept.kinds[place] == "z" and isinstance(value, datetime):
        return value.replace(tzinfo=timezone.utc)
    return value


def shortened(value: Any) -> str:
    """Give a value as Python writes it, cut where it is long."""
    told = repr(value)
    return told if len(told) <= 40 else told[:37] + "…" + told[-1]


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
