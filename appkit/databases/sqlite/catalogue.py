"""What a SQLite database says of itself.

PRAGMAs tell most of it. Collations, ON CONFLICT, DEFERRABLE, CHECKs, constraint names and AUTOINCREMENT stand only in
the CREATE statements that SQLite stores as they were typed, which `definitions` takes apart.
"""
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from appkit.databases import KINDS, Column, Entry, Table, fold
from appkit.databases.sqlite.definitions import Look, TableText
from appkit.databases.sqlite.naming import quote
from appkit.databases.sqlite.tokens import render, without_quotes, Words


@dataclass(frozen=True)
class _Known:
    """What was found out of a table or a view, and all that it was found out from."""

    rows: tuple[tuple[str, str, str, str | None], ...]  # of sqlite_master: itself and what is on it
    look: Look | None
    others: dict[str, Table | None]  # the tables that its foreign keys name, as they stood
    entries: dict[str, tuple[Entry, ...]]  # by table: a trigger may spell the name of its view otherwise


@dataclass(frozen=True)
class Structure:
    """What a database says of itself at one moment; the next look takes from it what no change can have reached."""

    tables: list[Table]  # as `read_tables` lists them
    by_table: dict[str, tuple[Entry, ...]]  # as `read_catalogue` lists them
    storage: dict[str, int]  # where each table is stored: at another root page, it was written anew
    known: dict[str, _Known]  # by folded name

    @property
    def entries(self) -> list[Entry]:
        """Every object, sorted by table, kind and name."""
        return [entry for entries in self.by_table.values() for entry in entries]


def read_tables(connection: Connection) -> list[Table]:
    """List the tables that hold rows, as a comparison needs to know them.

    Virtual tables are in it, the shadow tables behind them, views and SQLite's own tables are not; sorted by name.
    A virtual table whose module is not loaded cannot be read: then it is left out, and its shadow tables are in it.
    """
    rows, _ = _read_master(connection)
    return _tables(_look(connection, rows, {}), rows)


def read_catalogue(connection: Connection) -> list[Entry]:
    """List every object of the database, sorted by table, kind and name.

    A view's table is the view itself, so that its INSTEAD OF triggers stand beside it. A constraint without a name
    is called by its columns, or by its expression. Definitions are in one spelling: white space, comments, the
    quotes of identifiers, the case of keywords and what is the default anyway make no difference.
    """
    return read_structure(connection).entries


def read_structure(connection: Connection, before: Structure | None = None) -> Structure:
    """Give what `read_tables` and what `read_catalogue` give, with one look.

    With an earlier look, only those tables are looked at whose stored statements differ, or whose parents do; virtual
    tables always, for what they are is up to their modules.
    """
    rows, storage = _read_master(connection)
    known = before.known if before else {}
    looks = _look(connection, rows, known)
    seen = {name: look.table for name, look in looks.items()}
    found = {name: _know(rows[name], looks.get(name), seen, known.get(name)) for name in rows}
    by_table = {table: entries for each in found.values() for table, entries in each.entries.items()}
    if "sqlite_sequence" in rows:
        for entry in _sort_and_number(_sequence_entries(connection)):
            by_table[entry.table] = (*by_table.get(entry.table, ()), entry)
    return Structure(_tables(looks, rows), dict(sorted(by_table.items())), storage, found)


def _read_master(connection: Connection) -> tuple[dict[str, tuple], dict[str, int]]:
    """Give the rows of sqlite_master by the table or view that they are, or are on, and each table's root page."""
    rows: dict[str, tuple] = {}
    storage = {}
    found = connection.exec_driver_sql("SELECT type, name, tbl_name, sql, rootpage FROM main.sqlite_master").all()
    for kind, name, on, sql, page in found:
        folded = fold(on)
        rows[folded] = (*rows.get(folded, ()), (kind, name, on, sql))
        if kind == "table":
            storage[name] = page
    return rows, storage


def _know(rows: tuple, look: Look | None, tables: dict[str, Table], known: _Known | None) -> _Known:
    """Give the entries of a table, or of a view, and of what is on it."""
    if known and known.look is look and known.rows == rows and not (
            known.others and any(tables.get(name) != table for name, table in known.others.items())):
        return known
    text = TableText(look, tables) if look else None
    found: dict[str, list[Entry]] = {}
    for entry in _sort_and_number([*(text.entries() if text else ()), *_other_entries(rows, text)]):
        found.setdefault(entry.table, []).append(entry)
    return _Known(rows, look, text.others if text else {}, {table: tuple(found[table]) for table in found})


def _tables(looks: dict[str, Look], rows: dict[str, tuple]) -> list[Table]:
    """Give the tables that can be read, their parents spelt as these spell themselves."""
    names = {name: row[1] for name, of_table in rows.items() for row in of_table if row[0] == "table"}
    tables = []
    for look in looks.values():
        if look.parents:
            parents = {names.get(fold(parent), parent) for parent in look.parents}
            tables.append(look.table._replace(parents=tuple(sorted(parents))))
        elif look.table.columns:
            tables.append(look.table)
    return sorted(tables)


def _sort_and_number(entries: Iterable[Entry]) -> list[Entry]:
    """Sort the entries, and tell those of one name apart: SQLite lets two constraints have the same name."""
    seen: Counter[tuple[str, str, str]] = Counter()
    result = []
    for entry in sorted(entries, key=lambda entry: (entry.table, KINDS.index(entry.kind), *entry[2:])):
        seen[entry[:3]] += 1
        again = seen[entry[:3]]
        result.append(entry if again == 1 else entry._replace(name=f"{entry.name} #{again}"))
    return result


def _look(connection: Connection, rows: dict[str, tuple], known: dict[str, _Known]) -> dict[str, Look]:
    """Look at every table, by folded name, or take what is known of one that is as it was."""
    looks, tables = {}, {}
    for folded, of_table in rows.items():
        before = known.get(folded)
        if before and before.look and not before.look.virtual and before.rows == of_table:
            looks[folded] = before.look
        elif not folded.startswith("sqlite_"):
            tables.update({name: sql or "" for kind, name, _, sql in of_table if kind == "table"})
    virtual = {name for name, sql in tables.items() if Words(sql).skip("CREATE", "VIRTUAL")}
    shadows = {fold(name) for name in _shadows(connection, virtual)}
    for name, sql in tables.items():
        looks[fold(name)] = _look_at(connection, name, sql, virtual=name in virtual)
    return {folded: look for folded, look in looks.items() if folded not in shadows}


def _shadows(connection: Connection, virtual: set[str]) -> set[str]:
    """Name the tables in which virtual tables keep their content."""
    if not virtual:
        return set()
    version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
    if tuple(map(int, version.split("."))) >= (3, 37):
        rows = connection.exec_driver_sql("PRAGMA main.table_list").all()
        return {name for schema, name, kind, *_ in rows if kind == "shadow"}
    # SQLite before 3.37 cannot be asked: these are the endings that FTS and R-Tree use.
    endings = ("data idx content docsize config segments segdir stat node parent rowid").split()
    return {f"{name}_{ending}" for name in virtual for ending in endings}


def _look_at(connection: Connection, name: str, sql: str, *, virtual: bool) -> Look:
    infos = _columns(connection, name, virtual=virtual)
    indexes = _pragma(connection, "index_list", name)
    key = tuple(row.name for row in sorted(infos, key=lambda row: row.pk) if row.pk)
    # A primary key without an index of its own is the rowid, which is never NULL.
    rowid = bool(key) and not virtual and all(index.origin != "pk" for index in indexes)
    columns = tuple(Column(row.name, row.type, not (row.notnull or rowid and row.pk), row.hidden in (2, 3))
                    for row in infos)
    parents = {row.table for row in _pragma(connection, "foreign_key_list", name)}
    uniques = {unique for index in indexes if (unique := _unique_columns(connection, index))} - {key}
    table = Table(name, columns, key, tuple(sorted(uniques)), ())
    return Look(table, sql, tuple(row.dflt_value for row in infos), frozenset(parents), virtual)


def _columns(connection: Connection, name: str, *, virtual: bool) -> list:
    try:
        return [row for row in _pragma(connection, "table_xinfo", name) if row.hidden != 1]
    except DatabaseError:
        if not virtual:
            raise
        return []  # no such module, or its shadow tables are gone


def _unique_columns(connection: Connection, index) -> tuple[str, ...]:
    """Give the columns of a unique index; nothing when it is not one, is partial or is on an expression."""
    if not index.unique or index.partial or index.origin == "pk":
        return ()
    columns = [row.name for row in _pragma(connection, "index_xinfo", index.name) if row.key]
    return () if None in columns else tuple(columns)


def _pragma(connection: Connection, pragma: str, name: str) -> list:
    result = connection.exec_driver_sql(f"PRAGMA main.{pragma}({quote(name)})")
    return list(result.all()) if result.returns_rows else []


def _other_entries(rows: tuple, text: TableText | None) -> Iterator[Entry]:
    for kind, name, on, sql in rows:
        if kind == "table" or sql is None:
            continue
        words = Words(sql)
        unique = words.peek(1) == "UNIQUE"
        words.pass_head()
        definition = _index_definition(words, text, unique) if kind == "index" and text else render(words.rest())
        yield Entry(kind, text.table.name if text else on, name, definition)


def _index_definition(words: Words, text: TableText, unique: bool) -> str:
    words.skip("ON")
    words.name()
    definition = ("UNIQUE " if unique else "") + text.key_parts(words.group())
    if words.skip("WHERE"):
        definition += f" WHERE {render(without_quotes(words.rest()), text.names)}"
    return definition


def _sequence_entries(connection: Connection) -> Iterator[Entry]:
    for table, number in connection.exec_driver_sql("SELECT name, seq FROM main.sqlite_sequence").all():
        yield Entry("sequence", str(table), "sqlite_sequence", str(number))
