"""Rows of PostgreSQL as Arrow arrays, every value as the server has it, whatever the session's settings are.

ADBC's driver reads several times as fast as Python's, on a connection of its own: it is given the snapshot that the
app's connection reads, and no other server knows that snapshot. It is asked for those types only that it gives exactly,
for all others as text. Where Python's drivers read, they are asked for the server's own text, so that no loader of the
driver or of the app refuses or alters a value.
"""
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import Any, NamedTuple

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Connection, CursorResult, Engine, Executable
from sqlalchemy.exc import OperationalError

from appkit.batches import ARROW, Batch, Parts
from appkit.databases import Column, Table
from appkit.databases.postgresql.meanings import understand
from appkit.databases.postgresql.naming import quote
from appkit.databases.postgresql.servers import UNKNOWN
from appkit.databases.postgresql.texts import KINDS, NUMERIC, moments, parse, trimmed
from appkit.errors import UnsupportedDatabaseError

_FEW = 2_000  # rows that Python's driver has read before ADBC has connected
_MANY = 100_000  # numbers between the first key and the last, for which two connections are worth their time
_INTEGERS = ("smallint", "integer", "bigint")
_FETCHED = 20_000  # rows at once, at most, by Python's driver
_BYTES = 64 * 2**20  # of a batch by Python's driver, about
# text, json, char(n), varchar, jsonb: texts that ADBC gives as they are, beside the types of KINDS.
_TEXTS = {25, 114, 1042, 1043, 3802}
# oid, time, interval, time with zone, numeric, uuid: ADBC gives others, or is slow.
_CAST = {26: "int8", 1083: "text", 1186: "text", 1266: "text", NUMERIC: "text", 2950: "text"}
_ARRIVES = {"f": {pa.bool_()}, "b": {pa.binary()}, "i": {pa.int16(), pa.int32(), pa.int64()}, "d": {pa.date32()},
            "r": {pa.float32(), pa.float64()}, "m": {pa.timestamp("us")}, "z": {pa.timestamp("us", "UTC")},
            "n": {pa.string()}, "t": {pa.string()}}
# What decides how the server writes values.
_WRITING = {"DateStyle": "ISO", "IntervalStyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex",
            "lc_monetary": "C", "quote_all_identifiers": "off"}
_numbers = count(1)
_READING = {**_WRITING, "TimeZone": "UTC", "jit": "off", "work_mem": "64MB", "statement_timeout": "0"}


class Unreadable(Exception):
    """ADBC cannot read this; Python's driver can, or says why not."""


# ---- Python's driver

def read_rows(connection: Connection, statement: Executable,
              size: int | None = None) -> tuple[list[str], Iterable[Batch]] | None:
    """Give the names of a statement's columns and its rows as the server has them; None when it has no rows to give.

    With `size`, batches of so many rows, as they are taken; without, all of them.
    """
    connection.exec_driver_sql(_setting(_WRITING))
    if size:
        name = _declare(connection, statement)
        return [column[0] for column in _fetch(connection, name, 0)[1]], _chunks(connection, name, lambda mean: size)
    with closing(_execute(connection, statement)) as result:
        if not result.returns_rows:
            return None
        found = result.cursor.description
        return [column[0] for column in found], list(_batches(_rows_of(result.cursor), _Form.of(connection, found)))


def _setting(settings: dict[str, str]) -> str:
    """Give the statement that sets what a transaction reads by, to its end."""
    return "SELECT " + ", ".join(f"set_config('{name}', '{value.replace(chr(39), chr(39) * 2)}', true)"
                                 for name, value in settings.items())


def _execute(connection: Connection, statement: Executable, before: str = "") -> CursorResult:
    """Execute a statement, with some text before it, and have its cursor convert nothing."""
    def prepare(connection: Connection, cursor: Any, text: str, parameters: Any, *others: Any) -> tuple[str, Any]:
        _convert_nothing(cursor)
        return before + text, parameters

    sa.event.listen(connection, "before_cursor_execute", prepare, retval=True)
    try:
        return connection.execute(statement)
    finally:
        sa.event.remove(connection, "before_cursor_execute", prepare)


def _declare(connection: Connection, statement: Executable) -> str:
    """Give a new cursor on the server; SQLAlchemy's own has converted the first row before anyone asks for it."""
    name = f"appkit_{next(_numbers)}"
    _execute(connection, statement, f"DECLARE {name} NO SCROLL CURSOR FOR ").close()
    return name


def _fetch(connection: Connection, name: str, rows: int) -> tuple[list[Sequence], Sequence]:
    """Give the next rows of a cursor on the server, and the description of all."""
    with connection.connection.driver_connection.cursor() as cursor:
        _convert_nothing(cursor)
        cursor.execute(f"FETCH FORWARD {rows} FROM {name}")
        return list(_rows_of(cursor)), cursor.description


def _chunks(connection: Connection, name: str, size: Callable[[int], int]) -> Iterator[Batch]:
    """Give what a cursor on the server finds, as it is taken; `size` says how many rows, by the bytes of one."""
    mean = _BYTES // 100
    while (found := _fetch(connection, name, size(mean)))[0]:
        rows, description = found
        mean = sum(map(_bytes_of, rows)) // len(rows) + 1
        yield _batch_of(rows, _Form.of(connection, description))


def _convert_nothing(cursor: Any) -> None:
    """Have a cursor of psycopg2 give the texts that the server sent; those of psycopg keep them anyway."""
    if hasattr(cursor, "pgresult"):
        return
    extensions = sys.modules.get("psycopg2.extensions")
    if extensions is None or not isinstance(cursor, extensions.cursor):
        raise UnsupportedDatabaseError(UNKNOWN.format(type(cursor).__module__.partition(".")[0]))
    types = (*extensions.string_types, *cursor.connection.string_types)
    extensions.register_type(extensions.new_type(types, "TEXT", lambda value, _: value), cursor)


class _Form(NamedTuple):
    """How the server writes the values of a result."""

    types: list[int]
    encoding: str | None  # of texts; None for UTF-8, and where the server knows none, which psycopg calls ascii

    @classmethod
    def of(cls, connection: Connection, description: Sequence) -> "_Form":
        encoding = getattr(connection.connection.driver_connection.info, "encoding", "utf-8")
        return cls([column[1] for column in description or ()], None if encoding in ("utf-8", "ascii") else encoding)


def _rows_of(cursor: Any) -> Iterator[Sequence]:
    """Give rows as the server sent them: as bytes, by psycopg2 as texts."""
    if not hasattr(cursor, "pgresult"):
        yield from cursor
        return
    result = cursor.pgresult
    places = range(result.nfields)
    for row in range(result.ntuples):
        yield [result.get_value(row, place) for place in places]


def _batches(rows: Iterable[Sequence], form: _Form) -> Iterator[Batch]:
    """Put rows into batches, smaller ones where rows are large."""
    some, room = [], _BYTES
    for row in rows:
        some.append(row)
        room -= _bytes_of(row)
        if len(some) == _FETCHED or room < 0:
            yield _batch_of(some, form)
            some, room = [], _BYTES
    if some:
        yield _batch_of(some, form)


def _bytes_of(row: Sequence) -> int:
    return sum(map(len, filter(None, row)))


def _batch_of(rows: list[Sequence], form: _Form) -> Batch:
    columns = zip(*rows)
    if form.encoding:
        columns = ([value and value.decode(form.encoding) for value in values] for values in columns)
    return Batch(len(rows), [parse(values, oid) for values, oid in zip(columns, form.types)])


# ---- ADBC

class _Plan(NamedTuple):
    """How ADBC reads one table."""

    place: str
    snapshot: str
    settings: dict[str, str]
    chosen: str
    source: str
    kinds: list[str]
    order: str

    def statement(self, condition: str = "") -> str:
        """Give the statement that asks for the rows of which a condition holds."""
        return f"SELECT {self.chosen} FROM {self.source}{condition}{self.order}"


def read_copy(engine: Engine, table: Table) -> Iterator[Batch]:
    """Give a table's rows, ordered by its key, from a private copy that nobody writes."""
    with engine.connect() as connection, connection.begin():
        # Its heirs are read for themselves.
        plan, given = _plan(connection, table, table.columns, few=_FEW, only="ONLY "), False
        try:
            for batch in _ahead(_stream(plan)) if plan else ():
                yield batch
                given = True
        except (Unreadable, adbc_driver_manager.Error) as reason:
            if given:
                raise OperationalError(plan.statement(), None, reason) from reason
            plan = None
        if plan is None:
            chosen = ", ".join(quote(column.name) for column in table.columns)
            name = ".".join(quote(part) for part in (table.schema, table.bare) if part)
            statement = sa.text(f"SELECT {chosen} FROM ONLY {name}{_order(table)}".replace(":", r"\:"))
            connection.exec_driver_sql(_setting(_WRITING))
            yield from _chunks(connection, _declare(connection, statement),
                               lambda mean: max(1, min(_FETCHED, _BYTES // mean)))


def read_ordered(connection: Connection, table: Table, columns: Sequence[Column]) -> list[Batch] | None:
    """Give columns of a table in the order of its primary key; None where this is no quicker, or cannot be.

    The database may be in use: all is read as of one moment, that of the connection's own next statement.
    """
    if not table.key:
        return None
    plan = _plan(connection, table, columns, few=_FEW)
    if plan is None:
        return None
    halves = _halves(connection, table, plan.source)

    def read(half: str) -> list[Batch]:
        # Python's objects are made while ADBC reads on.
        return [_with_objects(batch, columns) for batch in _ahead(_stream(plan, half))]

    try:
        with ThreadPoolExecutor(len(halves)) as readers:
            return [batch for batches in readers.map(read, halves) for batch in batches]
    except (Unreadable, adbc_driver_manager.Error):  # the driver reads it, or tells what is wrong
        return None


def _halves(connection: Connection, table: Table, source: str) -> tuple[str, ...]:
    """Give the conditions that cut a large table in two by its integer key: two of the server's processes read it."""
    declared = {column.name: column.type for column in table.columns}
    if len(table.key) != 1 or declared[table.key[0]] not in _INTEGERS:
        return ("",)
    key = quote(table.key[0])
    low, high = _ask(connection, f"SELECT min({key}), max({key}) FROM {source}")[0]
    if low is None or high - low < _MANY:
        return ("",)
    middle = (low + high) // 2
    return f" WHERE {key} <= {middle}", f" WHERE {key} > {middle}"


def _with_objects(batch: Batch, columns: Sequence[Column]) -> Batch:
    """Have decimals and dates as Python's objects, as a frame has them."""
    return Batch(batch.rows, [
        {"o": understand(column.type, parts, batch.rows)[1]} if set(parts) in ({"n"}, {"d"}) else parts
        for column, parts in zip(columns, batch.columns)])


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Give batches, the next one read while the one before is used."""
    with closing(batches), ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _order(table: Table) -> str:
    return f" ORDER BY {', '.join(map(quote, table.key))}" if table.key else ""


_KNOWN = """
SELECT n.nspname, current_setting('search_path')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = :name AND n.nspname = coalesce(nullif(:schema, ''), current_schema()) AND c.relkind IN ('r', 'p')
-- What only this session sees or may see: the rows that policies give it, what it has written.
AND NOT c.relrowsecurity AND txid_current_if_assigned() IS NULL
AND current_setting('server_encoding') <> 'SQL_ASCII' AND has_function_privilege('pg_export_snapshot()', 'EXECUTE')
"""


def _plan(connection: Connection, table: Table, columns: Sequence[Column], *, few: int = 0,
          only: str = "") -> _Plan | None:
    """Say how ADBC reads a table at the moment that the connection sees; None where it is not to."""
    place = _place_of(connection.connection.driver_connection)
    if place is None or not columns or connection.in_nested_transaction():
        return None
    found = connection.execute(sa.text(_KNOWN), {"name": table.bare, "schema": table.schema}).one_or_none()
    if found is None:
        return None
    name = f"{only}{quote(found[0])}.{quote(table.bare)}"
    if few and _ask(connection, f"SELECT count(*) FROM (SELECT FROM {name} LIMIT {few}) f")[0][0] < few:
        return None
    types = _declared(connection, name, columns)
    chosen = ", ".join(_expression(quote(column.name), oid) for column, oid in zip(columns, types))
    snapshot = _ask(connection, "SELECT pg_export_snapshot()")[0][0]
    return _Plan(place, snapshot, {**_READING, "search_path": found[1]}, chosen, name,
                 [KINDS.get(oid, "t") for oid in types], _order(table))


def _ask(connection: Connection, statement: str) -> Sequence:
    return connection.exec_driver_sql(statement.replace("%", "%%")).all()


def _declared(connection: Connection, name: str, columns: Sequence[Column]) -> list[int]:
    """Give the columns' types as they arrive: of a domain, the type beneath."""
    chosen = ", ".join(quote(column.name) for column in columns)
    with closing(connection.exec_driver_sql(f"SELECT {chosen} FROM {name} LIMIT 0".replace("%", "%%"))) as result:
        return [column[1] for column in result.cursor.description]


def _expression(name: str, oid: int) -> str:
    if oid in _CAST:
        return f"{name}::{_CAST[oid]}"
    if oid in KINDS or oid in _TEXTS:
        return name
    # Not ::text, which need not be what the server writes: of inet, it is not. A row of NULLs IS NULL, too.
    return f"CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END"


def _place_of(driver: Any) -> str | None:
    """Say how to connect as a driver is connected; None for a driver that does not tell."""
    info = getattr(driver, "info", None)
    if not hasattr(info, "password"):
        return None
    known = info.get_parameters() if hasattr(info, "get_parameters") else info.dsn_parameters
    told = {**known, "host": info.host, "port": info.port, "user": info.user, "password": info.password,
            "dbname": info.dbname, "client_encoding": "UTF8"}
    escaped = {name: str(value).replace("\\", r"\\").replace("'", r"\'") for name, value in told.items() if value}
    return " ".join(f"{name}='{value}'" for name, value in escaped.items())


def _stream(plan: _Plan, condition: str = "") -> Iterator[Batch]:
    with (adbc_driver_postgresql.connect(plan.place) as database,
          adbc_driver_manager.AdbcConnection(database) as connection):
        connection.set_autocommit(False)
        for statement in ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
                          f"SET TRANSACTION SNAPSHOT '{plan.snapshot}'", _setting(plan.settings)):
            with adbc_driver_manager.AdbcStatement(connection) as setting:
                setting.set_sql_query(statement)
                setting.execute_update()
        with adbc_driver_manager.AdbcStatement(connection) as asked:
            asked.set_sql_query(plan.statement(condition))
            for arrived in _arrivals(asked):
                columns = map(_parts, plan.kinds, arrived.columns)
                if arrived.num_rows:
                    yield Batch(arrived.num_rows, list(columns))


def _arrivals(statement: adbc_driver_manager.AdbcStatement) -> Iterator[pa.RecordBatch]:
    try:
        yield from pa.RecordBatchReader.from_stream(statement.execute_query()[0])
    except (pa.ArrowException, OSError) as error:  # as Arrow tells what ADBC tells in the middle of a stream
        raise Unreadable(str(error)) from error


def _parts(kind: str, array: pa.Array) -> Parts:
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    if array.type not in _ARRIVES[kind]:
        raise Unreadable(f"ADBC gives {array.type} for {kind}")
    if array.null_count == len(array):
        return {}
    if kind in "dmz":
        return moments(kind, array.view(pa.int32() if kind == "d" else pa.int64()))
    return {kind: trimmed(array) if kind == "n" else array.cast(ARROW[kind])}
