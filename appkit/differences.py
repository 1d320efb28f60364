"""The values that differ between two revisions of a table: listed, sampled, and told from those brought back."""
from typing import Any

from appkit.comparison import CHANGED, FILLED, KEPT, LOST, TOGETHER, Comparison
from appkit.values import SEVERAL, UNION, Kept, as_python, as_union, boxed, literal, shortened


def differences(comparison: Comparison) -> list[tuple[tuple | None, str, Any, Any]]:
    """Give every value that differs: key, column, before, after; by key, then in the columns' order.

    Without a key the rows that differ are given whole, and the key is None.
    """
    if comparison.before is comparison.after:
        return []
    comparison.load()
    parts = _cells(comparison)
    if not parts:
        return []
    cells = _gather(comparison, "cells", parts)
    width = len(comparison.key)
    # A key and a column tell a value: to sort by long values too would take memory and time.
    order = ", ".join(map(str, range(1, width + 2))) if width else "ALL"
    found = comparison.connection.execute(f"SELECT * FROM {cells} ORDER BY {order}").fetchall()
    found = comparison.large.restore_rows(found)
    return [(tuple(row[:width]) or None, name, _of(comparison.before, _was(comparison, name), before),
             _of(comparison.after, name, after)) for *row, name, before, after in found]


def _was(comparison: Comparison, name: str) -> str:
    return comparison.lineage.get(name, name)


def _of(kept: Kept, name: str, value: Any) -> Any:
    return as_python(kept, kept.position(name), value) if value is not None else None


def sample_changes(comparison: Comparison, was: str, name: str, limit: int = 3) -> list[tuple[str, Any, Any]]:
    """Give a few values that are others now, or gone from a row that is there: key, before, after; by key."""
    if not comparison.key:
        return []
    b, a = comparison.before.position(was), comparison.after.position(name)
    source = (f"(SELECT b.*, d.b, d.a FROM {comparison.differing} d JOIN {comparison.before.relation} b "
              f"ON b.rowid = d.b WHERE d.a IS NOT NULL AND d.f{b} IN ({CHANGED}, {LOST}))")
    return [(told, _value(comparison, comparison.before, b, row), _value(comparison, comparison.after, a, other))
            for told, row, other in _first(comparison, source, limit)]


def sample_of(comparison: Comparison, was: str, limit: int = 3) -> list[tuple[str, Any]]:
    """Give a few values of a column as it was: key, value; by key."""
    if not comparison.key:
        return []
    comparison.load()
    b = comparison.before.position(was)
    source = f"(SELECT *, rowid AS b, NULL AS a FROM {comparison.before.relation} WHERE c{b} IS NOT NULL)"
    return [(told, _value(comparison, comparison.before, b, row)) for told, row, _ in _first(comparison, source, limit)]


def _first(comparison: Comparison, source: str, limit: int) -> list[tuple[str, int, int]]:
    """Give the first rows by key: the key as it is told, the places before and after."""
    keys = ", ".join(f"c{b}" for b, _ in comparison.key)
    rows = comparison.connection.execute(f"SELECT {keys}, b, a FROM {source} ORDER BY {keys} LIMIT {limit}").fetchall()
    return [(_key_told(comparison, row[:-2]), *row[-2:]) for row in comparison.large.restore_rows(rows)]


def _value(comparison: Comparison, kept: Kept, place: int, row: int) -> Any:
    if kept.few:
        return kept.few.values(place)[row]
    found = comparison.large.restore(comparison.row(f"SELECT c{place} FROM {kept.relation} WHERE rowid = {row}")[0])
    return as_python(kept, place, found)


def _key_told(comparison: Comparison, values: tuple) -> str:
    before = comparison.before
    return ", ".join(f"{before.names[b]}={shortened(as_python(before, b, value))}"
                     for (b, _), value in zip(comparison.key, values))


def filled_with(comparison: Comparison, name: str, was: str | None, limit: int = 4) -> list[tuple[Any, int]]:
    """Give what a column was filled with where it had NULL, or was not there: value and number, most first."""
    comparison.load()
    a = comparison.after.position(name)
    if was is None or not comparison.key:
        source = f"{comparison.after.relation} a"
    else:
        b = comparison.before.position(was)
        source = (f"{comparison.differing} d JOIN {comparison.after.relation} a ON a.rowid = d.a "
                  f"AND d.b IS NOT NULL AND d.f{b} = {FILLED}")
    found = comparison.connection.execute(f"SELECT a.c{a}, count(*) AS n FROM {source} WHERE a.c{a} IS NOT NULL "
                                          f"GROUP BY a.c{a} ORDER BY n DESC, a.c{a} LIMIT {limit}")
    return [(as_python(comparison.after, a, value), count)
            for value, count in comparison.large.restore_rows(found.fetchall())]


def lost_for_good(comparison: Comparison, back: Comparison | None) -> tuple[int, tuple[str, ...], dict[str, int]]:
    """Count what is gone or another one, less what a downgrade brought back.

    Parameters
    ----------
    back
        The comparison of the same `before` with the table after the downgrade; None when there was none.

    Returns
    -------
    the rows gone, the keys of a few of them, and per column (its name before) the values gone from other rows
    """
    if comparison.alike and not comparison.gone():
        return 0, (), {}
    sides = {"up": comparison}
    if back is not None and back.key and back.before is comparison.before:
        sides["back"] = back
    both = " FULL OUTER JOIN ".join(f"(SELECT * FROM {side.differing} WHERE b IS NOT NULL) {name}"
                                    for name, side in sides.items())
    both += " ON up.b = back.b" if len(sides) == 2 else ""
    # A row that came back with another value in it has lost a value, not itself.
    gone = " AND ".join(f"{name}.b IS NOT NULL AND {name}.a IS NULL" for name in sides)
    rows = comparison.row(f"SELECT count(*) FROM {both} WHERE {gone}")[0]
    whole = (f"(SELECT *, rowid AS b, NULL AS a FROM {comparison.before.relation} "
             f"WHERE rowid IN (SELECT up.b FROM {both} WHERE {gone}))")
    told = tuple(key for key, *_ in _first(comparison, whole, 3)) if rows else ()
    return rows, told, _values_lost(sides, both, gone)


def _values_lost(sides: dict[str, Comparison], both: str, gone: str) -> dict[str, int]:
    """Count the values that are lost in each comparison, in rows that are not: by column, where there are any."""
    before = sides["up"].before
    dropped = {name: set(side.gone()) for name, side in sides.items()}
    wanted = []
    places = [b for b in range(len(before.names))
              if not any(b == old for side in sides.values() for old, _ in set(side.pairs) - set(side.moved))]
    for b in places:
        lost = [f"{name}.f{b} IN ({CHANGED}, {LOST})" for name in sides if b not in dropped[name]]
        wanted.append(f"count(*) FILTER (WHERE {' AND '.join(lost)} AND NOT ({gone}))" if lost else
                      f"{before.values[b]} - count(*) FILTER (WHERE {gone} AND up.f{b} = {LOST})")
    found: list[int] = []
    for start in range(0, len(wanted), TOGETHER):
        found += sides["up"].row(f"SELECT {', '.join(wanted[start:start + TOGETHER])} FROM {both}")
    return {before.names[b]: count for b, count in zip(places, found) if count}


def _key_value(comparison: Comparison, b: int, a: int) -> str:
    if comparison.before.kinds[b] == comparison.after.kinds[a]:
        return f"coalesce(b.c{b}, a.c{a})"
    return f"coalesce({boxed('b', comparison.before, b)}, {boxed('a', comparison.after, a)})"


def _cells(comparison: Comparison) -> list[str]:
    gone = comparison.gone()
    new = [a for a in range(len(comparison.after.names)) if a not in {place for _, place in comparison.pairs}]
    if not comparison.key:
        return _loose_rows(comparison)
    keys = ", ".join(f"{_key_value(comparison, b, a)} AS key{place}" for place, (b, a) in enumerate(comparison.key))
    source = comparison.joined()
    unlike = (f"{comparison.differing} d LEFT JOIN {comparison.before.relation} b ON b.rowid = d.b "
              f"LEFT JOIN {comparison.after.relation} a ON a.rowid = d.a")
    parts = [(a, comparison.after.names[a], boxed("b", comparison.before, b), boxed("a", comparison.after, a), unlike,
              f"d.f{b} <> {KEPT}") for b, a in comparison.pairs]
    null = f"NULL::{UNION}"
    parts += [(a, comparison.after.names[a], null, boxed("a", comparison.after, a), source, f"a.c{a} IS NOT NULL")
              for a in new]
    parts += [(len(comparison.after.names) + b, comparison.before.names[b], boxed("b", comparison.before, b), null,
               source, f"b.c{b} IS NOT NULL") for b in gone]
    return [f"SELECT {keys}, {place} AS place, {literal(name)} AS name, {old} AS before, {now} AS after "
            f"FROM {source} WHERE {differ}" for place, name, old, now, source, differ in parts]


def _loose_rows(comparison: Comparison) -> list[str]:
    """Give the queries of the rows without key that are gone or new, value by value."""
    if not comparison.pairs:
        return []
    sides = comparison.unlike_rows(comparison.pairs)
    null, parts = f"NULL::{UNION}", []
    for place, pair in enumerate(comparison.pairs):
        value = as_union(f"k{place}", "t" if comparison.retyped(*pair) else _kind_joined(comparison, pair))
        head = f"SELECT {place} AS place, {literal(comparison.after.names[pair[1]])} AS name"
        where = f"WHERE k{place} IS NOT NULL"
        parts.append(f"{head}, {value} AS before, {null} AS after FROM ({sides[0]} EXCEPT ALL {sides[1]}) {where}")
        parts.append(f"{head}, {null} AS before, {value} AS after FROM ({sides[1]} EXCEPT ALL {sides[0]}) {where}")
    return parts


def _kind_joined(comparison: Comparison, pair: tuple[int, int]) -> str:
    old, new = comparison.before.kinds[pair[0]], comparison.after.kinds[pair[1]]
    return old if old == new else SEVERAL


def _gather(comparison: Comparison, name: str, parts: list[str]) -> str:
    """Write the rows of several queries into a temporary table, one by one: DuckDB plans one long union badly."""
    comparison.connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {parts[0]}")
    for part in parts[1:]:
        comparison.connection.execute(f"INSERT INTO {name} {part}")
    return name
