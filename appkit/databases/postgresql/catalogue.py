"""What a PostgreSQL database says of itself."""
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection

from appkit.databases import KINDS, Column, Entry, Table
from appkit.databases.postgresql import definitions, queries
from appkit.databases.postgresql.naming import quote
from appkit.databases.postgresql.settings import fixed_settings

_CONSTRAINTS = {"p": "primary key", "f": "foreign key", "u": "unique", "c": "check", "x": "exclusion"}
_RELATIONS = {"r": "table", "p": "table", "f": "table", "v": "view", "m": "materialized view"}


class _Known(NamedTuple):
    """What was found out of a relation."""

    name: str
    table: Table | None  # where it holds rows
    storage: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Structure:
    """What a database says of itself at one moment; the next look takes from it what no change can have reached."""

    tables: list[Table]  # as `read_tables` lists them
    by_table: dict[str, tuple[Entry, ...]]  # as `read_catalogue` lists them
    storage: dict[str, int]  # where each table is stored: in another file, it was written anew or emptied
    known: dict[int, _Known]  # by oid
    marks: dict[int, str]  # of every relation by oid: another one when its rows in the catalogue are others
    parts: dict[str, list[tuple[Entry, ...]]]  # as they were found, by table
    world: tuple  # what a text may depend on beside relations

    @property
    def entries(self) -> list[Entry]:
        """Every object, sorted by table, kind and name."""
        return [entry for entries in self.by_table.values() for entry in entries]


def read_tables(connection: Connection) -> list[Table]:
    """List the tables that hold rows, as a comparison needs to know them; sorted by name.

    A partitioned table holds none: its partitions do. Foreign and temporary tables, and those that an extension
    brought, are not in it.
    """
    return read_structure(connection).tables


def read_catalogue(connection: Connection) -> list[Entry]:
    """List every object of the database, sorted by table, kind and name.

    What has no table stands for itself, and so does a view. Of an extension there is one entry, and none of what it
    brought. Definitions are the server's own words, whatever the session's settings, without what is the default
    anyway and without the object's own name. A sequence's definition is the number that it gave last.
    """
    return read_structure(connection).entries


def read_structure(connection: Connection, before: Structure | None = None) -> Structure:
    """Give what `read_tables` and what `read_catalogue` give, with one look.

    With an earlier look, only those relations are looked at whose rows in PostgreSQL's catalogue are others now, and
    those that depend on them.
    """
    with fixed_settings(connection) as schema:
        return _Look(connection, schema).structure(before)


class _Look:
    """One look at the catalogue."""

    def __init__(self, connection: Connection, schema: str | None) -> None:
        self._connection = connection
        self._schema = schema
        self._namespaces = dict(self._rows(queries.NAMESPACES))
        self._members = set(self._rows(queries.MEMBERS))
        self._comments: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
        for place, oid, part, comment in self._rows(queries.COMMENTS):
            self._comments[place, oid].append((part, comment))

    def structure(self, before: Structure | None) -> Structure:
        """Give all that the database says, what is as before taken from an earlier look."""
        marks = dict(self._rows(queries.PRINTS))
        objects = self._rows(queries.OBJECTS)
        world = (self._schema, self._namespaces, self._members, self._comments, sorted(objects))
        if before and before.world == world:
            changed = self._changed(before.marks, marks)
            same = {oid: each for oid, each in before.known.items() if oid in marks and oid not in changed}
            known = same | (self._read(changed) if changed else {})
        else:
            known = self._read()
        parts: dict[str, list[tuple[Entry, ...]]] = defaultdict(list)
        for each in known.values():
            parts[each.name].append(each.entries)
        for entry in (*self._objects(objects), *self._sequences(known)):
            parts[entry.table].append((entry,))
        old = before.parts if before else {}
        by_table = {name: before.by_table[name] if old.get(name) == parts[name] else tuple(_sort(chain(*parts[name])))
                    for name in sorted(parts)}
        holding = [each for each in known.values() if each.table]
        return Structure(sorted(each.table for each in holding), by_table,
                         {each.name: each.storage for each in holding}, known, marks, parts, world)

    def _changed(self, before: dict[int, str], now: dict[int, str]) -> set[int]:
        """Give the relations that are new or others, and those whose texts may name one that is another."""
        changed = {oid for oid, mark in now.items() if before.get(oid) != mark}
        others = ",".join(map(str, changed & before.keys()))
        dependents = self._rows(queries.DEPENDENTS.replace("{some}", f"{{{others}}}")) if others else []
        return changed | {oid for oid, in dependents if oid}

    def _read(self, oids: Collection[int] | None = None) -> dict[int, _Known]:
        """Look at some relations, or at all."""
        some = "" if oids is None else f"AND c.oid = ANY ('{{{','.join(map(str, oids))}}}')"
        parts = [self._grouped(query.replace("{some}", some), place) for query, place in (
            (queries.COLUMNS, 0), (queries.CONSTRAINTS, 2), (queries.INDEXES, 2), (queries.OTHERS, 2))]
        return {row[0]: self._know(_Relation(*row), *(rows.get(row[0], []) for rows in parts))
                for row in self._rows(queries.RELATIONS.replace("{some}", some))
                if row[1] in self._namespaces and ("pg_class", row[0]) not in self._members}

    def _know(self, relation: "_Relation", columns: list, constraints: list, indexes: list, others: list) -> _Known:
        name, schema = self._name(relation.namespace, relation.name)
        kind = _RELATIONS[relation.kind]
        entries = [Entry(kind, name, name, relation.definition()), *self._comment("pg_class", relation.oid, name, kind)]
        for row in columns:
            if kind == "table":
                entries.append(Entry("column", name, row[2], " ".join(filter(None, (row[3], row[6])))))
            entries += self._comment("pg_class", relation.oid, name, f"column {row[2]}", row[1])
        parents = {row[1]: self._name(row[6], row[7])[0] for row in constraints if row[7] is not None}
        parts = [(*row[:2], _CONSTRAINTS[row[3]], row[4], definitions.constraint(row[5], parents.get(row[1], "")))
                 for row in constraints]
        parts += [(*row[:2], "index", row[4], definitions.index(row[5])) for row in indexes if row[5] is not None]
        parts += [(*row[:2], *row[3:5], row[5] if row[3] == "policy" else definitions.made(row[5])) for row in others]
        for place, oid, kind, own, definition in parts:
            entries += [Entry(kind, name, own, definition), *self._comment(place, oid, name, f"{kind} {own}")]
        table = _table(name, schema, columns, indexes, parents.values()) if relation.kind == "r" else None
        return _Known(name, table, relation.storage, tuple(entries))

    def _comment(self, place: str, oid: int, table: str, what: str, part: int = 0) -> Iterator[Entry]:
        for at, comment in self._comments.get((place, oid), ()):
            if at == part:
                yield Entry("comment", table, what, comment)

    def _objects(self, rows: list[tuple]) -> Iterator[Entry]:
        """Give what stands beside relations."""
        for place, oid, namespace, kind, name, definition in rows:
            if (place, oid) not in self._members and (not namespace or namespace in self._namespaces):
                name = self._name(namespace, name)[0] if namespace else name
                if kind in ("function", "procedure"):  # a DROP may leave the arguments out
                    yield Entry(kind, name, name.partition("(")[0], definitions.function(definition))
                else:
                    yield Entry(kind, name, name, definition)
                if kind != "extension":  # whose comment is its own, not a user's
                    yield from self._comment(place, oid, name, kind)

    def _sequences(self, known: dict[int, _Known]) -> Iterator[Entry]:
        """Give the sequences, at the table that owns each, and the number that each gave last."""
        rows = [row for row in self._rows(queries.SEQUENCES)
                if row[1] in self._namespaces and ("pg_class", row[0]) not in self._members]
        positions = self._positions([row for row in rows if row[6]])
        for oid, namespace, bare, owner, definition, *_ in rows:
            name = self._name(namespace, bare)[0]
            table = known[owner].name if owner in known else name
            yield Entry("sequence options", table, name, definition)
            if oid in positions:
                yield Entry("sequence", table, name, positions[oid])
            yield from self._comment("pg_class", oid, table, f"sequence {name}")

    def _positions(self, sequences: list[tuple]) -> dict[int, str]:
        if self._connection.dialect.server_version_info >= (18,):
            return dict(self._rows(queries.POSITIONS_18))
        asked = [queries.POSITION.format(oid=oid, step=step, path=f"{quote(self._namespaces[namespace])}.{quote(name)}")
                 for oid, namespace, name, _, _, step, _ in sequences]
        return dict(self._rows(" UNION ALL ".join(asked))) if asked else {}

    def _name(self, namespace: int, name: str) -> tuple[str, str]:
        """Give the name that users see, and the schema in front of it.

        A name with a point in it that reads as another schema's keeps its own in front.
        """
        schema = self._namespaces[namespace]
        if schema == self._schema and name.partition(".")[0] not in set(self._namespaces.values()) - {name}:
            return name, ""
        return f"{schema}.{name}", schema

    def _grouped(self, statement: str, place: int) -> dict[int, list[tuple]]:
        found: dict[int, list[tuple]] = defaultdict(list)
        for row in self._rows(statement):
            found[row[place]].append(row)
        return found

    def _rows(self, statement: str) -> list[tuple]:
        return [tuple(row) for row in self._connection.exec_driver_sql(statement.replace("%", "%%"))]


class _Relation(NamedTuple):
    """A row of `queries.RELATIONS`."""

    oid: int
    namespace: int
    name: str
    kind: str
    storage: int
    options: str
    body: str | None
    populated: bool

    def definition(self) -> str:
        """Give what the relation is, beside its columns."""
        return " ".join(filter(None, (self.options, self.body, "" if self.populated else "WITH NO DATA")))


def _table(name: str, schema: str, columns: list, indexes: list, parents: Iterable[str]) -> Table:
    names = {row[1]: row[2] for row in columns}
    keys = [(row[6], tuple(names[int(number)] for number in row[7].split()[:row[8]])) for row in indexes if row[9]]
    key = next((columns for primary, columns in keys if primary), ())
    uniques = {columns for _, columns in keys} - {key}
    return Table(name, tuple(Column(row[2], row[3], not row[4], row[5]) for row in columns), key,
                 tuple(sorted(uniques)), tuple(sorted(set(parents))), schema)


def _sort(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Sort the entries of a table, and tell those of one name apart: two rules or types may have it."""
    seen: Counter[tuple[str, str]] = Counter()
    for entry in sorted(entries, key=lambda entry: (KINDS.index(entry.kind), *entry[2:])):
        seen[entry.kind, entry.name] += 1
        again = seen[entry.kind, entry.name]
        yield entry if again == 1 else entry._replace(name=f"{entry.name} #{again}")
