"""Rows of a SQLite database whose foreign key points at nothing, counted and told by their values."""
from collections import Counter
from typing import Any, NamedTuple

from appkit.databases.sqlite.naming import quote

_SAMPLES = 3


class _Link(NamedTuple):
    """A foreign key of a SQLite table."""

    table: str
    columns: tuple[str, ...]
    parent: str
    keys: tuple[str, ...]


def find_orphans(raw: Any) -> Counter:
    """Count the rows that point at nothing, by table, columns and values."""
    found: Counter = Counter()
    for link in _broken_links(raw):
        values = ", ".join(_values_of(link))
        for count, *value in read(raw, f"SELECT count(*), {values} {_orphans_of(raw, link)} GROUP BY {values}"):
            found[link.table, link.columns, tuple(value)] += count
    return found


def describe_new(raw: Any, before: Counter, after: Counter) -> list[str]:
    """Say which rows point at nothing that did not before."""
    new, moved = after - before, Counter()
    if not new:
        return []
    # A table or a column that was renamed takes its orphans along: those are not new.
    present = {(link.table, link.columns) for _, link in _links(raw)}
    for (name, columns, value), count in (before - after).items():
        if (name, columns) not in present:
            moved[value] += count
    for key, count in list(new.items()):
        spared = min(count, moved[key[2]])
        new[key] -= spared
        moved[key[2]] -= spared
    told = set()
    for link in _broken_links(raw):
        values = {key[2]: count for key, count in new.items() if key[:2] == (link.table, link.columns) and count}
        if values:
            told.add(_describe(raw, link, values))
    return sorted(told)


def _describe(raw: Any, link: _Link, values: dict[tuple, int]) -> str:
    names = _primary_key(raw, link.table) or link.columns
    shown = ", ".join(f"quote(c.{quote(name)})" for name in names)
    same = " AND ".join(f"{value} = ?" for value in _values_of(link))
    order = ", ".join(f"c.{quote(name)}" for name in names)
    wanted = f"SELECT {shown} {_orphans_of(raw, link)} AND {same} ORDER BY {order}"
    samples = []
    for value in sorted(values)[:_SAMPLES]:
        query = f"{wanted} LIMIT {_SAMPLES - len(samples)}"
        samples += [", ".join(map("=".join, zip(names, row))) for row in read(raw, query, *value)]
    count = sum(values.values())
    more = "; …" if count > len(samples) else ""
    return (f"{count} {'row' if count == 1 else 'rows'} of {link.table} ({'; '.join(samples)}{more}) "
            f"by {', '.join(link.columns)} to {link.parent}")


def _values_of(link: _Link) -> list[str]:
    """Write the values of a foreign key so that they compare however they are typed, and whatever bytes they hold."""
    return [f"hex(CAST(c.{quote(name)} AS BLOB))" for name in link.columns]


def _orphans_of(raw: Any, link: _Link) -> str:
    """Write the FROM and WHERE of the rows that point at nothing."""
    refers = " AND ".join(f"c.{quote(name)} IS NOT NULL" for name in link.columns)
    text = f"FROM {quote(link.table)} AS c WHERE {refers}"
    if not read(raw, "SELECT 1 FROM main.sqlite_master WHERE name = ? COLLATE NOCASE", link.parent):
        return text
    # The plus takes the child's affinity away: SQLite compares by the parent's.
    match = " AND ".join(f"p.{quote(key)} = +c.{quote(name)}" for key, name in zip(link.keys, link.columns))
    return f"{text} AND NOT EXISTS (SELECT 1 FROM {quote(link.parent)} AS p WHERE {match})"


def _broken_links(raw: Any) -> list[_Link]:
    """Give the foreign keys that some row breaks."""
    broken: dict[str, set[int]] = {}
    for name in dict.fromkeys(link.table for _, link in _links(raw)):
        try:
            broken[name] = {number for (number,) in read(
                raw, "SELECT DISTINCT fkid FROM pragma_foreign_key_check(?)", name)}
        except raw.OperationalError:
            broken[name] = set()  # the columns referred to are no key: SQLite cannot tell, and refuses every write
    return [link for number, link in _links(raw) if number in broken[link.table]]


def _links(raw: Any) -> list[tuple[int, _Link]]:
    """Give every foreign key, with the number that SQLite gives it in its table."""
    found = []
    for (name,) in read(raw, "SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name"):
        parts: dict[int, list[tuple]] = {}
        for number, *part in read(raw, 'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) '
                                        "ORDER BY id, seq", name):
            parts.setdefault(number, []).append(part)
        for number, part in parts.items():
            parents, columns, keys = zip(*part)
            if None in keys:  # REFERENCES without columns means the primary key
                keys = _primary_key(raw, parents[0])
            found.append((number, _Link(name, columns, parents[0], keys)))
    return found


def _primary_key(raw: Any, name: str) -> tuple[str, ...]:
    rows = read(raw, "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", name)
    return tuple(column for (column,) in rows)


def read(raw: Any, query: str, *parameters: str) -> list[tuple]:
    """Read with the driver itself, so that no listener and no setting of the app is in the way."""
    cursor = raw.cursor()
    cursor.row_factory = None
    kept, raw.text_factory = raw.text_factory, lambda data: data.decode(errors="replace")
    try:
        return cursor.execute(query, parameters).fetchall()
    finally:
        raw.text_factory = kept
        cursor.close()
