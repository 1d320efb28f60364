"""Rows of a table or a query as a DataFrame whose types are those that the database declares.

What a column declares decides: integers are Int64, booleans boolean, texts (JSON too) string, floats Float64,
datetimes datetime64[us], in UTC where they have a zone; dates, times, decimals and bytes are Python objects. Where a
stored value does not fit what the column declares, as SQLite allows, the whole column is of dtype object and holds the
values as the driver gives them: nothing is converted in silence, no integer ever passes through a float. A query's
column that declares nothing goes by what is in it. NULL is pd.NA, NaT in datetimes, None in objects.
"""
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from flask import has_app_context
from sqlalchemy.exc import CompileError, SQLAlchemyError
from sqlalchemy.sql import quoted_name, visitors

from appkit.batches import Batch, join_batches
from appkit.databases import Column, Table, open_reading
from appkit.errors import AppkitError, UnknownTableError

_READS = re.compile(r"(\s|--[^\n]*(\n|$)|/\*.*?\*/|\()*(SELECT|WITH|VALUES|EXPLAIN)\b", re.IGNORECASE | re.DOTALL)


def list_tables(source: Any = None) -> pd.DataFrame:
    """List the tables of a database with their sizes.

    Parameters
    ----------
    source
        A Flask app, an Engine or a URL; left out, the current app.

    Returns
    -------
    DataFrame, one row per table, sorted by name
        Columns: table (string), rows (Int64, counted not estimated), columns (Int64, how many).
    """
    with open_reading(source) as (connection, database):
        tables = sorted(database.read_tables(connection))
        counts = [_count(connection, table) for table in tables]
    return pd.DataFrame({
        "table": pd.array([table.name for table in tables], dtype="string"),
        "rows": pd.array(counts, dtype="Int64"),
        "columns": pd.array([len(table.columns) for table in tables], dtype="Int64"),
    })


def read_table(source: Any = None, table: str | None = None, *, columns: Sequence[str] | None = None,
               where: Any = None, limit: int | None = None,
               chunks: int | None = None) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """Read the rows of a table, ordered by its primary key.

    Parameters
    ----------
    source
        A Flask app, an Engine or a URL. It may be left out inside an app context: `read_table("user")` reads the
        current app's table.
    table
        The name as `list_tables` has it.
    columns
        Their names, in the order wanted; left out, all.
    where
        Which rows: a SQLAlchemy expression on this table (`User.id > 3`), or SQL text, taken as it is.
    limit
        At most so many rows.
    chunks
        For what does not fit into memory: an iterator of frames of so many rows, the last one shorter. All are of one
        moment: SQLite keeps writers waiting until the last one is taken or the iterator is closed, but for WAL mode.

    Returns
    -------
    DataFrame, one row per row; without a primary key ordered by all columns, the first one first
        Its dtypes are those of this module's first lines; in chunks, by what is in each. The index goes on from chunk
        to chunk. An empty table gives one empty frame.

    Raises
    ------
    UnknownTableError
        When the database has no such table; it names those that there are.
    AppkitError
        When a column is unknown, or the database refuses the condition.
    """
    if table is None and isinstance(source, str) and has_app_context():
        source, table = None, source
    if table is None:
        raise AppkitError("Which table? read_table(source, table), or read_table(table) inside an app context.")
    frames = _read_frames(source, table, columns, where, limit, chunks)
    first = next(frames)  # now, so that what is wrong is told here
    if chunks is not None:
        return chain([first], frames)
    frames.close()
    return first


def _read_frames(source: Any, name: str, columns: Sequence[str] | None, where: Any, limit: int | None,
                 chunks: int | None) -> Generator[pd.DataFrame, None, None]:
    limit, chunks = _number("limit", limit, 0), _number("chunks", chunks, 1)
    with open_reading(source) as (connection, database):
        table = _find(name, database.read_tables(connection))
        wanted = _choose(columns, table)
        batches = None
        if where is None and limit is None and chunks is None:
            batches = database.read_ordered(connection, table, wanted)
        if batches is None:
            statement = _select(table, [column.name for column in wanted], where).limit(limit)
            _, batches = _fetch(connection, database, statement, chunks)
        if chunks is None:
            batches = [join_batches(list(batches), len(wanted))]
        yield from _frames(wanted, batches, database)


def _frames(columns: Sequence[Column], batches: Iterable[Batch], database: ModuleType) -> Iterator[pd.DataFrame]:
    names, types = [column.name for column in columns], [column.type for column in columns]
    start = 0
    for batch in batches:
        yield typed_frame(names, types, batch, database, start)
        start += batch.rows
    if not start:
        yield typed_frame(names, types, Batch(0, [{} for _ in names]), database)


def read_query(source: Any, statement: Any, parameters: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Read the rows of a query; nothing it does can write.

    Parameters
    ----------
    source
        A Flask app, an Engine or a URL; None for the current app.
    statement
        A SQLAlchemy select, of tables or of models, or SQL text. In text, `:name` is a parameter; a list for one
        serves `IN :name`.
    parameters
        The values by name.

    Returns
    -------
    DataFrame, one row per row, in the order of the query
        The columns of a SQLAlchemy select have the types it declares. Those of SQL text go by what is in them.

    Raises
    ------
    AppkitError
        When the statement is no query, tries to write, or the database refuses it.
    """
    query = _as_query(statement, parameters or {})
    with open_reading(source) as (connection, database):
        names, batches = _fetch(connection, database, query)
        declared = _declared_types(query, connection.dialect)
    types = declared if len(declared) == len(names) else [None] * len(names)
    return typed_frame(names, types, join_batches(list(batches), len(names)), database)


def _count(connection: sa.Connection, table: Table) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(_table(table)))


def _find(name: str, tables: Sequence[Table]) -> Table:
    for table in tables:
        if table.name == name:
            return table
    names = ", ".join(sorted(table.name for table in tables))
    raise UnknownTableError(f"No table {name!r}. This database has: {names or 'no table at all'}.")


def _choose(columns: Sequence[str] | None, table: Table) -> list[Column]:
    known = {column.name: column for column in table.columns}
    if columns is None:
        return list(table.columns)
    if not isinstance(columns, (str, Sequence)):
        raise AppkitError(f"columns={columns!r}: a list of names is wanted. {table.name!r} has: {', '.join(known)}.")
    wanted = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        asked = ", ".join(map(repr, unknown)) or "''"
        raise AppkitError(f"No column {asked} in the table {table.name!r}. It has: {', '.join(known)}.")
    return [known[name] for name in wanted]


def _number(name: str, value: int | None, least: int) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise AppkitError(f"{name}={value!r}: a number of rows, {least} or more, is wanted.")
    return None if value is None else min(value, 2**63 - 1)


def _select(table: Table, columns: Sequence[str], where: Any) -> sa.Select:
    chosen = [_column(name) for name in columns]
    condition = sa.literal_column(f"({where}\n)") if isinstance(where, str) else where
    if not isinstance(condition, (sa.ColumnElement, type(None))):
        raise AppkitError(f"where={where!r}: a SQLAlchemy expression or SQL text is wanted, as in 'id > 5'.")
    if condition is None:
        return _order(sa.select(*chosen).select_from(_table(table)), table)
    origin = _find_in(condition, table)
    return _order(sa.select(*chosen).select_from(origin).where(condition), table)


def _find_in(condition: Any, table: Table) -> Any:
    """Give the object that an expression uses for the table: a second one of that name would be a second table."""
    spoken_of = sa.select(sa.literal_column("1")).where(condition).get_final_froms()
    if any(not _is(other, table) for other in spoken_of):
        raise AppkitError(f"where speaks of other tables than {table.name!r}. Use read_query for a join.")
    # A subquery may speak of it too: EXISTS (… WHERE post.author_id = user.id) is of this table's row.
    inside = (element.table for element in visitors.iterate(condition) if isinstance(element, sa.ColumnClause))
    return next((origin for origin in (*spoken_of, *inside) if _is(origin, table)), _table(table))


def _is(origin: Any, table: Table) -> bool:
    """Say whether what an expression speaks of is a table."""
    schema = getattr(origin, "schema", None)
    return getattr(origin, "name", None) == table.bare and (not schema or schema == table.schema)


def _order(statement: sa.Select, table: Table) -> sa.Select:
    nullable = {column.name for column in table.columns if column.nullable}
    # A key of SQLite may hold NULLs, and those more than once: then the other columns say which row comes first.
    enough = table.key and not nullable.intersection(table.key)
    rest = [] if enough else [column.name for column in table.columns if column.name not in table.key]
    return statement.order_by(*map(_column, [*table.key, *rest]))


def _column(name: str) -> sa.ColumnClause:
    return sa.column(quoted_name(name, quote=True))


def _table(table: Table) -> sa.TableClause:
    schema = quoted_name(table.schema, quote=True) if table.schema else None
    return sa.table(quoted_name(table.bare, quote=True), schema=schema)


def _as_query(statement: Any, parameters: Mapping[str, Any]) -> Any:
    if not isinstance(parameters, Mapping):
        raise AppkitError(f"parameters={parameters!r}: a dictionary from names to values is wanted.")
    try:
        query = sa.text(statement) if isinstance(statement, str) else statement
        text = query.text if isinstance(query, sa.TextClause) else None
        if not (_READS.match(text) if text is not None else getattr(query, "is_select", False)):
            raise AppkitError("read_query only reads: SELECT, WITH, VALUES and EXPLAIN, or a SQLAlchemy select.")
        if text is None:
            return query.params(parameters) if parameters else query
        return query.bindparams(*[_bind(name, value) for name, value in parameters.items()])
    except SQLAlchemyError as error:
        raise AppkitError(f"This query cannot be asked: {error}") from error


def _bind(name: str, value: Any) -> sa.BindParameter:
    several = isinstance(value, (list, tuple, set, frozenset))
    return sa.bindparam(name, list(value) if several else value, expanding=several)


def _declared_types(query: Any, dialect: sa.Dialect) -> list[str | None]:
    return [_declared_type(column.type, dialect) for column in getattr(query, "selected_columns", ())]


def _declared_type(declared: Any, dialect: sa.Dialect) -> str | None:
    try:
        return declared.compile(dialect=dialect)
    except CompileError:
        return None


def _fetch(connection: sa.Connection, database: ModuleType, statement: Any,
           size: int | None = None) -> tuple[list[str], Iterable[Batch]]:
    try:
        answer = database.read_rows(connection, statement, size)
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or str(error).splitlines()[0]
        raise AppkitError(f"This query, which may only read, is refused: {str(reason).rstrip('.')}.") from error
    if answer is None:
        raise AppkitError("This statement has no rows to give. read_query takes SELECT, WITH, VALUES and EXPLAIN.")
    return answer


def typed_frame(names: Sequence[str], declared: Sequence[str | None], batch: Batch, database: ModuleType,
                start: int = 0) -> pd.DataFrame:
    """Make a DataFrame of rows, each column typed by what it was declared as, where every value fits that.

    The rows in the batch are used up. `start` is the first one's place in the index.
    """
    arrays, index = {}, pd.RangeIndex(start, start + batch.rows)
    # By position first, because two columns of a query may have the same name.
    for place, kind in enumerate(declared):
        arrays[place] = _series(*database.understand(kind, batch.columns[place], batch.rows), index)
        batch.columns[place] = {}  # let it go before the next one is made
    frame = pd.DataFrame(arrays, index, copy=False)
    frame.columns = pd.Index(names, dtype=object if not names else None)
    return frame


def _series(kind: str, values: Any, index: pd.Index) -> pd.Series:
    if kind == "object":
        return pd.Series(values, index, dtype=object)  # left out, pandas would look for a type of its own
    return pd.Series(_array(kind, values), index, copy=False)


def _array(kind: str, values: Any) -> Any:
    if kind == "text" and pd.StringDtype().storage == "pyarrow":
        return pd.array(values.cast(pa.large_string()), dtype="string")
    if kind == "text":
        return pd.array(values.to_pylist(), dtype="string")
    # Value and mask apart: pandas would send an integer that stands beside a NULL through a float.
    missing = _numpy(values.is_null())
    if kind in ("datetime", "instant"):
        moments = _numpy(values.cast(pa.int64()).fill_null(np.iinfo(np.int64).min)).view("datetime64[us]")
        return pd.array(moments, dtype=None if kind == "datetime" else pd.DatetimeTZDtype("us", "UTC"))
    if kind == "boolean":
        values = values.cast(pa.bool_())
    array, empty = _MASKED[kind]
    return array(_numpy(values.fill_null(empty)), missing)


def _numpy(values: Any) -> np.ndarray:
    # A copy where Arrow's own memory would come, which is read-only.
    return np.array(values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False))


_MASKED = {
    "integer": (pd.arrays.IntegerArray, 0),
    "boolean": (pd.arrays.BooleanArray, False),
    "real": (pd.arrays.FloatingArray, 0.0),
}
