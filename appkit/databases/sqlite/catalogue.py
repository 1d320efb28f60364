"""What a SQLite database says of itself.

PRAGMAs tell most of it. Collations, ON CONFLICT, DEFERRABLE, CHECKs, constraint names and AUTOINCREMENT stand only in
the CREATE statements that SQLite stores as they were typed, which `definitions` takes apart.
"""
from collections import Counter
from collections.abc import Iterable, Iterator

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from appkit.databases import KINDS, Column, Entry, Table, fold
from appkit.databases.sqlite.definitions import Look, TableText
from appkit.databases.sqlite.naming import quote
from appkit.databases.sqlite.tokens import render, without_quotes, Words


def read_tables(connection: Connection) -> list[Table]:
    """List the tables that hold rows, as a comparison needs to know them.

    Virtual tables are in it, the shadow tables behind them, views and SQLite's own tables are not; sorted by name.
    A virtual table whose module is not loaded cannot be read: then it is left out, and its shadow tables are in it.
    """
    return _readable(_look(connection))


def _readable(looks: list[Look]) -> list[Table]:
    return [look.table for look in looks if look.table.columns]


def read_catalogue(connection: Connection) -> list[Entry]:
    """List every object of the database, sorted by table, kind and name.

    A view's table is the view itself, so that its INSTEAD OF triggers stand beside it. A constraint without a name
    is called by its columns, or by its expression. Definitions are in one spelling: white space, comments, the
    quotes of identifiers, the case of keywords and what is the default anyway make no difference.
    """
    return read_structure(connection)[1]


def read_structure(connection: Connection) -> tuple[list[Table], list[Entry]]:
    """Give what `read_tables` and what `read_catalogue` give, with one look."""
    looks = _look(connection)
    tables = {fold(look.table.name): look.table for look in looks}
    texts = {fold(look.table.name): TableText(look, tables) for look in looks}
    entries = [entry for text in texts.values() for entry in text.entries()]
    entries += [*_other_entries(connection, texts), *_sequence_entries(connection)]
    return _readable(looks), _sort_and_number(entries)


def _sort_and_number(entries: Iterable[Entry]) -> list[Entry]:
    """Sort the entries, and tell those of one name apart: SQLite lets two constraints have the same name."""
    seen: Counter[tuple[str, str, str]] = Counter()
    result = []
    for entry in sorted(entries, key=lambda entry: (entry.table, KINDS.index(entry.kind), *entry[2:])):
        seen[entry[:3]] += 1
        again = seen[entry[:3]]
        result.append(entry if again == 1 else entry._replace(name=f"{entry.name} #{again}"))
    return result


def _look(connection: Connection) -> list[Look]:
    rows = connection.exec_driver_sql("SELECT name, sql FROM main.sqlite_master WHERE type = 'table'").all()
    tables = {name: sql or "" for name, sql in rows if not fold(name).startswith("sqlite_")}
    virtual = {name for name, sql in tables.items() if Words(sql).skip("CREATE", "VIRTUAL")}
    shadows = _shadows(connection, virtual)
    names = {fold(name): name for name in tables}
    return [_look_at(connection, name, tables[name], names=names, virtual=name in virtual)
            for name in sorted(tables) if name not in shadows]


def _shadows(connection: Connection, virtual: set[str]) -> set[str]:
    """Name the tables in which virtual tables keep their content."""
    version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
    if tuple(map(int, version.split("."))) >= (3, 37):
        rows = connection.exec_driver_sql("PRAGMA main.table_list").all()
        return {name for schema, name, kind, *_ in rows if kind == "shadow"}
    # SQLite before 3.37 cannot be asked: these are the endings that FTS and R-Tree use.
    endings = ("data idx content docsize config segments segdir stat node parent rowid").split()
    return {f"{name}_{ending}" for name in virtual for ending in endings}


def _look_at(connection: Connection, name: str, sql: str, *, names: dict[str, str], virtual: bool) -> Look:
    infos = _columns(connection, name, virtual=virtual)
    indexes = _pragma(connection, "index_list", name)
    key = tuple(row.name for row in sorted(infos, key=lambda row: row.pk) if row.pk)
    # A primary key without an index of its own is the rowid, which is never NULL.
    rowid = bool(key) and not virtual and all(index.origin != "pk" for index in indexes)
    columns = tuple(Column(row.name, row.type, not (row.notnull or rowid and row.pk), row.hidden in (2, 3))
                    for row in infos)
    parents = {names.get(fold(row.table), row.table) for row in _pragma(connection, "foreign_key_list", name)}
    uniques = {unique for index in indexes if (unique := _unique_columns(connection, index))} - {key}
    table = Table(name, columns, key, tuple(sorted(uniques)), tuple(sorted(parents)))
    return Look(table, sql, tuple(row.dflt_value for row in infos), virtual)


def _columns(connection: Connection, name: str, *, virtual: bool) -> list:
    try:
        return [row for row in _pragma(connection, "table_xinfo", name) if row.hidden != 1]
    except OperationalError:
        if not virtual:
            raise
        return []  # no such module


def _unique_columns(connection: Connection, index) -> tuple[str, ...]:
    """Give the columns of a unique index; nothing when it is not one, is partial or is on an expression."""
    if not index.unique or index.partial or index.origin == "pk":
        return ()
    columns = [row.name for row in _pragma(connection, "index_xinfo", index.name) if row.key]
    return () if None in columns else tuple(columns)


def _pragma(connection: Connection, pragma: str, name: str) -> list:
    result = connection.exec_driver_sql(f"PRAGMA main.{pragma}({quote(name)})")
    return list(result.all()) if result.returns_rows else []


def _other_entries(connection: Connection, texts: dict[str, "TableText"]) -> Iterator[Entry]:
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM main.sqlite_master "
                                      "WHERE type <> 'table' AND sql IS NOT NULL").all()
    for kind, name, on, sql in rows:
        text = texts.get(fold(on))
        words = Words(sql)
        unique = words.peek(1) == "UNIQUE"
        words.pass_head()
        definition = _index_definition(words, text, unique) if kind == "index" and text else render(words.rest())
        yield Entry(kind, text.table.name if text else on, name, definition)


def _index_definition(words: "Words", text: "TableText", unique: bool) -> str:
    words.skip("ON")
    words.name()
    definition = ("UNIQUE " if unique else "") + text.key_parts(words.group())
    if words.skip("WHERE"):
        definition += f" WHERE {render(without_quotes(words.rest()), text.names)}"
    return definition


def _sequence_entries(connection: Connection) -> Iterator[Entry]:
    exists = connection.exec_driver_sql("SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'").first()
    if exists:
        for table, number in connection.exec_driver_sql("SELECT name, seq FROM main.sqlite_sequence").all():
            yield Entry("sequence", str(table), "sqlite_sequence", str(number))
