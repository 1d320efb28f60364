"""The values that differ between two revisions of a table: listed, sampled, and told from those brought back."""
from typing import Any

from appkit.comparison import Comparison
from appkit.values import SEVERAL, UNION, as_union, boxed, literal, shortened


def differences(comparison: Comparison) -> list[tuple[tuple | None, str, Any, Any]]:
    """Give every value that differs: key, column, before, after; by key, then in the columns' order.

    Without a key the rows that differ are given whole, and the key is None.
    """
    if comparison.before.relation == comparison.after.relation:
        return []
    parts = _cells(comparison)
    if not parts:
        return []
    cells = _gather(comparison, "cells", parts)
    found = comparison.connection.execute(f"SELECT * FROM {cells} ORDER BY ALL").fetchall()
    width = len(comparison.key)
    return [(tuple(row[:width]) or None, row[width + 1], row[width + 2], row[width + 3]) for row in found]


def sample_changes(comparison: Comparison, was: str, name: str, limit: int = 3) -> list[tuple[str, Any, Any]]:
    """Give a few values that are others now, or gone from a row that is there: key, before, after; by key."""
    b, a = comparison.before.position(was), comparison.after.position(name)
    return _sample(comparison, f"b.rowid IS NOT NULL AND a.rowid IS NOT NULL AND b.c{b} IS NOT NULL AND "
                        f"{_value_gone(comparison, b, a)}", [f"b.c{b}", f"a.c{a}"], limit)


def sample_of(comparison: Comparison, was: str, limit: int = 3) -> list[tuple[str, Any]]:
    """Give a few values of a column as it was: key, value; by key."""
    b = comparison.before.position(was)
    return _sample(comparison, f"b.c{b} IS NOT NULL", [f"b.c{b}"], limit)


def _sample(comparison: Comparison, condition: str, values: list[str], limit: int) -> list[tuple]:
    if not comparison.key:
        return []
    keys = [_key_value(comparison, b, a) for b, a in comparison.key]
    rows = comparison.connection.execute(
        f"SELECT {', '.join(keys + values)} FROM {comparison.joined()} WHERE {condition} "
        f"ORDER BY {', '.join(keys)} LIMIT {limit}").fetchall()
    width = len(keys)
    return [(_key_told(comparison, row[:width]), *row[width:]) for row in rows]


def _key_told(comparison: Comparison, values: tuple) -> str:
    names = (comparison.before.names[b] for b, _ in comparison.key)
    return ", ".join(f"{name}={shortened(value)}" for name, value in zip(names, values))


def filled_with(comparison: Comparison, name: str, was: str | None, limit: int = 4) -> list[tuple[Any, int]]:
    """Give what a column was filled with where it had NULL, or was not there: value and number, most first."""
    a = comparison.after.position(name)
    here = f"a.c{a} IS NOT NULL"
    if was is None or not comparison.key:
        source = f"{comparison.after.relation} a WHERE {here}"
    else:
        b = comparison.before.position(was)
        source = f"{comparison.joined()} WHERE {here} AND b.rowid IS NOT NULL AND b.c{b} IS NULL"
    return comparison.connection.execute(f"SELECT a.c{a}, count(*) AS n FROM {source} GROUP BY a.c{a} "
                                    f"ORDER BY n DESC, a.c{a} LIMIT {limit}").fetchall()


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
    mine = _lost_cells(comparison, "lost_up")
    width = len(comparison.key)
    if back is not None and [b for b, _ in back.key] == [b for b, _ in comparison.key]:
        keys = ", ".join([*(f"key{place}" for place in range(width)), "place"])
        # A row that came back with another value in it has lost a value, not itself.
        mine = (f"(SELECT {keys}, up.gone AND back.gone AS gone FROM {mine} up "
                f"JOIN {_lost_cells(back, 'lost_back')} back USING ({keys}))")
    keys = ", ".join(f"key{place}" for place in range(width))
    rows = comparison.row(f"SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {mine} WHERE gone)")[0]
    few = comparison.connection.execute(
        f"SELECT DISTINCT {keys} FROM {mine} WHERE gone ORDER BY ALL LIMIT 3").fetchall()
    values = comparison.connection.execute(f"SELECT place, count(*) FROM {mine} WHERE NOT gone "
                                      "GROUP BY place").fetchall()
    told = tuple(_key_told(comparison, row) for row in few)
    return rows, told, {comparison.before.names[place]: count for place, count in values}


def _value_gone(comparison: Comparison, b: int, a: int) -> str:
    return f"(a.c{a} IS NULL OR NOT ({comparison.same(b, a)}))"


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
    parts = []
    for b, a in comparison.pairs:
        parts.append((a, comparison.after.names[a], boxed("b", comparison.before, b), boxed("a", comparison.after, a),
                      comparison.differs(b, a)))
    null = f"NULL::{UNION}"
    parts += [(a, comparison.after.names[a], null, boxed("a", comparison.after, a), f"a.c{a} IS NOT NULL") for a in new]
    parts += [(len(comparison.after.names) + b, comparison.before.names[b], boxed("b", comparison.before, b), null,
               f"b.c{b} IS NOT NULL") for b in gone]
    return [f"SELECT {keys}, {place} AS place, {literal(name)} AS name, {old} AS before, {now} AS after "
            f"FROM {source} WHERE {differ}" for place, name, old, now, differ in parts]


def _loose_rows(comparison: Comparison) -> list[str]:
    """Give the queries of the rows without key that are gone or new, value by value."""
    if not comparison.pairs:
        return []
    sides = []
    for letter, kept, side in (("b", comparison.before, 0), ("a", comparison.after, 1)):
        columns = ", ".join(f"{comparison.joinable(letter, kept, pair, side)} AS k{place}"
                            for place, pair in enumerate(comparison.pairs))
        sides.append(f"(SELECT {columns} FROM {kept.relation} {letter})")
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


def _lost_cells(comparison: Comparison, name: str) -> str:
    """Write the values of `before` that are gone or others into a temporary table; give its name.

    A row per value: key0 …, place (of the column), gone (whether its whole row is).
    """
    keys = ", ".join(f"b.c{b} AS key{place}" for place, (b, _) in enumerate(comparison.key))
    mapped = dict(comparison.pairs + comparison.carried)
    parts = []
    for b in range(len(comparison.before.names)):
        gone = f"coalesce({_value_gone(comparison, b, mapped[b])}, true)" if b in mapped else "true"
        parts.append(f"SELECT {keys}, {b} AS place, a.rowid IS NULL AS gone FROM {comparison.joined()} "
                     f"WHERE b.rowid IS NOT NULL AND b.c{b} IS NOT NULL AND (a.rowid IS NULL OR {gone})")
    return _gather(comparison, name, parts)


def _gather(comparison: Comparison, name: str, parts: list[str]) -> str:
    """Write the rows of several queries into a temporary table, one by one: DuckDB plans one long union badly."""
    comparison.connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {parts[0]}")
    for part in parts[1:]:
        comparison.connection.execute(f"INSERT INTO {name} {part}")
    return name
