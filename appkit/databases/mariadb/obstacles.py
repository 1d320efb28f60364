"""Why a statement failed on MariaDB: the rows that stood in its way."""
import re
from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from appkit.databases import Obstacle, fold
from appkit.databases.mariadb.asking import ask, ask_named
from appkit.databases.mariadb.catalogue import Reference, read_references
from appkit.databases.mariadb.naming import quote
from appkit.databases.mariadb.reading import orphans_of
from appkit.databases.mariadb.statements import NAME, PATH, clauses_of, plain, split

_SAMPLES = 3
_NULLS = (1048, 1138, 1265)
_CASTS = (1264, 1265, 1292, 1366, 1406)
_RETYPE = re.compile(rf"(?:MODIFY\s+(?:COLUMN\s+)?(?:IF\s+EXISTS\s+)?({NAME})|"
                     rf"CHANGE\s+(?:COLUMN\s+)?(?:IF\s+EXISTS\s+)?({NAME})\s+{NAME})\s+(.*)",
                     re.IGNORECASE | re.DOTALL)
_UNIQUE = re.compile(rf"\s*CREATE\s+(?:OR\s+REPLACE\s+)?UNIQUE\s+INDEX\s+(?:IF\s+NOT\s+EXISTS\s+)?{NAME}\s+"
                     rf"(?:USING\s+\w+\s+)?ON\s+({PATH})\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_ADD_UNIQUE = re.compile(rf"ADD\s+(?:CONSTRAINT\s+(?:{NAME}\s+)?)?(?:UNIQUE|PRIMARY\s+KEY)\b"
                         rf"[^(]*?(?:{NAME}\s*)?\((.*)\)", re.IGNORECASE | re.DOTALL)
_ADD_CHECK = re.compile(rf"ADD\s+(?:CONSTRAINT\s+(?:{NAME}\s+)?)?CHECK\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_EMPTIED = re.compile(rf"\s*(?:DROP\s+TABLE|TRUNCATE)\s+(?:TABLE\s+)?(?:IF\s+EXISTS\s+)?({PATH})", re.IGNORECASE)
_KEY = re.compile(rf"\(({PATH}), CONSTRAINT {NAME} FOREIGN KEY \((.*?)\) REFERENCES ({PATH}) \((.*?)\)", re.DOTALL)
_PART = re.compile(rf"({NAME})\s*(?:\(\s*(\d+)\s*\))?", re.DOTALL)
_TYPE = re.compile(r"\s*(\w+)\s*(?:\(((?:'(?:[^'\\]|''|\\.)*'|[^)'])*)\))?\s*(unsigned)?", re.IGNORECASE)
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64}
_NUMBER = r"^[[:space:]]*[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?[[:space:]]*$"


def find_obstacle(connection: Connection, message: str, statement: str) -> Obstacle | None:
    """Say which rows stood in the way of a statement that just failed; None where that cannot be seen.

    Asked of the connection it failed on: the server takes back the statement alone.
    """
    code = re.search(r"\((\d+),", message)
    try:
        return _obstacle(connection, int(code[1]), message, statement) if code else None
    except SQLAlchemyError:
        return None


def _obstacle(connection: Connection, code: int, message: str, statement: str) -> Obstacle | None:
    table, clauses = clauses_of(statement)
    if code == 1062:
        return _twice(connection, table, clauses, statement)
    if code in (1451, 1452) and (match := _KEY.search(message)):
        return _related(connection, code, match, table)
    if code in (1217, 1451, 1701, 3730) and (match := _EMPTIED.match(statement)):
        return _children(connection, plain(match[1]))
    if code in (3819, 4025):
        checks = [match[1] for clause in clauses if (match := _ADD_CHECK.match(clause))]
        found = [_seen(connection, "check", table, check, f"NOT ({check})", f"NOT ({check})") for check in checks]
        return next((each for each in found if each.rows), None)
    if code in (*_NULLS, *_CASTS):
        return _unfit(connection, code, table, clauses)
    return None


def _twice(connection: Connection, table: str, clauses: list[str], statement: str) -> Obstacle | None:
    if match := _UNIQUE.match(statement):
        table, wanted = plain(match[1]), [match[2]]
    else:
        wanted = [match[1] for clause in clauses if (match := _ADD_UNIQUE.match(clause))]
    for columns in wanted:
        parts = [_PART.match(part).groups() for part in split(columns)]
        names = [plain(name) for name, _ in parts]
        values = ", ".join(f"LEFT({quote(name)}, {length})" if length else quote(name)
                           for name, (_, length) in zip(names, parts))
        there = " AND ".join(f"{quote(name)} IS NOT NULL" for name in names)
        again = f"SELECT {values} FROM {quote(table)} WHERE {there} GROUP BY {values} HAVING COUNT(*) > 1"
        found = _seen(connection, "unique", table, ", ".join(names), f"{', '.join(names)} is in more than one row",
                      f"({values}) IN ({again})")
        if found.rows:
            return found
    return None


def _related(connection: Connection, code: int, match: re.Match, altered: str) -> Obstacle:
    """Find the rows whose parent is missing, or the rows that a parent cannot go from."""
    columns, theirs = ([plain(name) for name in split(part)] for part in (match[2], match[4]))
    parent = plain(match[3])
    told = ", ".join(columns)
    if code == 1451:
        return _referring(connection, plain(match[1]), columns, parent)
    # Copied by ALTER TABLE, the table has a name of the server's own in the message.
    table = altered or plain(match[1])
    schema = plain(match[3][:-len(re.findall(NAME, match[3])[-1])].rstrip(". ")) if "." in match[3] else ""
    source = orphans_of(Reference(table, "", tuple(columns), schema, parent, tuple(theirs)))
    return _seen(connection, "foreign key", table, told, f"{told} is in no row of {parent}", source=source)


def _children(connection: Connection, parent: str) -> Obstacle | None:
    found = [_referring(connection, reference.table, reference.columns, parent)
             for reference in read_references(connection) if fold(reference.parent) == fold(parent)]
    return next((each for each in found if each.rows), None)


def _referring(connection: Connection, table: str, columns: Sequence[str], parent: str) -> Obstacle:
    told = ", ".join(columns)
    there = " AND ".join(f"{quote(name)} IS NOT NULL" for name in columns)
    return _seen(connection, "parent", table, told, f"{told} refers to {parent}", there)


def _unfit(connection: Connection, code: int, table: str, clauses: list[str]) -> Obstacle | None:
    """Find the rows whose value a column's new type does not take."""
    for match in filter(None, map(_RETYPE.match, clauses)):
        column, definition = plain(match[1] or match[2]), match[3]
        name = quote(column)
        if code in _NULLS and re.search(r"\bNOT\s+NULL\b|\bPRIMARY\s+KEY\b", definition, re.IGNORECASE):
            found = _seen(connection, "not null", table, column, f"{column} is NULL", f"{name} IS NULL")
            if found.rows:
                return found
        condition = _misfit(name, definition) if code in _CASTS else ""
        if condition:
            told = _TYPE.match(definition)[0].strip()
            found = _seen(connection, "cast", table, column, f"{column} does not fit {told}", condition)
            if found.rows:
                return found
    return None


def _misfit(column: str, definition: str) -> str:
    """Give the condition of the values that a type does not take; none where it takes all."""
    match = _TYPE.match(definition)
    name, size = match[1].lower(), match[2]
    if name in _BITS:
        low, high = (0, 2**_BITS[name] - 1) if match[3] else (-2**(_BITS[name] - 1), 2**(_BITS[name] - 1) - 1)
        return f"{column} NOT REGEXP '{_NUMBER}' OR ROUND({column}) NOT BETWEEN {low} AND {high}"
    if name in ("decimal", "numeric"):
        digits, scale = [int(part) for part in f"{size or 10},0".split(",")[:2]]
        return f"{column} NOT REGEXP '{_NUMBER}' OR ABS(ROUND({column}, {scale})) >= 1e{digits - scale}"
    if name in ("float", "double", "real"):
        return f"{column} NOT REGEXP '{_NUMBER}'"
    if name in ("char", "varchar", "binary", "varbinary"):
        return f"{'OCTET' if 'binary' in name else 'CHAR'}_LENGTH({column}) > {size or 1}"
    if name in ("date", "datetime", "timestamp", "time"):
        return f"{column} IS NOT NULL AND CAST({column} AS {'DATETIME' if name == 'timestamp' else name}) IS NULL"
    return f"{column} NOT IN ({size})" if name == "enum" else ""


def _seen(connection: Connection, kind: str, table: str, column: str, what: str, condition: str = "", *,
          source: str = "") -> Obstacle:
    """Count the rows of which a condition holds, and name a few by their key."""
    keys = [row["column_name"] for row in ask_named(connection, f"SHOW KEYS FROM {quote(table)}")
            if row["key_name"] == "PRIMARY"]
    source = source or f"FROM {quote(table)} c WHERE {condition}"
    rows = ask(connection, f"SELECT COUNT(*) {source}")[0][0]
    names = ", ".join(f"c.{quote(name)}" for name in keys)
    found = ask(connection, f"SELECT {names} {source} ORDER BY {names} LIMIT {_SAMPLES}") if keys else []
    told = tuple(", ".join(f"{name}={value!r}" for name, value in zip(keys, row)) for row in found)
    return Obstacle(kind, table, column, what, rows, told)
