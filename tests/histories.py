"""Random databases with random histories of revisions, and what each revision means: which column continues which."""
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

TYPES = {"INTEGER": "sa.Integer()", "BIGINT": "sa.BigInteger()", "VARCHAR(20)": "sa.String(20)", "TEXT": "sa.Text()",
         "FLOAT": "sa.Float()", "NUMERIC(10, 2)": "sa.Numeric(10, 2)", "BLOB": "sa.LargeBinary()",
         "BOOLEAN": "sa.Boolean()", "DATETIME": "sa.DateTime()"}
NAMES = ["user", "order", "a b", 'q"uote', "x'y", "größe", "se;mi", "com,ma", "1st", "(paren", "a FROM b", "x AS y",
         "select", "<b>", "[br]", "`tick`", "UPPER", "back\\slash", "über", "a-b", "null", "t", "id2", "name", "code",
         "c1", "c2", "c3", "c4", "c5", "key0", "place", "n", "k0", "b", "g", "rowid2", "b.c0", "a->b", "new\nline"]
TRICKY = [0, 1, -1, 7, 2**53, 2**53 + 1, 2**63 - 1, -2**63, 1.0, -0.0, 0.1 + 0.2, 1.5, 1e16, 1e-5, 9e18, 2.0**63, 1e300,
          float("inf"), float("-inf"), "", " ", "1", "1.0", "007", "7", "1e3", "1e+16", "inf", "-0.0",
          "abc", "ABC", "a\0b",
          "\0", "größe", "𝄞", "2026-01-02", "a" * 30, "true", "NULL", "+1", " 1", b"", b"1", b"\xff", b"a\0b"]


class BadText(bytes):
    """Text whose bytes are no UTF-8, as SQLite lets in."""


values = st.one_of(
    st.none(), st.sampled_from(TRICKY), st.integers(-3, 3), st.integers(-2**63, 2**63 - 1),
    st.floats(allow_nan=False), st.text(max_size=4), st.binary(max_size=3),
    st.sampled_from([BadText(b"\xff"), BadText(b"a\xc3"), BadText(b"\xed\xa0\x80")]))


@dataclass
class Table:
    """A table as the generator knows it."""

    name: str
    columns: dict[str, str]  # type by name
    key: tuple[str, ...] = ()
    required: set[str] = field(default_factory=set)
    parents: dict[str, tuple[str, str]] = field(default_factory=dict)  # column: parent table, ON DELETE action


@dataclass
class Revision:
    """A revision's statements in Python, and where the tables and columns after it come from."""

    lines: list[str] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)  # table after: table before
    columns: dict[str, dict[str, str]] = field(default_factory=dict)  # by table after: column after: column before
    by_hand: set[str] = field(default_factory=set)  # tables after that were made and filled by hand from their origin


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """Write a value as SQL that gives exactly it."""
    if value is None:
        return "NULL"
    if isinstance(value, BadText):
        return f"CAST(x'{value.hex()}' AS TEXT)"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return f"CAST(x'{value.encode().hex()}' AS TEXT)"
    return {"inf": "9e999", "-inf": "-9e999"}.get(repr(value), repr(value))


class History:
    """A database, made by `setup`, and the revisions that follow; drawn from hypothesis."""

    def __init__(self, draw: Callable, length: int) -> None:
        self.draw, self.setup, self.tables, self.serial = draw, [], {}, 0
        self.names = iter(draw(st.permutations(NAMES)))
        for number in range(draw(st.integers(2, 4))):
            self._populate(self._table(number))
        self.revisions = [self._revision() for _ in range(length)]

    # ---- the database

    def _name(self) -> str:
        self.serial += 1
        return next(self.names, None) or f"name {self.serial}"

    def _table(self, number: int) -> Table:
        key = self.draw(st.sampled_from(["integer", "integer", "text", "two", "none", "unique"]))
        types = self.draw(st.lists(st.sampled_from(list(TYPES)), min_size=2, max_size=4))
        table = Table(self._name(), {self._name(): type_ for type_ in types})
        if key != "none":
            table.columns = {self._name(): "VARCHAR(20)" if key == "text" else "INTEGER", **table.columns}
            table.key = tuple(list(table.columns)[:2 if key == "two" else 1]) if key != "unique" else ()
        table.required = set(self.draw(st.sets(st.sampled_from(list(table.columns)), max_size=1)))
        if key == "integer":
            table.required.add(table.key[0])
        parents = [other for other in self.tables.values() if len(other.key) == 1]
        if parents and self.draw(st.booleans()):
            column, parent = list(table.columns)[-1], self.draw(st.sampled_from(parents))
            table.columns[column] = parent.columns[parent.key[0]]
            table.required.discard(column)
            table.parents[column] = parent.name, self.draw(st.sampled_from(["CASCADE", "SET NULL"]))
        if key == "unique":
            first = quoted(next(iter(table.columns)))
            self.setup.append(f"CREATE UNIQUE INDEX ux{number} ON {quoted(table.name)} ({first})")
        self.setup.insert(len(self.setup) - (key == "unique"), self._create(table))
        self.tables[table.name] = table
        return table

    def _create(self, table: Table) -> str:
        parts = [f"{quoted(name)} {type_}{' NOT NULL' if name in table.required else ''}"
                 for name, type_ in table.columns.items()]
        if table.key:
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, table.key))})")
        for column, (parent, action) in table.parents.items():
            target = quoted(self.tables[parent].key[0])
            parts.append(f"FOREIGN KEY ({quoted(column)}) REFERENCES {quoted(parent)} ({target}) ON DELETE {action}")
        return f"CREATE TABLE {quoted(table.name)} ({', '.join(parts)})"

    def _populate(self, table: Table) -> None:
        for _ in range(self.draw(st.integers(0, 5))):
            self.setup.append(self._insert(table))

    def _insert(self, table: Table) -> str:
        row = [self._value(table, column) for column in table.columns]
        return f"INSERT OR IGNORE INTO {quoted(table.name)} VALUES ({', '.join(row)})"

    def _value(self, table: Table, column: str) -> str:
        if column in table.parents:
            parent = self.tables[table.parents[column][0]]
            place = self.draw(st.integers(0, 3))
            return f"(SELECT {quoted(parent.key[0])} FROM {quoted(parent.name)} ORDER BY 1 LIMIT 1 OFFSET {place})"
        if table.key == (column,) and table.columns[column] == "INTEGER":
            return literal(self.draw(st.sampled_from([1, 2, 3, 4, 5, 2**53, 2**53 + 1, 2**63 - 1, -1])))
        return literal(self.draw(values))

    # ---- the revisions

    def _revision(self) -> Revision:
        self.now = Revision(origin={name: name for name in self.tables},
                            columns={name: {column: column for column in table.columns}
                                     for name, table in self.tables.items()})
        operations = [self.add, self.drop, self.rename, self.retype, self.fill, self.loosen, self.update, self.update,
                      self.delete, self.insert, self.recreate, self.rename_table, self.create, self.drop_table,
                      self.copy_table, self.carry, self.copy, self.swap, self.widen_key, self.drop_key, self.new_key]
        for operation in self.draw(st.lists(st.sampled_from(operations), min_size=1, max_size=2)):
            if self.tables:
                operation(self.tables[self.draw(st.sampled_from(sorted(self.tables)))])
        return self.now

    def _raw(self, *statements: str) -> None:
        self.now.lines += [f"op.get_bind().exec_driver_sql({statement!r})" for statement in statements]

    def _batch(self, table: Table, *calls: str) -> None:
        always = ", recreate='always'" if not calls or self.draw(st.booleans()) else ""
        self.now.lines.append(f"with op.batch_alter_table({table.name!r}{always}) as batch:")
        self.now.lines += [f"    batch.{call}" for call in calls] or ["    pass"]

    def _plain_columns(self, table: Table) -> list[str]:
        """The columns that nothing else depends on."""
        keyless = not table.key
        used = {*table.key, *table.parents, *(list(table.columns)[:1] if keyless else [])}
        return [name for name in table.columns if name not in used]

    def _referenced(self, table: Table) -> bool:
        return any(parent == table.name for other in self.tables.values() for parent, _ in other.parents.values())

    def _some(self, names: list[str]) -> str | None:
        return self.draw(st.sampled_from(names)) if names else None

    def _sentinel(self, type_: str) -> str:
        """Give a value that no other column has: what agrees by chance would look like what was copied."""
        self.serial += 1
        return f"d{self.serial}" if type_ in ("TEXT", "VARCHAR(20)") else str(900_000_000 + self.serial)

    def add(self, table: Table) -> None:
        name, type_ = self._name(), self.draw(st.sampled_from(list(TYPES)))
        default = f", server_default={self._sentinel(type_)!r}" if self.draw(st.booleans()) else ""
        column = f"sa.Column({name!r}, {TYPES[type_]}{default})"
        if self.draw(st.booleans()):
            self._batch(table, f"add_column({column})")
        else:
            self.now.lines.append(f"op.add_column({table.name!r}, {column})")
        table.columns[name] = type_

    def drop(self, table: Table) -> None:
        if name := self._some(self._plain_columns(table)):
            self._batch(table, f"drop_column({name!r})")
            self._forget(table, name)

    def _forget(self, table: Table, name: str) -> None:
        del table.columns[name]
        table.required.discard(name)
        self.now.columns[table.name].pop(name, None)

    def rename(self, table: Table) -> None:
        name, new = self._some([name for name in table.columns if name not in table.parents]), self._name()
        if name in table.key and self._referenced(table) or name is None:
            return
        if self.draw(st.booleans()):
            self._batch(table, f"alter_column({name!r}, new_column_name={new!r})")
        else:
            self._raw(f"ALTER TABLE {quoted(table.name)} RENAME COLUMN {quoted(name)} TO {quoted(new)}")
        self._renamed(table, {name: new})

    def _renamed(self, table: Table, new: dict[str, str]) -> None:
        table.columns = {new.get(name, name): type_ for name, type_ in table.columns.items()}
        table.key = tuple(new.get(name, name) for name in table.key)
        table.required = {new.get(name, name) for name in table.required}
        origins = self.now.columns[table.name]
        self.now.columns[table.name] = {new.get(name, name): was for name, was in origins.items()}

    def swap(self, table: Table) -> None:
        names = self._plain_columns(table)[:2]
        if len(names) == 2:
            one, two, spare = names[0], names[1], self._name()
            self._raw(*(f"ALTER TABLE {quoted(table.name)} RENAME COLUMN {quoted(old)} TO {quoted(new)}"
                        for old, new in ((one, spare), (two, one), (spare, two))))
            self._renamed(table, {one: two, two: one})

    def retype(self, table: Table) -> None:
        name = self._some([name for name in table.columns if name not in table.parents])
        type_ = self.draw(st.sampled_from(list(TYPES)))
        if name is None or name in table.key and self._referenced(table):
            return
        new = self._name() if self.draw(st.integers(0, 3)) == 0 else ""
        renamed = f", new_column_name={new!r}" if new else ""
        self._batch(table, f"alter_column({name!r}, type_={TYPES[type_]}{renamed})")
        table.columns[name] = type_
        if new:
            self._renamed(table, {name: new})

    def fill(self, table: Table) -> None:
        if name := self._some(self._plain_columns(table)):
            self._fill(table, name)
            self._batch(table, f"alter_column({name!r}, nullable=False)")

    def _fill(self, table: Table, name: str) -> None:
        value = literal(self._sentinel("TEXT"))
        self._raw(f"UPDATE {quoted(table.name)} SET {quoted(name)} = {value} WHERE {quoted(name)} IS NULL")
        table.required.add(name)

    def loosen(self, table: Table) -> None:
        if name := self._some([name for name in self._plain_columns(table) if name in table.required]):
            self._batch(table, f"alter_column({name!r}, nullable=True)")
            table.required.discard(name)

    def update(self, table: Table) -> None:
        name = self._some(self._plain_columns(table))
        if name is None:
            return
        ways = [literal(self.draw(values)), "CAST({0} AS TEXT)", "upper({0})", "{0} || 'x'", "{0} + 1", "{0} * 1.0",
                "-{0}", "CAST({0} AS BLOB)", literal(self._sentinel("TEXT"))]
        value = self.draw(st.sampled_from(ways)).replace("{0}", quoted(name))
        self._raw(f"UPDATE OR IGNORE {quoted(table.name)} SET {quoted(name)} = {value} WHERE {self._condition()}")

    def _condition(self) -> str:
        return self.draw(st.sampled_from(["true", "rowid % 2", "rowid % 2 = 0", "rowid > 2"]))

    def delete(self, table: Table) -> None:
        self._raw(f"DELETE FROM {quoted(table.name)} WHERE {self._condition()}")

    def insert(self, table: Table) -> None:
        self._raw(self._insert(table))

    def recreate(self, table: Table) -> None:
        self._batch(table)

    def rename_table(self, table: Table) -> None:
        new = self._name()
        self.now.lines.append(f"op.rename_table({table.name!r}, {new!r})")
        self._moved(table, new)

    def _moved(self, table: Table, new: str) -> None:
        for facts in (self.tables, self.now.origin, self.now.columns):
            if table.name in facts:
                facts[new] = facts.pop(table.name)
        if table.name in self.now.by_hand:
            self.now.by_hand.add(new)
        for other in self.tables.values():
            other.parents = {column: (new if parent == table.name else parent, action)
                             for column, (parent, action) in other.parents.items()}
        table.name = new

    def create(self, _table: Table) -> None:
        key, column, name = self._name(), self._name(), self._name()
        self.tables[name] = Table(name, {key: "INTEGER", column: "TEXT"}, (key,), {key})
        self.now.lines.append(f"op.create_table({name!r}, sa.Column({key!r}, sa.Integer, primary_key=True), "
                              f"sa.Column({column!r}, sa.Text))")
        self.now.columns[name] = {}
        if self.draw(st.booleans()):
            self._raw(self._insert(self.tables[name]))

    def drop_table(self, table: Table) -> None:
        if not self._referenced(table):
            self.now.lines.append(f"op.drop_table({table.name!r})")
            for facts in (self.tables, self.now.origin, self.now.columns):
                facts.pop(table.name, None)

    def copy_table(self, table: Table) -> None:
        """Move a table's rows into a new one, by hand."""
        if self._referenced(table):
            return
        old, new = table.name, self._name()
        table.name = new
        self._raw(self._create(table))
        names = ", ".join(map(quoted, table.columns))
        self._raw(f"INSERT INTO {quoted(new)} ({names}) SELECT {names} FROM {quoted(old)}", f"DROP TABLE {quoted(old)}")
        table.name = old
        self._moved(table, new)
        self.now.by_hand.add(new)

    def carry(self, table: Table) -> None:
        """Rename a column by hand: add, copy, drop."""
        if name := self._some(self._plain_columns(table)):
            self._copied(table, name)
            self._batch(table, f"drop_column({name!r})")
            self._forget(table, name)

    def copy(self, table: Table) -> None:
        """Copy a column; a later revision may drop the first."""
        if name := self._some(self._plain_columns(table)):
            self._copied(table, name)

    def _copied(self, table: Table, name: str) -> str:
        new, type_ = self._name(), table.columns[name]
        self.now.lines.append(f"op.add_column({table.name!r}, sa.Column({new!r}, {TYPES[type_]}))")
        self._raw(f"UPDATE {quoted(table.name)} SET {quoted(new)} = {quoted(name)}")
        table.columns[new] = type_
        return new

    def widen_key(self, table: Table) -> None:
        name = self._some(self._plain_columns(table))
        if name and len(table.key) == 1 and not self._referenced(table):
            self._fill(table, name)
            table.key = (*table.key, name)
            self._batch(table, f"create_primary_key('pk', {list(table.key)!r})")

    def drop_key(self, table: Table) -> None:
        if len(table.key) == 1 and not self._referenced(table) and len(self._plain_columns(table)) > 1:
            self._batch(table, f"drop_column({table.key[0]!r})")
            name, table.key = table.key[0], ()
            self._forget(table, name)

    def new_key(self, table: Table) -> None:
        """Give the key's values another column, which becomes the key."""
        if len(table.key) == 1 and not self._referenced(table):
            old, new = table.key[0], self._copied(table, table.key[0])
            self._batch(table, f"alter_column({new!r}, nullable=False)", f"create_primary_key('pk', [{new!r}])",
                        f"drop_column({old!r})")
            table.key, table.required = (new,), table.required | {new}
            self._forget(table, old)
