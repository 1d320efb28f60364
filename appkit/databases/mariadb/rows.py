"""Rows of MariaDB as Arrow arrays, every value as the server has it, whatever the session's settings are.

connectorx reads ten times as fast as PyMySQL, on a connection of its own, and holds all that it is asked for in memory:
so it is asked for pieces, and, of a database in use, for everything at once, which is one moment. What it cannot
reach (a socket, TLS) or read, PyMySQL reads, to the same end.
"""
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote as quote_part

import sqlalchemy as sa
from sqlalchemy import Connection, CursorResult, Engine, Executable
from sqlalchemy.exc import OperationalError

from appkit.batches import Batch, Parts, parts_of
from appkit.databases import Column, Table
from appkit.databases.mariadb.asking import ask, execute
from appkit.databases.mariadb.kinds import asked_for, from_texts, most_bytes, parts_of_kind
from appkit.databases.mariadb.naming import quote
from appkit.databases.mariadb.reading import reading_only
from appkit.databases.mariadb.servers import cursors_of

_FEW = 10_000  # rows that PyMySQL has read before connectorx has begun
_ROWS = 131_072  # of a batch, at most
_BYTES = 64 * 2**20  # of a batch, about
_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_SETTINGS = ["SET NAMES utf8mb4", "SET time_zone = '+00:00'", "SET sql_mode = ''"]
# How a server tells a result's types (its protocol's numbers), and as what the values are taken: arrival and kind.
_TAKEN = {**dict.fromkeys((1, 2, 3, 8, 9, 13), ("i", "i")), **dict.fromkeys((4, 5), ("r", "r")),
          **dict.fromkeys((0, 246), ("t", "n")), **dict.fromkeys((10, 14), ("t", "d")), 12: ("t", "m"), 7: ("t", "z"),
          11: ("t", "t"), 16: ("bits", "i"), 242: ("b", "b"), 255: ("b", "b")}
_WRITTEN = [number for number, (arrives, _) in _TAKEN.items() if arrives in "irt"]
_FLOAT = 4


class Unreadable(Exception):
    """connectorx cannot read this; PyMySQL can, or says why not."""


# ---- PyMySQL and mysqlclient

def read_rows(connection: Connection, statement: Executable,
              size: int | None = None) -> tuple[list[str], Iterable[Batch]] | None:
    """Give the names of a statement's columns and its rows as the server has them; None when it has no rows to give.

    With `size`, batches of so many rows, as they are taken; without, all of them. A FLOAT in a text statement comes
    with the six digits that the server writes.
    """
    with _undecoded(connection, unbuffered=bool(size)):
        result = connection.execute(statement)
        if not result.returns_rows:
            return None
        described = result.cursor.description
        floats = [place for place, column in enumerate(described) if column[1] == _FLOAT]
        if floats and isinstance(statement, sa.Select):
            result.close()
            result = connection.execute(_with_doubles(statement, floats))
    batches = _fetch(result, size or _ROWS)
    return [column[0] for column in described], batches if size else list(batches)


def _with_doubles(statement: sa.Select, floats: list[int]) -> sa.Select:
    columns = [(column * sa.literal_column("1e0")).label(None) if place in floats else column
               for place, column in enumerate(statement.selected_columns)]
    return statement.with_only_columns(*columns, maintain_column_froms=True)


@contextmanager
def _undecoded(connection: Connection, *, unbuffered: bool) -> Iterator[None]:
    """Have PyMySQL or mysqlclient give the server's own texts for a while, and, unbuffered, row by row.

    What they convert loses zero dates. SQLAlchemy's stream_results would have taken the first row before anyone asks.
    """
    driver = connection.connection.driver_connection
    name = {"pymysql.connections": "decoders", "MySQLdb.connections": "converter"}.get(type(driver).__module__)
    if name is None:
        yield
        return
    # mysqlclient gives bytes for what it has no converter for; those of texts tell texts from bytes.
    texts = dict.fromkeys(_WRITTEN, str) if name == "converter" else {}
    cursors = cursors_of(driver)
    before = getattr(driver, name), driver.cursorclass
    setattr(driver, name, before[0] | texts if texts else {})
    driver.cursorclass = cursors.SSCursor if unbuffered else cursors.Cursor
    try:
        yield
    finally:
        setattr(driver, name, before[0])
        driver.cursorclass = before[1]


def _fetch(result: CursorResult, size: int, taken: Sequence[tuple[str, str]] = ()) -> Iterator[Batch]:
    """Give a result's rows in batches of so many rows, past SQLAlchemy's own types."""
    with closing(result):
        taken = taken or [_TAKEN.get(column[1], ("", "")) for column in result.cursor.description]
        while rows := _take(result, size):
            yield Batch(len(rows), [_parts(*way, values) for way, values in zip(taken, zip(*rows))])


def _take(result: CursorResult, size: int) -> Sequence[tuple]:
    try:
        return result.cursor.fetchmany(size)
    except result.context.dialect.loaded_dbapi.Error as reason:
        raise OperationalError("", None, reason) from reason  # as SQLAlchemy would


def _parts(arrives: str, kind: str, values: Sequence[Any]) -> Parts:
    if arrives == "bits":
        values, arrives = [None if value is None else int.from_bytes(value, "big") for value in values], "i"
    if not arrives or not set(map(type, values)) <= {str, bytes, int, type(None)}:
        return parts_of(values)  # texts and bytes tell themselves apart; so do the values of other drivers
    return parts_of_kind(kind, from_texts(arrives, values))


# ---- connectorx

def read_ordered(connection: Connection, table: Table, columns: Sequence[Column]) -> list[Batch] | None:
    """Give columns of a table in the order of its primary key; None where this is no quicker, or cannot be.

    The database may be in use: all is read as of one moment.
    """
    address = _address(connection)
    if address is None or not table.key or not _is_large(connection, table):
        return None
    try:
        return _read_fast(address, _select(table, columns), columns)
    except Unreadable:
        return None


def read_copy(engine: Engine, table: Table) -> Iterator[Batch]:
    """Give a table's rows from a private copy that nobody writes, in the order of its primary key."""
    with engine.connect() as connection, reading_only(connection):
        address = _address(connection) if _is_large(connection, table) else None
        after = None
        try:
            if address and _is_keyed(table):
                for batch, after in _read_pages(connection, address, table):
                    yield batch
                return
            if address and _fits(connection, table):
                yield from _read_fast(address, _select(table, table.columns), table.columns)
                return
        except Unreadable:
            pass
        yield from _stream(connection, table, after)


def _stream(connection: Connection, table: Table, after: int | None) -> Iterator[Batch]:
    size = _batch_rows(connection, table)
    with _undecoded(connection, unbuffered=True):
        result = execute(connection, _select(table, table.columns, after=after))
    yield from _fetch(result, size, [asked_for(column.type)[1:] for column in table.columns])


def _select(table: Table, columns: Sequence[Column], *, after: int | None = None, rows: int | None = None) -> str:
    """Give the statement that asks for columns, in the order of the key."""
    chosen = ", ".join(f"{asked_for(column.type).expression.format(quote(column.name))} AS c{place}"
                       for place, column in enumerate(columns))
    order = ", ".join(map(quote, table.key))
    return (f"SELECT {chosen} FROM {quote(table.name)}"
            + (f" WHERE {order} > {after}" if after is not None else "")
            + (f" ORDER BY {order}" if order else "") + (f" LIMIT {rows}" if rows is not None else ""))


def _is_large(connection: Connection, table: Table) -> bool:
    counted = ask(connection, f"SELECT COUNT(*) FROM (SELECT 1 FROM {quote(table.name)} LIMIT {_FEW}) few")
    return counted[0][0] == _FEW


def _is_keyed(table: Table) -> bool:
    types = {column.name: column.type for column in table.columns}
    return len(table.key) == 1 and types[table.key[0]].startswith(_INTEGERS)


def _address(connection: Connection) -> str | None:
    """Give connectorx's URL for where PyMySQL is connected; None where it cannot go there, or is not installed."""
    driver = connection.connection.driver_connection
    if type(driver).__module__ != "pymysql.connections" or not find_spec("connectorx"):
        return None
    # Refused, connectorx tries for half a minute: it is asked only for what is sure to be let in.
    plain = driver._auth_plugin_name in ("mysql_native_password", "caching_sha2_password") and not (
        driver._secure or driver.init_command)  # by a socket or TLS
    if not plain or not driver.password.isascii() or ":" in driver.host:
        return None
    user = driver.user.decode() if isinstance(driver.user, bytes) else driver.user
    database = ask(connection, "SELECT DATABASE()")[0][0]
    name, password, database = (quote_part(part, safe="") for part in (user, driver.password.decode(), database))
    return f"mysql://{name}:{password}@{driver.host}:{driver.port}/{database}"


def _read_fast(address: str, statement: str, columns: Sequence[Column]) -> list[Batch]:
    import connectorx

    try:
        found = connectorx.read_sql(address, statement, return_type="arrow", protocol="binary",
                                    pre_execution_query=_SETTINGS)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of its is no Exception; its words may hold the URL
        raise Unreadable from None
    kinds = [asked_for(column.type).kind for column in columns]
    return [Batch(arrived.num_rows, [parts_of_kind(kind, array) for kind, array in zip(kinds, arrived.columns)])
            for arrived in found.to_batches() if arrived.num_rows]


def _read_pages(connection: Connection, address: str, table: Table) -> Iterator[tuple[Batch, int]]:
    """Give a table in pieces, each with its last key."""
    place = [column.name for column in table.columns].index(table.key[0])
    size = _batch_rows(connection, table)
    after = None
    while True:
        rows = 0
        for batch in _read_fast(address, _select(table, table.columns, after=after, rows=size), table.columns):
            rows += batch.rows
            after = batch.columns[place]
            after = int(next(part[-1].as_py() for part in after.values() if part[-1].is_valid))
            yield batch, after
        if rows < size:
            return


def _fits(connection: Connection, table: Table) -> bool:
    """Say whether the whole table can be held in memory for a moment."""
    rows = ask(connection, f"SELECT COUNT(*) FROM {quote(table.name)}")[0][0]
    return rows * _most_bytes(connection, table) <= 4 * _BYTES


def _batch_rows(connection: Connection, table: Table) -> int:
    """Give how many rows make a batch that fits, whichever they are."""
    return max(1, min(_ROWS, _BYTES // _most_bytes(connection, table)))


def _most_bytes(connection: Connection, table: Table) -> int:
    """Give what no row of a table is longer than, in bytes; asked of the rows where their types hardly limit it."""
    declared = [most_bytes(column.type) for column in table.columns]
    if None not in declared and sum(declared) <= _BYTES // _ROWS * 4:
        return sum(declared)
    long = " + ".join(f"COALESCE(OCTET_LENGTH({quote(column.name)}), 0)"
                      for column, most in zip(table.columns, declared) if most is None or most > 72)
    if not long:
        return sum(declared)
    longest = ask(connection, f"SELECT MAX({long}) FROM {quote(table.name)}")[0][0]
    return int(longest or 0) + 72 * len(table.columns)
