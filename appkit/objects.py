"""What of a schema disappears in a revision that no operation of it announced."""
import re
from collections.abc import Iterator
from typing import NamedTuple

from appkit.databases import fold
from appkit.schema import Difference
from appkit.script import Script

# What may go from a definition, and the keyword by which an operation says that it means it.
_ATTRIBUTES = {
    "COLLATE": "collation", "DEFAULT": "server_default", "GENERATED": "Computed", "NOT NULL": "nullable",
    "AUTOINCREMENT": "sqlite_autoincrement", "WITHOUT ROWID": "sqlite_with_rowid", "STRICT": "sqlite_strict",
    "ON CONFLICT": "on_conflict", "ON DELETE": "ondelete", "ON UPDATE": "onupdate", "DEFERRABLE": "deferrable",
    "DESC": "desc", "WHERE": "sqlite_where",
}


class LostObject(NamedTuple):
    """Something that went unannounced."""

    kind: str
    where: str
    what: str


class Announced(NamedTuple):
    """What a revision says, or was seen, to take away on purpose."""

    script: Script
    drops: frozenset[tuple[str, str]]  # indexes, triggers and views by DROP statements: kind and folded name
    sequences: bool  # whether a statement writes AUTOINCREMENT's counters itself
    dropped: set[str]  # tables
    renamed: dict[str, str]  # tables: before to after


def find_lost_objects(schema: list[Difference], announced: Announced) -> Iterator[LostObject]:
    """Give what of a schema went that nothing announced, out of all that differs."""
    gone = [(row.table, row.name) for row in schema if (row.change, row.kind) == ("removed", "column")]
    for row in schema:
        if row.change == "added" or row.table in announced.dropped and row.kind != "view":
            continue
        what = _counter(row, schema, announced) if row.kind == "sequence" else (
            _removed(row, schema, announced, gone) if row.change == "removed" else _changed(row, announced))
        if what:
            where = row.table if row.kind in ("table", "sequence") else f"{row.table}.{row.name}"
            yield LostObject(row.kind, where, what)


def _changed(row: Difference, announced: Announced) -> str:
    before, after = _without_literals(row.before), _without_literals(row.after)
    gone = [word for word in _ATTRIBUTES if word in before and word not in after and not announced.script.mentions(
        _ATTRIBUTES[word], row.table, row.name if row.kind == "column" else "")]
    if not gone or _is_dropped(row, announced):
        return ""
    return f"{row.kind} {row.name} of {row.table}: {', '.join(gone)} gone ({row.before} → {row.after})"


def _removed(row: Difference, schema: list[Difference], announced: Announced, gone: list[tuple[str, str]]) -> str:
    if row.kind in ("table", "column", "primary key") or _is_dropped(row, announced) or _uses(row, gone):
        return ""
    table = announced.renamed.get(row.table, row.table)
    again = [other for other in schema if (other.change, other.kind, other.table) == ("added", row.kind, table)]
    if any(other.after == row.before or row.kind == "trigger" and other.name == row.name for other in again):
        return ""  # the same under another name, or on a table under another name
    for other in again:
        if row.kind == "foreign key" and _target(other.after) == _target(row.before):
            lost = [word for word in _ATTRIBUTES if word in row.before and word not in other.after]
            return f"foreign key {row.name} of {row.table}: {', '.join(lost)} gone" if lost else ""
    text = " ".join(row.before.split())
    return f"{row.kind} {row.name} of {row.table} gone: {text if len(text) <= 160 else text[:157] + '…'}"


def _counter(row: Difference, schema: list[Difference], announced: Announced) -> str:
    """Tell of AUTOINCREMENT's counter when it went back: ids that rows once had are given again."""
    ended = any((other.kind, other.table) == ("table", row.table) for other in schema)  # told as AUTOINCREMENT gone
    after = 0 if row.change == "removed" else int(row.after)
    if announced.sequences or ended or after >= int(row.before) or row.table in announced.renamed:
        return ""
    return f"AUTOINCREMENT's counter of {row.table} went back from {row.before} to {after}: ids are given again"


def _is_dropped(row: Difference, announced: Announced) -> bool:
    unnamed = row.name == row.before or row.name.startswith("(")
    return ((row.kind, fold(row.name)) in announced.drops
            or announced.script.drops(row.kind, row.name, row.table, unnamed=unnamed))


def _target(definition: str) -> str:
    return re.split(r"\s+(?:ON (?:DELETE|UPDATE)|DEFERRABLE|NOT DEFERRABLE|MATCH)\b", definition)[0]


def _uses(row: Difference, gone: list[tuple[str, str]]) -> bool:
    """Whether an object stood on a column that the revision took away with it."""
    if row.kind in ("trigger", "view"):
        return False
    return any(table == row.table and re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", row.before)
               for table, name in gone)


def _without_literals(definition: str) -> str:
    return re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", "''", definition)
