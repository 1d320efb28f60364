"""Which rows stood in the way of a statement that PostgreSQL refused."""
import re

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from appkit.databases import Obstacle
from appkit.databases.postgresql.naming import quote
from appkit.databases.postgresql.statements import NAME, PATH, TABLE, plain, split

_SAMPLES = 3
_ON = re.compile(rf"\s*(?:ALTER\s+TABLE\s+{TABLE}|CREATE\s+UNIQUE\s+INDEX\s.*?\sON\s+(?:ONLY\s+)?({PATH}))",
                 re.IGNORECASE | re.DOTALL)
_NULL = re.compile(r'column "(.*)" of relation ".*" contains null values|'
                   r'null value in column "(.*)" of relation ".*" violates', re.DOTALL)
_TWICE = re.compile(r'could not create unique index|duplicate key value violates unique constraint')
_CHECK = re.compile(r'check constraint "(.*)" of relation ".*" is violated by some row')
_ORPHANS = re.compile(r'insert or update on table ".*" violates foreign key constraint "(.*)"')
# The server tells the columns of a key, or its expressions, as it would write them in a statement.
_KEY = re.compile(r'Key \(((?:"(?:[^"]|"")*"|[^"])*?)\)=\(')
_TYPE = re.compile(rf"\sALTER\s+(?:COLUMN\s+)?({NAME})\s+(?:SET\s+DATA\s+)?TYPE\s+(.+?)(?:\s+USING\s+(.*))?\s*;?\s*$",
                   re.IGNORECASE | re.DOTALL)
_UNFIT = re.compile(r"invalid input (?:syntax|value)|out of range|numeric field overflow")
_TOO_LONG = re.compile(r"value too long for type character(?: varying)?\((\d+)\)")
_REFERENCES = re.compile(rf"\sREFERENCES\s+({PATH})\s*(?:\(([^)]*)\))?", re.IGNORECASE)


def find_obstacle(connection: Connection, message: str, statement: str) -> Obstacle | None:
    """Say which rows stood in the way of a statement that just failed; None where that cannot be seen.

    PostgreSQL ends the transaction with the statement, so this asks by another connection: it sees the rows as they
    were before the transaction, and nothing of a table or a column that only it knew.
    """
    try:
        with connection.engine.connect() as other:
            other = other.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            other.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
            found = _obstacle(other, message, statement)
            other.rollback()
            return found if found and found.rows else None
    except SQLAlchemyError:
        return None


def _obstacle(connection: Connection, message: str, statement: str) -> Obstacle | None:
    match = _ON.match(statement)
    if not match:
        return None
    table, path = plain(match[1] or match[2]), match[1] or match[2]
    if found := _NULL.search(message):
        return _nulls(connection, table, path, found[1] or found[2])
    if _TWICE.search(message) and (key := _KEY.search(message)):
        return _twice(connection, table, path, key[1], statement)
    if found := _CHECK.search(message):
        return _unchecked(connection, table, path, found[1], statement)
    if _ORPHANS.search(message) and (key := _KEY.search(message)):
        return _orphans(connection, table, path, key[1], message, statement)
    if kept := _TYPE.search(statement):
        return _unfit(connection, table, path, kept, message)
    return None


def _nulls(connection: Connection, table: str, path: str, column: str) -> Obstacle:
    if column not in _columns(connection, path):
        return _seen(connection, "not null", table, path, column,
                     "has no value for a new column that takes no NULL", "true")
    return _seen(connection, "not null", table, path, column, f"{column} is NULL", f"{quote(column)} IS NULL")


def _twice(connection: Connection, table: str, path: str, key: str, statement: str) -> Obstacle:
    parts = split(key)
    where = re.search(r"\sWHERE\s+(.*?)\s*;?\s*$", statement, re.IGNORECASE | re.DOTALL)
    only = f"({where[1]})" if where else "true"
    there = " AND ".join([only, *(f"({part}) IS NOT NULL" for part in parts)])
    again = f"SELECT {key} FROM ONLY {path} WHERE {there} GROUP BY {key} HAVING count(*) > 1"
    names = ", ".join(map(_bare, parts))
    return _seen(connection, "unique", table, path, names, f"{names} is in more than one row",
                 f"{only} AND ({key}) IN ({again})")


def _unchecked(connection: Connection, table: str, path: str, name: str, statement: str) -> Obstacle | None:
    known = connection.execute(text("SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE contype = 'c' "
                                    "AND conrelid = to_regclass(:path) AND conname = :name"),
                               {"path": path, "name": name}).scalar()
    said = re.search(r"\bCHECK\s*\((.*)\)", statement, re.IGNORECASE | re.DOTALL)
    if not (known or said):
        return None
    condition = known or said[1].strip()
    return _seen(connection, "check", table, path, condition, f"NOT ({condition})", f"NOT ({condition})")


def _orphans(connection: Connection, table: str, path: str, key: str, message: str,
             statement: str) -> Obstacle | None:
    columns = split(key)
    said = _REFERENCES.search(statement)
    if said:
        parent, theirs = said[1], split(said[2]) if said[2] else list(map(quote, _key(connection, said[1])))
    else:
        name = _ORPHANS.search(message)[1]
        found = connection.execute(text(
            "SELECT confrelid::regclass::text, ARRAY(SELECT quote_ident(attname) FROM unnest(confkey) "
            "WITH ORDINALITY k(n, at) JOIN pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY at) "
            "FROM pg_constraint WHERE conrelid = to_regclass(:path) AND conname = :name"),
            {"path": path, "name": name}).first()
        if not found:
            return None
        parent, theirs = found
    same = " AND ".join(f"p.{their} = c.{ours}" for their, ours in zip(theirs, columns))
    there = " AND ".join(f"c.{ours} IS NOT NULL" for ours in columns)
    names = ", ".join(map(_bare, columns))
    return _seen(connection, "foreign key", table, path, names, f"{names} points at no row of {plain(parent)}",
                 f"{there} AND NOT EXISTS (SELECT FROM {parent} p WHERE {same})")


def _unfit(connection: Connection, table: str, path: str, said: re.Match, message: str) -> Obstacle | None:
    """Find the values that do not fit a column's new type, where that can be asked of each without a failure."""
    name, wanted, using = said.groups()
    column = plain(name)
    long = _TOO_LONG.search(message)
    if using and not re.fullmatch(rf"\(?{re.escape(name)}\)?::.*|CAST\s*\({re.escape(name)} AS .*\)", using,
                                  re.IGNORECASE):
        return None
    if long:
        condition = f"rtrim(substr({name}::text, {long[1]} + 1), ' ') <> ''"
        told = f"{column} is longer than {long[1]}"
    elif _UNFIT.search(message) and connection.dialect.server_version_info >= (16,) and _reads(
            _columns(connection, path).get(column, ""), wanted):
        condition = f"NOT pg_input_is_valid({name}::text, '{wanted.replace(chr(39), chr(39) * 2)}')"
        told = f"{column} is no {wanted}"
    else:
        return None
    return _seen(connection, "cast", table, path, column, told, condition)


def _reads(old: str, new: str) -> bool:
    """Say whether a cast takes a value as its text would be taken: one from 1.5 to integer rounds instead."""
    return bool(re.match(r"text|character|citext|smallint|integer|bigint", old)
                or old.startswith("numeric") and re.match("numeric|decimal", new, re.IGNORECASE))


def _bare(part: str) -> str:
    return plain(part) if re.fullmatch(NAME, part) else part


def _columns(connection: Connection, path: str) -> dict[str, str]:
    """Give the columns of a table, each with its type."""
    rows = connection.execute(text("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid "
                                   "= to_regclass(:path) AND attnum > 0 AND NOT attisdropped"), {"path": path})
    return {name: declared for name, declared in rows}


def _key(connection: Connection, path: str) -> list[str]:
    """Give the columns of a table's primary key."""
    return list(connection.execute(text(
        "SELECT attname FROM pg_index CROSS JOIN LATERAL unnest(indkey::int2[]) WITH ORDINALITY k(n, at) "
        "JOIN pg_attribute ON attrelid = indrelid AND attnum = n "
        "WHERE indisprimary AND at <= indnkeyatts AND indrelid = to_regclass(:path) ORDER BY at"),
        {"path": path}).scalars())


def _seen(connection: Connection, kind: str, table: str, path: str, column: str, what: str,
          condition: str) -> Obstacle:
    """Count the rows of which a condition holds, and name a few by their key."""
    key = _key(connection, path)
    names = ", ".join(f"c.{quote(name)}" for name in key) or "c.ctid"
    where = f"FROM {path} c WHERE {condition}".replace("%", "%%")
    rows = connection.exec_driver_sql(f"SELECT count(*) {where}").scalar_one()
    names = names.replace("%", "%%")
    keys = connection.exec_driver_sql(f"SELECT {names} {where} ORDER BY {names} LIMIT {_SAMPLES}").all()
    told = tuple(", ".join(f"{name}={value!r}" for name, value in zip(key or ["ctid"], row)) for row in keys)
    return Obstacle(kind, table, column, what, rows, told)
