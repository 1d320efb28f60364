"""Rows of SQLite as Arrow arrays, every value by the kind in which it is stored.

SQLite stores any kind of value in any column. ADBC's driver, which reads two to three times as fast as Python's, takes
a column's type from its first rows, and then stops or converts in silence; so it is asked only for columns that hold
one kind: the kinds are counted first, in the same transaction, a column of several is asked for once per kind, and a
first row of the right kinds is put before the others. Whatever it cannot read, Python's driver reads, to the same end.
"""
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from threading import Barrier, BrokenBarrierError
from typing import Any, NamedTuple
from urllib.parse import quote as quote_path

import adbc_driver_manager
import adbc_driver_sqlite
import pyarrow as pa
from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.exc import OperationalError

from appkit.aside import Task, can_run_aside, run_aside
from appkit.batches import ARROW, Batch, Parts, cut, last_of_rising, parts_of
from appkit.databases import Column, Table, fold
from appkit.databases.sqlite.copies import open_readonly, place_of
from appkit.databases.sqlite.meanings import meaning_of
from appkit.databases.sqlite.naming import quote

_ROWS = 65_536  # of a range, about
_BYTES = 64 * 2**20  # of a batch, about, where the file is larger than that
_FEW = 20_000  # rows that Python's driver has read before ADBC has begun
_FETCHED = 20_000  # rows at once, at most, by Python's driver
_WIDE = 200  # columns; SQLite's limits on expressions and results would need watching beyond
_STORED = {"i": "integer", "r": "real", "t": "text", "b": "blob"}
_EXPECTED = {"integer": "i", "boolean": "i", "real": "r", "decimal": "ir", "bytes": "b"}  # any other: texts
# The row before the first one: as SQL, and as it must arrive.
_FIRST = {"i": ("-7046029254386353131", -7046029254386353131), "r": ("-0.5", -0.5), "t": ("'before all'", "before all"),
          "b": ("x'00ff00'", b"\0\xff\0")}


class Unreadable(Exception):
    """ADBC cannot read this; Python's driver can, or says why not."""


# ---- Python's driver

def fetch_batches(cursor: Any) -> Iterator[Batch]:
    """Give the rows of a driver's cursor in batches, smaller ones where rows are large."""
    rows: list[tuple] = []
    for row in cursor:
        rows.append(row)
        if len(rows) == 1000 or _bytes_of(rows[-1:]) > _BYTES // 1000:
            break
    while rows:
        yield Batch(len(rows), [parts_of(values) for values in zip(*rows)])
        some = rows[:100]
        rows = cursor.fetchmany(max(1, min(_FETCHED, 10 * len(rows), _BYTES * len(some) // (_bytes_of(some) + 1))))


def _bytes_of(rows: list[tuple]) -> int:
    return sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes)))


def read_rows(connection: Connection, statement: Executable,
              size: int | None = None) -> tuple[list[str], Iterable[Batch]] | None:
    """Give the names of a statement's columns and its rows as sqlite3 gives them; None when it has no rows to give.

    The driver's own cursor is read, so that no type of SQLAlchemy alters a value. With `size`, batches of so many rows,
    as they are taken; without, all of them.
    """
    driver = connection.connection.driver_connection
    if size:
        driver.text_factory = decode
        return _execute(connection, statement, lambda cursor: _fetch_chunks(cursor, size))
    try:
        return _execute(connection, statement, lambda cursor: list(fetch_batches(cursor)))
    except (sqlite3.OperationalError, OperationalError) as error:
        if "Could not decode" not in str(error):
            raise
    # Only now, because a function called for every text is slow.
    driver.text_factory = decode
    return _execute(connection, statement, lambda cursor: list(fetch_batches(cursor)))


def _execute(connection: Connection, statement: Executable,
             fetch: Callable[[Any], Iterable[Batch]]) -> tuple[list[str], Iterable[Batch]] | None:
    result = connection.execute(statement)
    if not result.returns_rows:
        return None
    return [column[0] for column in result.cursor.description], fetch(result.cursor)


def _fetch_chunks(cursor: Any, size: int) -> Iterator[Batch]:
    while rows := cursor.fetchmany(size):
        yield Batch(len(rows), [parts_of(values) for values in zip(*rows)])


def decode(stored: bytes) -> str:
    """Decode a text; bytes that are no UTF-8 become surrogates."""
    return stored.decode("utf-8", "surrogateescape")


def _driver_batches(connection: sqlite3.Connection, statement: str) -> Iterator[Batch]:
    done = 0
    try:
        for batch in fetch_batches(connection.execute(statement)):
            yield batch
            done += batch.rows
    except sqlite3.OperationalError as error:
        if "decode" not in str(error).lower():
            raise
        # The same scan of a file that nobody writes gives the same order: go on where the strict decoding stopped.
        connection.text_factory = decode
        yield from cut(fetch_batches(connection.execute(statement)), done)


# ---- ADBC

def read_copy(engine: Engine, table: Table) -> Iterator[Batch]:
    """Give a table's rows from a private copy that nobody writes; the same rows in the same order at every revision."""
    path, given = engine.url.database, False
    with closing(open_readonly(path)) as connection:
        if ranges := _ranges(connection, table):
            try:
                for batch in run_aside(_tasks(path, table.name, table.columns, ranges)):
                    yield batch
                    given = True
                return
            except (Unreadable, BrokenBarrierError) as reason:
                if given:  # it was planned on what is in the file, so that the file cannot be read is all that is left
                    raise sqlite3.OperationalError(str(reason)) from reason
        columns = ", ".join(quote(column.name) for column in table.columns)
        yield from _driver_batches(connection, f"SELECT {columns} FROM {quote(table.name)}")


def read_ordered(connection: Connection, table: Table, columns: Sequence[Column]) -> list[Batch] | None:
    """Give columns of a table in the order of its integer primary key; None where this is no quicker, or cannot be.

    The database may be in use: all is read as of one moment, and no lock that this process holds is let go.
    """
    if place_of(connection.engine) is None or any(column.generated for column in table.columns):
        return None
    try:
        return _read_ordered(connection, table, columns)
    except (Unreadable, BrokenBarrierError, sqlite3.Error):  # the driver reads it, or tells what is wrong
        return None


def _read_ordered(connection: Connection, table: Table, columns: Sequence[Column]) -> list[Batch] | None:
    driver = connection.connection.driver_connection
    ranges = _ranges(driver, table) if _is_plain(driver, table) else None
    if ranges is None:
        return None
    key = next(column for column in table.columns if column.name == table.key[0])
    asked = list(columns) if key in columns else [*columns, key]
    batches: list[Batch] = []
    version = "PRAGMA main.data_version"
    before = driver.execute(version).fetchone()
    for batch in run_aside(_tasks(place_of(connection.engine), table.name, asked, ranges)):
        if not batches and driver.execute(version).fetchone() != before:
            return None  # somebody wrote while the readers began: they may see different moments
        batches.append(batch)
    last = None
    for batch in batches:
        last = last_of_rising(batch.columns[asked.index(key)], last)
        if last is None:
            return None
    return [Batch(batch.rows, batch.columns[:len(columns)]) for batch in batches]


def _is_plain(driver: Any, table: Table) -> bool:
    """Say whether a table is in the order of its one integer key, and its values come as SQLite stores them."""
    if type(driver) is not sqlite3.Connection or driver.in_transaction or len(table.key) != 1:
        return False
    if driver.execute("SELECT 1 FROM pragma_index_list(?, 'main') WHERE origin = 'pk'", (table.name,)).fetchone():
        return False
    try:
        driver.text_factory = bytes  # so that no text is refused
        few = driver.execute(f"SELECT * FROM main.{quote(table.name)} LIMIT 100").fetchall()
    finally:
        driver.text_factory = str
    # Another type would be what a converter of the app's has made of a value.
    return {type(value) for row in few for value in row} <= {int, float, bytes, type(None)}


class _Ranges(NamedTuple):
    """What cuts a table into ranges of about so many rows each, in the order of the table."""

    rowid: str
    bounds: list[tuple[int, int]]

    def condition(self, first: int, last: int) -> str:
        return f"{self.rowid} BETWEEN {self.bounds[first][0]} AND {self.bounds[last][1]}"


def _ranges(connection: sqlite3.Connection, table: Table) -> _Ranges | None:
    """Cut a table into ranges; None where ADBC is not to read it."""
    name = f"main.{quote(table.name)}"
    if len(table.columns) > _WIDE or not can_run_aside():
        return None
    if connection.execute(f"SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {_FEW})").fetchone()[0] < _FEW:
        return None
    taken = {fold(column.name) for column in table.columns}
    rowid = next((each for each in ("rowid", "_rowid_", "oid") if each not in taken), None)
    try:
        low, high, rows = (connection.execute(f"SELECT {each} FROM {name}").fetchone()[0]
                           for each in (f"min({rowid})", f"max({rowid})", "count(*)"))
    except sqlite3.OperationalError:  # no such column: WITHOUT ROWID, or all three names are taken
        return _Ranges("0", [(0, 0)])
    if not rows:
        return None
    width = -(-(high - low + 1) // -(-rows // _ROWS))
    return _Ranges(rowid, [(start, min(start + width - 1, high)) for start in range(low, high + 1, width)])


def _tasks(path: str, name: str, columns: Sequence[Column], ranges: _Ranges) -> list[Task]:
    """Give the readers: each takes every second range, so that the rows come in the ranges' order."""
    readers = min(2, len(ranges.bounds))
    shared = _Shared(path, f"main.{quote(name)}", columns, Barrier(readers), [[] for _ in range(readers)],
                     [False] * readers)

    def reading(place: int) -> Task:
        def read(give: Callable[[Any], None]) -> None:
            try:
                _read_ranges(shared, place, ranges, give)
            except adbc_driver_manager.Error as error:
                shared.ready.abort()
                raise Unreadable(str(error)) from error
            except BaseException:
                shared.ready.abort()
                raise
        return read
    return [reading(place) for place in range(readers)]


class _Shared(NamedTuple):
    """What the readers of one table have in common."""

    path: str
    source: str
    columns: Sequence[Column]
    ready: Barrier
    kinds: list[list[str]]  # for each reader, what it has found in its part of the table
    long: list[bool]  # for each reader, whether that may have rows of which not so many fit in a batch


def _read_ranges(shared: _Shared, place: int, ranges: _Ranges, give: Callable[[Batch | None], None]) -> None:
    readers, count = len(shared.kinds), len(ranges.bounds)
    part = ranges.condition(count * place // readers, count * (place + 1) // readers - 1)
    with (adbc_driver_sqlite.connect(f"file:{quote_path(shared.path)}?mode=ro") as database,
          adbc_driver_manager.AdbcConnection(database) as connection):
        connection.set_autocommit(False)
        shared.kinds[place], shared.long[place] = _count_kinds(connection, shared, part)
        shared.ready.wait()  # every reader has begun: they see one moment, if nobody has written until now
        kinds = ["".join(kind for kind in _STORED if any(kind in each for each in found))
                 for found in zip(*shared.kinds)]
        for each in range(place, count, readers):
            for batch in _stream(connection, shared, ranges.condition(each, each), kinds):
                give(batch)
            give(None)


def _ask(connection: adbc_driver_manager.AdbcConnection, statement: str, rows: int = 1) -> Iterator[pa.RecordBatch]:
    with adbc_driver_manager.AdbcStatement(connection) as asked:
        asked.set_options(**{adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value: str(rows)})
        asked.set_sql_query(statement)
        yield from pa.RecordBatchReader.from_stream(asked.execute_query()[0])


def _ask_row(connection: adbc_driver_manager.AdbcConnection, statement: str) -> list[Any]:
    return [column[0].as_py() for batch in _ask(connection, statement) for column in batch.columns]


def _count_kinds(connection: adbc_driver_manager.AdbcConnection, shared: _Shared,
                 condition: str) -> tuple[list[str], bool]:
    """Give for each column the kinds that it holds, or that it may hold: one it surely does not hold is left out.

    In the same pass it is found out whether rows may be too large for a batch of the usual number.
    """
    names = [quote(column.name) for column in shared.columns]
    expected = [_EXPECTED.get(meaning_of(column.type) or "", "t") for column in shared.columns]
    told = [(*(_STORED[kind] for kind in kinds), "null") for kinds in expected]
    others = [" AND ".join(f"typeof({name}) <> '{each}'" for each in kinds) for name, kinds in zip(names, told)]
    texts = [name for name, kinds in zip(names, expected) if kinds in "tb"] if _is_large(shared.path) else []
    long = [f"octet_length({name}) > {_BYTES // (2 * _ROWS * len(texts))}" for name in texts]
    if not _any(connection, shared, condition, [*others, *long]):
        return expected, False
    if long and not _any(connection, shared, condition, others):
        return expected, True
    wanted = ", ".join(f"max(typeof({name}) = '{stored}')" for name in names for stored in _STORED.values())
    found = iter(_ask_row(connection, f"SELECT {wanted} FROM {shared.source} WHERE {condition}"))
    return ["".join(kind for kind in _STORED if next(found)) for _ in names], _is_large(shared.path)


def _any(connection: adbc_driver_manager.AdbcConnection, shared: _Shared, condition: str, wanted: list[str]) -> bool:
    rows = f"SELECT 1 FROM {shared.source} WHERE ({condition}) AND ({' OR '.join(wanted)}) LIMIT 1"
    return _ask_row(connection, f"SELECT count(*) FROM ({rows})") != [0]


def _is_large(path: str) -> bool:
    """Say whether a file is so large that not all of it is to be in one batch."""
    return os.path.getsize(path) > 2 * _BYTES


def _batch_rows(connection: adbc_driver_manager.AdbcConnection, shared: _Shared, condition: str,
                kinds: list[str]) -> int:
    """Give how many rows of a range make a batch that fits, by the largest of them."""
    long = [f"coalesce(octet_length({quote(column.name)}), 0)" for column, held in zip(shared.columns, kinds)
            if "t" in held or "b" in held]
    if not long or not any(shared.long):
        return 2 * _ROWS
    largest = _ask_row(connection, f"SELECT max({' + '.join(long)}) FROM {shared.source} WHERE {condition}")[0]
    return max(1, min(2 * _ROWS, _BYTES // (1 + (largest or 0))))


def _stream(connection: adbc_driver_manager.AdbcConnection, shared: _Shared, condition: str,
            kinds: list[str]) -> Iterator[Batch]:
    asked = [(place, kind, quote(column.name), len(held))
             for place, (column, held) in enumerate(zip(shared.columns, kinds)) for kind in held]
    chosen = ", ".join(name if alone == 1 else f"CASE WHEN typeof({name}) = '{_STORED[kind]}' THEN {name} END"
                       for _, kind, name, alone in asked) or "0"
    first = ", ".join(_FIRST[kind][0] for _, kind, *_ in asked) or "0"
    statement = f"SELECT {first} UNION ALL SELECT {chosen} FROM {shared.source} WHERE {condition}"
    begun = False
    for arrived in _ask(connection, statement, _batch_rows(connection, shared, condition, kinds)):
        if not begun:
            _check_first(arrived, [kind for _, kind, *_ in asked])
            arrived, begun = arrived.slice(1), True
        parts: list[Parts] = [{} for _ in shared.columns]
        for (place, kind, *_), array in zip(asked, arrived.columns):
            parts[place].update(_valid(kind, array))
        if arrived.num_rows:
            yield Batch(arrived.num_rows, parts)


def _check_first(batch: pa.RecordBatch, kinds: list[str]) -> None:
    values = [column[0].as_py() for column in batch.columns]
    wanted = [_FIRST[kind][1] for kind in kinds]
    if kinds and (values != wanted or batch.schema.types != [ARROW[kind] for kind in kinds]):
        raise Unreadable(f"ADBC gives {batch.schema.types} for {kinds}")


def _valid(kind: str, array: pa.Array) -> dict[str, pa.Array]:
    """Give an array by its kind; texts that are no UTF-8 apart from the others, nothing where there is no value."""
    if array.null_count == len(array):
        return {}
    if kind == "t":
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            raw = array.cast(pa.binary()).to_pylist()
            return parts_of([None if value is None else decode(value) for value in raw])
    return {kind: array}
