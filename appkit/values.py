"""How a value of any kind is kept in DuckDB, and how two of them are told apart there."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from appkit.databases import Table

# How a value is kept, by its kind. SQLite stores any kind in any column, so a column that holds several is kept as a
# union of them: 1, 1.0, '1' and x'31' stay four different values. 'x' is text whose bytes are no UTF-8.
KINDS = {"i": "BIGINT", "r": "DOUBLE", "t": "VARCHAR", "b": "BLOB", "x": "BLOB"}
_ARROW = {"i": pa.int64(), "r": pa.float64(), "t": pa.string(), "b": pa.binary(), "x": pa.binary()}
UNION = "UNION(" + ", ".join(f"{kind} {type_}" for kind, type_ in KINDS.items()) + ")"
_KIND_OF = {int: "i", float: "r", str: "t", bytes: "b", bool: "i"}
SEVERAL = "u"


@dataclass
class Kept:
    """A table as it stood at one revision: where its rows are kept, and what the catalogue said of it."""

    table: Table
    relation: str  # its name in the DuckDB file
    rows: int = 0
    values: list[int] = field(default_factory=list)  # values that are not NULL, per column
    kinds: list[str] = field(default_factory=list)  # '', one of KINDS, or SEVERAL, per column

    def position(self, column: str) -> int:
        """Give a column's place."""
        return self.names.index(column)

    @property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""
        return [column.name for column in self.table.columns]


def by_kind(values: tuple) -> dict[str, pa.Array]:
    """Split a column's values by kind into Arrow arrays of the full length, NULL where a value is of another kind."""
    types = set(map(type, values)) - {type(None)}
    kinds = {_KIND_OF[found] for found in types}
    if len(kinds) == 1 and kinds != {"t"}:
        kind = kinds.pop()
        return {kind: pa.array(values, _ARROW[kind])}
    if kinds == {"t"}:
        try:
            return {"t": pa.array(values, pa.string())}
        except UnicodeEncodeError:
            pass
    tagged = [_tagged(value) for value in values]
    return {kind: pa.array([value if tag == kind else None for tag, value in tagged], _ARROW[kind])
            for kind in KINDS if any(tag == kind for tag, _ in tagged)}


def _tagged(value: Any) -> tuple[str, Any]:
    if value is None:
        return "", None
    kind = _KIND_OF[type(value)]
    if kind == "t":
        try:
            value.encode()
        except UnicodeEncodeError:
            return "x", value.encode("utf-8", "surrogateescape")
    return kind, value


def stored(place: int, parts: dict[str, pa.Array], kind: str) -> str:
    """Give the SQL that puts a batch's arrays of one column into its kept form."""
    if not parts:
        return "NULL"
    if kind != SEVERAL:
        return f"c{place}_{kind}"
    cases = " ".join(f"WHEN c{place}_{part} IS NOT NULL THEN union_value({part} := c{place}_{part})::{UNION}"
                     for part in parts)
    return f"CASE {cases} END"


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
    if before.kinds[b] in ("i", "r", SEVERAL) and after.kinds[a] in ("t", "b", SEVERAL):
        cast = number.format("TRY_CAST({0} AS DOUBLE)")
        text = f"CASE WHEN regexp_full_match({{0}}, '-?[0-9]+') THEN {{0}} ELSE coalesce({cast}, {{0}}) END"
    elif after.kinds[a] == "r":
        text = "regexp_replace({0}, '^(-?[0-9]+)\\.0$', '\\1')"
    forms = {"i": "{0}::VARCHAR", "r": number, "t": text, "x": "'x' || hex({0})",
             "b": f"coalesce({text.format('TRY(decode({0}))')}, 'x' || hex({{0}}))"}
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
        return f"coalesce({boxed('b', before, b)} = {boxed('a', after, a)}, false)"
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
    forms = {
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
    }
    return forms[kinds].format(old, new) if kinds in forms else None


def shortened(value: Any) -> str:
    """Give a value as Python writes it, cut where it is long."""
    told = repr(value)
    return told if len(told) <= 40 else told[:37] + "…" + told[-1]


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
