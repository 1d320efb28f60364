"""The schema of a database: its catalogue as a DataFrame, and what differs between two of them."""
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd

from appkit.databases import KINDS, Entry, open_reading

_COLUMNS = list(Entry._fields)


class Difference(NamedTuple):
    """An object of a catalogue that is not what it was: a row of `compare_schema`."""

    change: str  # 'added', 'removed' or 'changed'
    kind: str
    table: str
    name: str
    before: str | None
    after: str | None


def read_schema(source: Any = None) -> pd.DataFrame:
    """Read the whole catalogue of a database.

    Parameters
    ----------
    source
        A Flask app, an Engine or a URL; left out, the current app.

    Returns
    -------
    DataFrame, one row per object, sorted by table, kind and name
        Columns, all string: kind ('table', 'column', 'primary key', 'foreign key', 'unique', 'check', 'index',
        'trigger', 'view' or 'sequence'), table (of a view: itself), name (of a constraint without one: its columns
        or its expression), definition (in one spelling, so that what means the same reads the same). A 'sequence' is
        where AUTOINCREMENT stands: its definition changes with the rows.

    Source: the database's own catalogue, on SQLite sqlite_master and PRAGMAs; no SQLAlchemy type is in between.
    """
    with open_reading(source) as (connection, database):
        return frame_of(database.read_catalogue(connection))


def frame_of(entries: Iterable[Entry]) -> pd.DataFrame:
    """Make the frame of a catalogue."""
    return pd.DataFrame(entries, columns=_COLUMNS, dtype="string")


def compare_schema(before: Any, after: Any) -> pd.DataFrame:
    """Compare two schemas object by object.

    Parameters
    ----------
    before, after
        Each a Flask app, an Engine, a URL, or a DataFrame that `read_schema` gave.

    Returns
    -------
    DataFrame, one row per difference, sorted by table, kind and name; empty when there is none
        Columns, all string: change ('added', 'removed', 'changed'), kind, table, name, before, after (definitions, NA
        where there is none). Objects are matched by kind, table and name, so a rename is one removed and one added.
        A 'sequence' that moved on is told as changed: leave the rows of this kind out to compare structure only.
    """
    differences = find_differences(_by_table(before), _by_table(after))
    return pd.DataFrame(differences, columns=list(Difference._fields), dtype="string")


def _by_table(source: Any) -> dict[str, tuple]:
    schema = source if isinstance(source, pd.DataFrame) else read_schema(source)
    rows = sorted(entries_of(schema), key=lambda row: row[1])
    return {table: tuple(found) for table, found in groupby(rows, key=lambda row: row[1])}


def find_differences(before: dict[str, tuple], after: dict[str, tuple]) -> list[Difference]:
    """Give what differs between two catalogues, each given by table; sorted by table, kind and name."""
    found = []
    for table in before.keys() | after.keys():
        if before.get(table) != after.get(table):
            old, new = _definitions(before.get(table, ())), _definitions(after.get(table, ()))
            found += [Difference(_change(old.get(key), new.get(key)), *key, old.get(key), new.get(key))
                      for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    return sorted(found, key=lambda each: (each.table, KINDS.index(each.kind), each.name))


def _definitions(entries: Iterable[tuple]) -> dict[tuple[str, str, str], str]:
    return {(kind, table, name): definition for kind, table, name, definition in entries}


def entries_of(schema: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Give the rows of a schema's frame: kind, table, name, definition."""
    return schema[_COLUMNS].itertuples(index=False, name=None)


def _change(before: str | None, after: str | None) -> str:
    if before is None:
        return "added"
    return "removed" if after is None else "changed"
