"""What a migration's statements on SQLite mean: which column continues which, and why one failed."""
import re
from collections.abc import Iterable

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from appkit.databases import Obstacle, fold
from appkit.databases.sqlite.catalogue import read_catalogue
from appkit.databases.sqlite.naming import quote

_NAME = r'(?:"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|[^\s"`\[\](),.;]+)'
_ALTER = rf"\s*ALTER\s+TABLE\s+({_NAME}(?:\.{_NAME})?)\s+RENAME\s+"
_RENAME = re.compile(rf"{_ALTER}(?:COLUMN\s+)?({_NAME})\s+TO\s+({_NAME})\s*;?\s*$", re.IGNORECASE)
_RENAME_TABLE = re.compile(rf"{_ALTER}TO\s+({_NAME})\s*;?\s*$", re.IGNORECASE)
_COPY = re.compile(rf"\s*INSERT\s+INTO\s+({_NAME})\s*\((.*?)\)\s*SELECT\s+(.*)\s+FROM\s+({_NAME})\s*;?\s*$",
                   re.IGNORECASE | re.DOTALL)
_ADD = re.compile(rf"\s*ALTER\s+TABLE\s+({_NAME})\s+ADD\b", re.IGNORECASE)
_DROP = re.compile(rf"\s*DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?({_NAME})", re.IGNORECASE)
_DROP_OBJECT = re.compile(rf"\s*DROP\s+(INDEX|TRIGGER|VIEW)\s+(?:IF\s+EXISTS\s+)?({_NAME}(?:\.{_NAME})?)",
                          re.IGNORECASE)
_TEMPORARY = "_alembic_tmp_"
_SAMPLES = 3


def find_renames(statements: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Give the columns that statements carried on under other names: (table, {new: old}), in order.

    Told by ALTER TABLE … RENAME COLUMN, and by the INSERT … SELECT with which a batch copies a table into its
    successor. A column that the SELECT computes out of several is no rename.
    """
    found = []
    for text in statements:
        if match := _RENAME.match(text):
            table, old, new = map(_plain, match.groups())
            found.append((table, {new: old}))
        elif match := _COPY.match(text):
            new, old = _split(match[2]), _split(match[3])
            if _plain(match[1]).startswith(_TEMPORARY) and len(new) == len(old):
                pairs = {_plain(a): _only_column(b) for a, b in zip(new, old)}
                found.append((_plain(match[4]), {a: b for a, b in pairs.items() if b and a != b}))
    return found


def find_table_renames(statements: Iterable[str]) -> dict[str, str]:
    """Give the tables that ALTER TABLE … RENAME TO carried on under other names: {new: old}, in lower case."""
    now: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for text in statements:
        if match := _DROP.match(text):
            name = fold(_plain(match[1]))
            dropped[name] = now.pop(name, name)
        elif match := _RENAME_TABLE.match(text):
            old, new = fold(_plain(match[1])), fold(_plain(match[2]))
            # A batch's successor takes the place of the table that it was copied from, whatever that was called before.
            now[new] = dropped.get(new, new) if old.startswith(_TEMPORARY) else now.pop(old, old)
    return {new: old for new, old in now.items() if new != old}


def find_drops(statements: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Give the indexes, triggers and views that statements dropped: kind and folded name."""
    matches = (_DROP_OBJECT.match(text) for text in statements)
    return frozenset((match[1].lower(), fold(_plain(match[2]))) for match in matches if match)


def _plain(name: str) -> str:
    """Take the quotes off an identifier, and a schema off its front."""
    parts = re.findall(_NAME, name)
    name = parts[-1] if parts else name
    if name[:1] in "\"`":
        return name[1:-1].replace(name[0] * 2, name[0])
    return name[1:-1] if name[:1] == "[" else name


def _split(text: str) -> list[str]:
    """Split a list at its commas, outside of quotes and parentheses."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'`[":
            quote = "]" if character == "[" else character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "," and not depth:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]


def _only_column(expression: str) -> str | None:
    """Give the column that an expression of a batch's copy reads: bare, or cast to the column's new type."""
    if match := re.fullmatch(rf"CAST\((.*) AS .*?\)(?:\s+AS\s+{_NAME})?", expression, re.IGNORECASE | re.DOTALL):
        return _only_column(match[1])
    match = re.fullmatch(rf"(?:{_NAME}\.)?({_NAME})(?:\s+AS\s+{_NAME})?", expression, re.IGNORECASE)
    return _plain(match[1]) if match else None


def find_obstacle(connection: Connection, message: str, statement: str) -> Obstacle | None:
    """Say which rows stood in the way of a statement that just failed; None where that cannot be seen.

    Asked of the connection it failed on, before anything is rolled back: SQLite takes back the statement alone.
    """
    try:
        return _obstacle(connection, message, statement)
    except SQLAlchemyError:
        return None


def _obstacle(connection: Connection, message: str, statement: str) -> Obstacle | None:
    if match := re.search(r"NOT NULL constraint failed: (.+)\.(.+)", message):
        return _nulls(connection, _source(match[1]), match[2])
    if "Cannot add a NOT NULL column" in message and (match := _ADD.match(statement)):
        return _nulls(connection, _plain(match[1]), "")
    if match := re.search(r"UNIQUE constraint failed: (?!index )(.+)", message):
        columns = [part.rpartition(".")[2] for part in match[1].split(", ")]
        return _twice(connection, _source(match[1].split(", ")[0].rpartition(".")[0]), columns)
    if match := re.search(r"CHECK constraint failed: (.+)", message, re.DOTALL):
        return _unchecked(connection, match[1], statement)
    if "FOREIGN KEY constraint failed" in message and (match := _DROP.match(statement)):
        return _children(connection, _plain(match[1]))
    return None


def _source(table: str) -> str:
    return table.removeprefix(_TEMPORARY)


def _nulls(connection: Connection, table: str, column: str) -> Obstacle:
    if column not in [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({quote(table)})")]:
        return _seen(connection, "not null", table, column, "has no value for a new column that takes no NULL", "1")
    return _seen(connection, "not null", table, column, f"{column} is NULL", f"{quote(column)} IS NULL")


def _twice(connection: Connection, table: str, columns: list[str]) -> Obstacle:
    names = ", ".join(map(quote, columns))
    there = " AND ".join(f"{quote(name)} IS NOT NULL" for name in columns)
    again = f"SELECT {names} FROM {quote(table)} WHERE {there} GROUP BY {names} HAVING count(*) > 1"
    return _seen(connection, "unique", table, ", ".join(columns), f"{', '.join(columns)} is in more than one row",
                 f"({names}) IN ({again})")


def _unchecked(connection: Connection, name: str, statement: str) -> Obstacle | None:
    """Find the rows that break a check, by its name or its expression, on the table that the statement wrote to."""
    written = re.match(rf"\s*(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE|REPLACE\s+INTO)\s+({_NAME})", statement,
                       re.IGNORECASE)
    if not written:
        return None
    table = _plain(written[1])
    checks = [entry for entry in read_catalogue(connection) if entry.kind == "check" and entry.table == table]
    condition = next((entry.definition for entry in checks if name in (entry.name, entry.definition)), name)
    condition = re.sub(r"^\s*CHECK\s*", "", condition, flags=re.IGNORECASE)
    return _seen(connection, "check", _source(table), condition, f"NOT ({condition})", f"NOT ({condition})")


def _children(connection: Connection, parent: str) -> Obstacle | None:
    for (table,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in connection.exec_driver_sql(f"PRAGMA foreign_key_list({quote(table)})").fetchall():
            if fold(row[2]) == fold(parent):
                found = _seen(connection, "parent", table, row[3], f"{row[3]} refers to {parent}",
                              f"{quote(row[3])} IS NOT NULL")
                if found.rows:
                    return found
    return None


def _seen(connection: Connection, kind: str, table: str, column: str, what: str, condition: str) -> Obstacle:
    """Count the rows of which a condition holds, and name a few by their key."""
    columns = connection.exec_driver_sql(f"PRAGMA table_info({quote(table)})").fetchall()
    key = [row[1] for row in sorted(columns, key=lambda row: row[5]) if row[5]]
    names = ", ".join(map(quote, key)) or "rowid"
    where = f"FROM {quote(table)} WHERE {condition}"
    rows = connection.exec_driver_sql(f"SELECT count(*) {where}").scalar_one()
    keys = connection.exec_driver_sql(f"SELECT {names} {where} ORDER BY {names} LIMIT {_SAMPLES}").fetchall()
    told = tuple(", ".join(f"{name}={value!r}" for name, value in zip(key or ["rowid"], row)) for row in keys)
    return Obstacle(kind, table, column, what, rows, told)
