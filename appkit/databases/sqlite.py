"""What a SQLite database says of itself.

PRAGMAs tell most of it. Collations, ON CONFLICT, DEFERRABLE, CHECKs, constraint names and AUTOINCREMENT stand only in
the CREATE statements that SQLite stores as they were typed: those are taken apart here, token by token.
"""
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from appkit.databases import Column, Entry, Table
from appkit.databases.sqlite_copies import (back_up, copy_database, empty_database, file_behind, file_of,  # noqa: F401
                                            hear_connections, is_connection, place_of, read_batches, read_storage,
                                            restore_copy, save_copy, storage_of, watch_writes)
from appkit.databases.sqlite_guard import Guard  # noqa: F401
from appkit.databases.sqlite_reading import (holds_database, read_orphans, read_rows, reading_only,  # noqa: F401
                                             understand)
from appkit.databases.sqlite_statements import find_obstacle, find_renames, find_table_renames  # noqa: F401


_KINDS = ("table", "column", "primary key", "foreign key", "unique", "check", "index", "trigger", "view", "sequence")


def quote(name: str) -> str:
    """Quote an identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'


def read_tables(connection: Connection) -> list[Table]:
    """List the tables that hold rows, as a comparison needs to know them.

    Virtual tables are in it, the shadow tables behind them, views and SQLite's own tables are not; sorted by name.
    A virtual table whose module is not loaded cannot be read: then it is left out, and its shadow tables are in it.
    """
    return [look.table for look in _look(connection) if look.table.columns]


def read_catalogue(connection: Connection) -> list[Entry]:
    """List every object of the database, sorted by table, kind and name.

    A view's table is the view itself, so that its INSTEAD OF triggers stand beside it. A constraint without a name
    is called by its columns, or by its expression. Definitions are in one spelling: white space, comments, the
    quotes of identifiers, the case of keywords and what is the default anyway make no difference.
    """
    looks = _look(connection)
    tables = {_fold(look.table.name): look.table for look in looks}
    texts = {_fold(look.table.name): _TableText(look, tables) for look in looks}
    entries = [entry for text in texts.values() for entry in text.entries()]
    return _sort_and_number([*entries, *_other_entries(connection, texts), *_sequence_entries(connection)])


def _sort_and_number(entries: Iterable[Entry]) -> list[Entry]:
    """Sort the entries, and tell those of one name apart: SQLite lets two constraints have the same name."""
    seen: Counter[tuple[str, str, str]] = Counter()
    result = []
    for entry in sorted(entries, key=lambda entry: (entry.table, _KINDS.index(entry.kind), *entry[2:])):
        seen[entry[:3]] += 1
        again = seen[entry[:3]]
        result.append(entry if again == 1 else entry._replace(name=f"{entry.name} #{again}"))
    return result


class _Look(NamedTuple):
    """What PRAGMAs tell of one table, and the statement that made it."""

    table: Table
    sql: str
    defaults: tuple[str | None, ...]  # per column, as typed
    virtual: bool


def _look(connection: Connection) -> list[_Look]:
    rows = connection.exec_driver_sql("SELECT name, sql FROM main.sqlite_master WHERE type = 'table'").all()
    tables = {name: sql or "" for name, sql in rows if not _fold(name).startswith("sqlite_")}
    virtual = {name for name, sql in tables.items() if _Words(sql).skip("CREATE", "VIRTUAL")}
    shadows = _shadows(connection, virtual)
    names = {_fold(name): name for name in tables}
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


def _look_at(connection: Connection, name: str, sql: str, *, names: dict[str, str], virtual: bool) -> _Look:
    infos = _columns(connection, name, virtual=virtual)
    indexes = _pragma(connection, "index_list", name)
    key = tuple(row.name for row in sorted(infos, key=lambda row: row.pk) if row.pk)
    # A primary key without an index of its own is the rowid, which is never NULL.
    rowid = bool(key) and not virtual and all(index.origin != "pk" for index in indexes)
    columns = tuple(Column(row.name, row.type, not (row.notnull or rowid and row.pk), row.hidden in (2, 3))
                    for row in infos)
    parents = {names.get(_fold(row.table), row.table) for row in _pragma(connection, "foreign_key_list", name)}
    uniques = {unique for index in indexes if (unique := _unique_columns(connection, index))} - {key}
    table = Table(name, columns, key, tuple(sorted(uniques)), tuple(sorted(parents)))
    return _Look(table, sql, tuple(row.dflt_value for row in infos), virtual)


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


def _column_definition(column: Column, default: str | None, typed: "_ColumnText") -> str:
    parts = [_render(_tokens(column.type), upper=True)]
    if not column.nullable:
        parts.append("NOT NULL" + typed.conflict)
    if default is not None:
        parts.append(f"DEFAULT {_default(default)}")
    if typed.collation != "BINARY":
        parts.append(f"COLLATE {typed.collation}")
    if typed.generated:
        parts.append(f"GENERATED ALWAYS AS {typed.generated}")
    return " ".join(part for part in parts if part)


def _default(typed: str) -> str:
    tokens = _bare(_tokens(typed))
    if len(tokens) == 1 and tokens[0].kind in ("word", "quoted"):
        literal = tokens[0].kind == "word" and tokens[0].value.upper() in _LITERALS
        return tokens[0].value.upper() if literal else _as_string(tokens[0].value)  # DEFAULT abc is the string 'abc'
    simple = len(tokens) == 1 or len(tokens) == 2 and tokens[0].text in "+-"
    return _render(tokens) if simple else f"({_render(tokens)})"


def _other_entries(connection: Connection, texts: dict[str, "_TableText"]) -> Iterator[Entry]:
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM main.sqlite_master "
                                      "WHERE type <> 'table' AND sql IS NOT NULL").all()
    for kind, name, on, sql in rows:
        text = texts.get(_fold(on))
        words = _Words(sql)
        unique = words.peek(1) == "UNIQUE"
        words.pass_head()
        definition = _index_definition(words, text, unique) if kind == "index" and text else _render(words.rest())
        yield Entry(kind, text.table.name if text else on, name, definition)


def _index_definition(words: "_Words", text: "_TableText", unique: bool) -> str:
    words.skip("ON")
    words.name()
    definition = ("UNIQUE " if unique else "") + text.key_parts(words.group())
    if words.skip("WHERE"):
        definition += f" WHERE {_render(_bare(words.rest()), text.names)}"
    return definition


def _sequence_entries(connection: Connection) -> Iterator[Entry]:
    exists = connection.exec_driver_sql("SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'").first()
    if exists:
        for table, number in connection.exec_driver_sql("SELECT name, seq FROM main.sqlite_sequence").all():
            yield Entry("sequence", str(table), "sqlite_sequence", str(number))


class _Token(NamedTuple):
    kind: str  # word, quoted, string, number, blob or sign
    text: str  # as typed
    value: str  # what it says, without the quotes


_TOKEN = re.compile(r"""
    (?P<space>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))
  | (?P<blob>[xX]'[0-9a-fA-F]*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
  | (?P<number>0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)
  | (?P<word>[A-Za-z0-9_$\x80-\U0010ffff]+)
  | (?P<sign>->>|->|\|\||<<|<=|<>|>=|>>|==|!=|.)
""", re.DOTALL | re.VERBOSE)

_LITERALS = frozenset("NULL TRUE FALSE CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP".split())

# Keywords that are never the bare name of something, or never mean it where an expression or a statement has them.
_RESERVED = frozenset("""ADD ALL ALTER AND AS AUTOINCREMENT BETWEEN CASE CAST CHECK COLLATE COMMIT CONSTRAINT CREATE
    DEFAULT DEFERRABLE DELETE DISTINCT DROP ELSE ESCAPE EXISTS FOREIGN FROM GLOB GROUP HAVING IN INDEX INSERT INTO IS
    ISNULL JOIN LIKE LIMIT MATCH NOT NOTHING NOTNULL NULL ON OR ORDER PRIMARY REFERENCES REGEXP RETURNING SELECT SET
    TABLE THEN TO TRANSACTION UNION UNIQUE UPDATE USING VALUES WHEN WHERE CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP
    """.split())
# Keywords that may be bare names too: they are when the table has a column of that name.
_KEYWORDS = _RESERVED | frozenset("""AFTER ASC BEFORE BEGIN BY CONFLICT CROSS DESC DO EACH END EXCEPT FAIL FALSE FOR
    IGNORE INNER INSTEAD INTERSECT LEFT NATURAL OF OFFSET OUTER OVER PARTITION RAISE RECURSIVE REPLACE ROLLBACK ROW
    STORED TRUE VIRTUAL WINDOW WITH""".split())

_ROWIDS = frozenset(("rowid", "oid", "_rowid_"))
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_UPPER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _fold(name: str) -> str:
    """Give the form in which SQLite compares identifiers: it folds ASCII only."""
    return name.translate(_UPPER)


def _tokens(sql: str) -> list[_Token]:
    tokens = []
    for found in _TOKEN.finditer(sql):
        text = found.group()
        if found.lastgroup == "quoted":
            value = text[1:-1] if text[0] == "[" else text[1:-1].replace(text[0] * 2, text[0])
        else:
            value = text[1:-1].replace("''", "'") if found.lastgroup == "string" else text
        if found.lastgroup != "space":
            tokens.append(_Token(found.lastgroup, text, value))
    return tokens


def _as_string(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _as_name(name: str) -> str:
    """Write an identifier, in quotes only where it needs them."""
    return name if _PLAIN.fullmatch(name) and name.upper() not in _KEYWORDS else quote(name)


def _bare(tokens: Sequence[_Token]) -> list[_Token]:
    """Take away the parentheses around the whole of an expression."""
    tokens = list(tokens)
    while tokens and tokens[0].text == "(" and _closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing(tokens: Sequence[_Token], start: int) -> int:
    """Give the place of the parenthesis that closes the one at `start`; the end of the text if none does."""
    depth = 0
    for at in range(start, len(tokens)):
        if tokens[at].kind == "sign" and tokens[at].text in "()":
            depth += 1 if tokens[at].text == "(" else -1
            if depth == 0:
                return at
    return len(tokens)


def _render(tokens: Sequence[_Token], names: dict[str, str] | None = None, *, upper: bool = False) -> str:
    """Write tokens in the one spelling; `names` are the table's columns by their folded names, where known."""
    result = ""
    before = ""
    for at, token in enumerate(tokens):
        text = _spell(tokens, at, names)
        text = text.upper() if upper and token.kind == "word" else text
        result += text if not result or _touches(before, tokens, at) else " " + text
        before = text
    return result


def _spell(tokens: Sequence[_Token], at: int, names: dict[str, str] | None) -> str:
    token = tokens[at]
    if token.kind not in ("word", "quoted"):
        return token.text
    known = (names or {}).get(_fold(token.value))
    word = token.value.upper()
    if token.kind == "word" and (word in _RESERVED or word in _KEYWORDS and known is None):
        return word
    if at and tokens[at - 1].kind == "word" and tokens[at - 1].text.upper() == "COLLATE":
        return _collation(token.value)
    if token.text[0] == '"' and names is not None and known is None and not _is_name(tokens, at):
        return _as_string(token.value)  # SQLite takes "x" for a string where no column is called x
    return _as_name(known or token.value)


def _is_name(tokens: Sequence[_Token], at: int) -> bool:
    """Tell whether a quoted word is a name by where it stands: of a function, a type, a collation, or with a dot."""
    before = tokens[at - 1].text.upper() if at else ""
    after = tokens[at + 1].text if at + 1 < len(tokens) else ""
    return before in (".", "COLLATE", "AS") or after in (".", "(") or _fold(tokens[at].value) in _ROWIDS


def _touches(before: str, tokens: Sequence[_Token], at: int) -> bool:
    """Tell whether no space stands between a token and the one before it."""
    text, last = tokens[at].text, tokens[at - 1]
    if tokens[at].kind == "sign" and text in ",).;" or last.kind == "sign" and last.text in "(.~":
        return True
    if text == "(" and tokens[at].kind == "sign":
        return last.kind in ("word", "quoted") and before not in _KEYWORDS
    signed = last.kind == "sign" and last.text in "+-" and tokens[at].kind != "sign"
    return signed and (at == 1 or tokens[at - 2].kind == "sign" and tokens[at - 2].text != ")"
                       or tokens[at - 2].kind == "word" and tokens[at - 2].value.upper() in _RESERVED)


class _Words:
    """The tokens of a statement, read from left to right."""

    def __init__(self, sql: str | Sequence[_Token]) -> None:
        self.tokens = _tokens(sql) if isinstance(sql, str) else list(sql)
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.tokens)

    def peek(self, ahead: int = 0) -> str:
        """Give a coming keyword or sign; nothing for whatever is in quotes."""
        at = self.at + ahead
        return self.tokens[at].text.upper() if at < len(self.tokens) and self.tokens[at].text[0] not in "'\"`[" else ""

    def skip(self, *words: str) -> bool:
        """Pass these words if they come next."""
        found = all(self.peek(ahead) == word for ahead, word in enumerate(words))
        self.at += len(words) if found else 0
        return found

    def any_of(self, *words: str) -> str:
        """Pass one of these words if it comes next, and give it."""
        word = self.peek()
        return word if word in words and self.skip(word) else ""

    def name(self) -> str:
        """Pass a name and give it without its quotes."""
        self.at += 1
        return self.tokens[self.at - 1].value if self.at <= len(self.tokens) else ""

    def group(self) -> list[_Token]:
        """Pass a group in parentheses and give what is in it; nothing when none comes next."""
        if self.peek() != "(":
            return []
        start, self.at = self.at + 1, _closing(self.tokens, self.at) + 1
        return self.tokens[start:self.at - 1]

    def rest(self) -> list[_Token]:
        """Give all that is left."""
        start, self.at = self.at, len(self.tokens)
        return self.tokens[start:]

    def pass_head(self) -> None:
        """Pass CREATE, what is created, and its name."""
        while self and not self.any_of("TABLE", "INDEX", "TRIGGER", "VIEW"):
            self.at += 1
        self.skip("IF", "NOT", "EXISTS")
        self.name()
        if self.skip("."):
            self.name()


@dataclass
class _ColumnText:
    """What only the text says of a column."""

    conflict: str = ""
    collation: str = "BINARY"
    generated: str = ""


class _TableText:
    """What the CREATE TABLE statement says beyond the PRAGMAs.

    Read as SQLite reads it, and lenient: SQLite took the statement, so what is not understood is passed over.
    """

    def __init__(self, look: _Look, tables: dict[str, Table]) -> None:
        self.table = look.table
        self.names = {_fold(column.name): column.name for column in look.table.columns}
        self.columns = {column.name: _ColumnText() for column in look.table.columns}
        self._defaults = look.defaults
        self._tables = tables
        self._constraints: list[Entry] = []
        self._autoincrement = False
        words = _Words(look.sql)
        words.pass_head()
        if look.virtual:
            self.options = "VIRTUAL " + _render(words.rest())
        else:
            self._body(_Words(words.group()))
            self.options = self._options(words)

    def entries(self) -> Iterator[Entry]:
        """Give the catalogue's entries of the table, its columns and its constraints."""
        name = self.table.name
        yield Entry("table", name, name, self.options)
        for column, default in zip(self.table.columns, self._defaults):
            definition = _column_definition(column, default, self.columns[column.name])
            yield Entry("column", name, column.name, definition)
        yield from self._constraints

    def _options(self, words: _Words) -> str:
        said = {"AUTOINCREMENT"} if self._autoincrement else set()
        while words:
            if words.skip("WITHOUT", "ROWID"):
                said.add("WITHOUT ROWID")
            elif words.skip("STRICT"):
                said.add("STRICT")
            else:
                words.at += 1
        return ", ".join(sorted(said))

    def _body(self, words: _Words) -> None:
        for column in self.table.columns:
            words.name()
            self._column(words, column.name)
            words.skip(",")
        while words:
            self._table_constraint(words, words.name() if words.skip("CONSTRAINT") else "")

    def _column(self, words: _Words, column: str) -> None:
        self._type(words)
        while words and words.peek() != ",":
            self._column_constraint(words, column, words.name() if words.skip("CONSTRAINT") else "")

    def _type(self, words: _Words) -> None:
        starts = ("CONSTRAINT", "NULL", "NOT", "DEFAULT", "PRIMARY", "UNIQUE", "CHECK", "REFERENCES", "COLLATE",
                  "AS", "DEFERRABLE", "ON", ",")
        while words and words.peek() not in starts and not (words.peek() == "GENERATED" and words.peek(1) == "ALWAYS"):
            if words.peek() == "(":
                words.group()
            else:
                words.at += 1

    def _column_constraint(self, words: _Words, column: str, name: str) -> None:
        part = f"({_as_name(column)})"
        if words.skip("PRIMARY", "KEY"):
            part = part[:-1] + " DESC)" if words.any_of("ASC", "DESC") == "DESC" else part
            self._add("primary key", name, part, self._conflict(words))
            self._autoincrement |= words.skip("AUTOINCREMENT")
        elif words.skip("UNIQUE"):
            self._add("unique", name, part, self._conflict(words))
        elif words.skip("CHECK"):
            self._check(words, name)
        elif words.skip("REFERENCES"):
            self._foreign_key(words, name, part)
        elif (deferrable := self._deferrable(words)) is not None:
            self._defer_last(deferrable)
        else:
            self._column_property(words, self.columns[column])

    def _column_property(self, words: _Words, typed: _ColumnText) -> None:
        if words.skip("NOT", "NULL"):
            typed.conflict = self._conflict(words)
        elif words.skip("COLLATE"):
            typed.collation = _collation(words.name())
        elif words.skip("GENERATED", "ALWAYS", "AS") or words.skip("AS"):
            typed.generated = f"({_render(_bare(words.group()), self.names)})"
            typed.generated += " STORED" if words.any_of("STORED", "VIRTUAL") == "STORED" else " VIRTUAL"
        elif words.skip("DEFAULT"):  # a PRAGMA tells it: it is only passed here
            words.any_of("+", "-")
            words.group() if words.peek() == "(" else words.name()
        elif words.peek() != ",":
            words.at += 1

    def _table_constraint(self, words: _Words, name: str) -> None:
        if words.skip("PRIMARY", "KEY"):
            parts = words.group()
            if parts and parts[-1].text.upper() == "AUTOINCREMENT":
                self._autoincrement = True
                parts = parts[:-1]
            self._add("primary key", name, self.key_parts(parts), self._conflict(words))
        elif words.skip("UNIQUE"):
            self._add("unique", name, self.key_parts(words.group()), self._conflict(words))
        elif words.skip("CHECK"):
            self._check(words, name)
        elif words.skip("FOREIGN", "KEY"):
            columns = self.key_parts(words.group())
            words.skip("REFERENCES")
            self._foreign_key(words, name, columns)
        else:
            words.at += 1

    def _add(self, kind: str, name: str, derived: str, rest: str = "") -> None:
        self._constraints.append(Entry(kind, self.table.name, name or derived, derived + rest))

    def _check(self, words: _Words, name: str) -> None:
        self._add("check", name, _render(_bare(words.group()), self.names))
        self._conflict(words)  # allowed there, without effect

    def _foreign_key(self, words: _Words, name: str, columns: str) -> None:
        named = words.name()
        parent = self._tables.get(_fold(named), Table(named, (), (), (), ()))
        names = {_fold(column.name): column.name for column in parent.columns}
        # Left out, the parent's primary key is meant.
        theirs = [names.get(_fold(token.value), token.value) for token in words.group() if token.kind != "sign"]
        theirs = theirs or list(parent.key)
        definition = f" REFERENCES {_as_name(parent.name)}"
        definition += f" ({', '.join(map(_as_name, theirs))})" if theirs else ""
        self._add("foreign key", name, columns, definition + self._actions(words) + (self._deferrable(words) or ""))

    def _defer_last(self, deferrable: str) -> None:
        """Add a DEFERRABLE that does not stand at its foreign key: SQLite takes it for the last one before it."""
        for at in reversed(range(len(self._constraints))):
            if self._constraints[at].kind == "foreign key":
                definition = self._constraints[at].definition + deferrable
                self._constraints[at] = self._constraints[at]._replace(definition=definition)
                break

    def _actions(self, words: _Words) -> str:
        actions = {}
        while words.peek() == "ON" and words.peek(1) in ("DELETE", "UPDATE", "INSERT") or words.peek() == "MATCH":
            event = "MATCH" if words.skip("MATCH") else words.name() and f"ON {words.name().upper()}"
            action = words.name().upper()
            actions[event] = f"{action} {words.name().upper()}" if action in ("SET", "NO") else action
        return "".join(f" {event} {actions[event]}" for event in ("ON DELETE", "ON UPDATE", "MATCH")
                       if actions.get(event, "NO ACTION") != "NO ACTION")

    def _deferrable(self, words: _Words) -> str | None:
        """Pass a DEFERRABLE; nothing when none comes next, an empty text when it says what is the default anyway."""
        no = words.skip("NOT", "DEFERRABLE")
        if not no and not words.skip("DEFERRABLE"):
            return None
        initially = words.any_of("DEFERRED", "IMMEDIATE") if words.skip("INITIALLY") else ""
        if no:
            return ""
        return " DEFERRABLE INITIALLY DEFERRED" if initially == "DEFERRED" else " DEFERRABLE"

    def _conflict(self, words: _Words) -> str:
        if not words.skip("ON", "CONFLICT"):
            return ""
        action = words.name().upper()
        return "" if action == "ABORT" else f" ON CONFLICT {action}"

    def key_parts(self, tokens: Sequence[_Token]) -> str:
        """Write the columns or expressions of a key or an index, with their order and collation."""
        parts: list[list[_Token]] = [[]]
        depth = 0
        for token in tokens:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if token.text == "," and not depth:
                parts.append([])
            else:
                parts[-1].append(token)
        return f"({', '.join(self._key_part(part) for part in parts)})"

    def _key_part(self, tokens: list[_Token]) -> str:
        order = tokens[-1].text.upper() if len(tokens) > 1 else ""
        tokens = tokens[:-1] if order in ("ASC", "DESC") else tokens
        collation = ""
        if len(tokens) > 2 and tokens[-2].text.upper() == "COLLATE":
            collation, tokens = _collation(tokens[-1].value), tokens[:-2]
        tokens = _bare(tokens)
        # A string is a name here too.
        named = len(tokens) == 1 and tokens[0].kind in ("word", "quoted", "string")
        column = self.names.get(_fold(tokens[0].value)) if named else None
        collation = "" if column and collation == self.columns[column].collation else collation
        text = _as_name(column) if column else _render(tokens, self.names)
        return text + (f" COLLATE {collation}" if collation else "") + (" DESC" if order == "DESC" else "")


def _collation(name: str) -> str:
    return name.upper() if name.upper() in ("BINARY", "NOCASE", "RTRIM") else _as_name(name)
