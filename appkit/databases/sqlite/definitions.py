"""What a stored CREATE TABLE says of a table that no PRAGMA tells."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from appkit.databases import Column, Entry, Table, fold
from appkit.databases.sqlite.tokens import (
    as_name, as_string, collation_of, LITERALS, render, Token, tokenize, without_quotes, Words)


class Look(NamedTuple):
    """What PRAGMAs tell of one table, and the statement that made it."""

    table: Table
    sql: str
    defaults: tuple[str | None, ...]  # per column, as typed
    parents: frozenset[str]  # the tables that its foreign keys refer to, as typed
    virtual: bool


@dataclass
class ColumnText:
    """What only the text says of a column."""

    conflict: str = ""
    collation: str = "BINARY"
    generated: str = ""


class TableText:
    """What the CREATE TABLE statement says beyond the PRAGMAs.

    Read as SQLite reads it, and lenient: SQLite took the statement, so what is not understood is passed over.
    """

    def __init__(self, look: Look, tables: dict[str, Table]) -> None:
        self.table = look.table
        self.names = {fold(column.name): column.name for column in look.table.columns}
        self.columns = {column.name: ColumnText() for column in look.table.columns}
        self._defaults = look.defaults
        self.others: dict[str, Table | None] = {}  # the tables that were asked for, by folded name
        self._tables = tables
        self._constraints: list[Entry] = []
        self._autoincrement = False
        words = Words(look.sql)
        words.pass_head()
        if look.virtual:
            self.options = "VIRTUAL " + render(words.rest())
        else:
            self._body(Words(words.group()))
            self.options = self._options(words)

    def entries(self) -> Iterator[Entry]:
        """Give the catalogue's entries of the table, its columns and its constraints."""
        name = self.table.name
        yield Entry("table", name, name, self.options)
        for column, default in zip(self.table.columns, self._defaults):
            definition = _column_definition(column, default, self.columns[column.name])
            yield Entry("column", name, column.name, definition)
        yield from self._constraints

    def _options(self, words: Words) -> str:
        said = {"AUTOINCREMENT"} if self._autoincrement else set()
        while words:
            if words.skip("WITHOUT", "ROWID"):
                said.add("WITHOUT ROWID")
            elif words.skip("STRICT"):
                said.add("STRICT")
            else:
                words.at += 1
        return ", ".join(sorted(said))

    def _body(self, words: Words) -> None:
        for column in self.table.columns:
            words.name()
            self._column(words, column.name)
            words.skip(",")
        while words:
            self._table_constraint(words, words.name() if words.skip("CONSTRAINT") else "")

    def _column(self, words: Words, column: str) -> None:
        self._type(words)
        while words and words.peek() != ",":
            self._column_constraint(words, column, words.name() if words.skip("CONSTRAINT") else "")

    def _type(self, words: Words) -> None:
        starts = ("CONSTRAINT", "NULL", "NOT", "DEFAULT", "PRIMARY", "UNIQUE", "CHECK", "REFERENCES", "COLLATE",
                  "AS", "DEFERRABLE", "ON", ",")
        while words and words.peek() not in starts and not (words.peek() == "GENERATED" and words.peek(1) == "ALWAYS"):
            if words.peek() == "(":
                words.group()
            else:
                words.at += 1

    def _column_constraint(self, words: Words, column: str, name: str) -> None:
        part = f"({as_name(column)})"
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

    def _column_property(self, words: Words, typed: ColumnText) -> None:
        if words.skip("NOT", "NULL"):
            typed.conflict = self._conflict(words)
        elif words.skip("COLLATE"):
            typed.collation = collation_of(words.name())
        elif words.skip("GENERATED", "ALWAYS", "AS") or words.skip("AS"):
            typed.generated = f"({render(without_quotes(words.group()), self.names)})"
            typed.generated += " STORED" if words.any_of("STORED", "VIRTUAL") == "STORED" else " VIRTUAL"
        elif words.skip("DEFAULT"):  # a PRAGMA tells it: it is only passed here
            words.any_of("+", "-")
            words.group() if words.peek() == "(" else words.name()
        elif words.peek() != ",":
            words.at += 1

    def _table_constraint(self, words: Words, name: str) -> None:
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

    def _check(self, words: Words, name: str) -> None:
        self._add("check", name, render(without_quotes(words.group()), self.names))
        self._conflict(words)  # allowed there, without effect

    def _foreign_key(self, words: Words, name: str, columns: str) -> None:
        named = words.name()
        known = self.others[fold(named)] = self._tables.get(fold(named))
        parent = known or Table(named, (), (), (), ())
        names = {fold(column.name): column.name for column in parent.columns}
        # Left out, the parent's primary key is meant.
        theirs = [names.get(fold(token.value), token.value) for token in words.group() if token.kind != "sign"]
        theirs = theirs or list(parent.key)
        definition = f" REFERENCES {as_name(parent.name)}"
        definition += f" ({', '.join(map(as_name, theirs))})" if theirs else ""
        self._add("foreign key", name, columns, definition + self._actions(words) + (self._deferrable(words) or ""))

    def _defer_last(self, deferrable: str) -> None:
        """Add a DEFERRABLE that does not stand at its foreign key: SQLite takes it for the last one before it."""
        for at in reversed(range(len(self._constraints))):
            if self._constraints[at].kind == "foreign key":
                definition = self._constraints[at].definition + deferrable
                self._constraints[at] = self._constraints[at]._replace(definition=definition)
                break

    def _actions(self, words: Words) -> str:
        actions = {}
        while words.peek() == "ON" and words.peek(1) in ("DELETE", "UPDATE", "INSERT") or words.peek() == "MATCH":
            event = "MATCH" if words.skip("MATCH") else words.name() and f"ON {words.name().upper()}"
            action = words.name().upper()
            actions[event] = f"{action} {words.name().upper()}" if action in ("SET", "NO") else action
        return "".join(f" {event} {actions[event]}" for event in ("ON DELETE", "ON UPDATE", "MATCH")
                       if actions.get(event, "NO ACTION") != "NO ACTION")

    def _deferrable(self, words: Words) -> str | None:
        """Pass a DEFERRABLE; nothing when none comes next, an empty text when it says what is the default anyway."""
        no = words.skip("NOT", "DEFERRABLE")
        if not no and not words.skip("DEFERRABLE"):
            return None
        initially = words.any_of("DEFERRED", "IMMEDIATE") if words.skip("INITIALLY") else ""
        if no:
            return ""
        return " DEFERRABLE INITIALLY DEFERRED" if initially == "DEFERRED" else " DEFERRABLE"

    def _conflict(self, words: Words) -> str:
        if not words.skip("ON", "CONFLICT"):
            return ""
        action = words.name().upper()
        return "" if action == "ABORT" else f" ON CONFLICT {action}"

    def key_parts(self, tokens: Sequence[Token]) -> str:
        """Write the columns or expressions of a key or an index, with their order and collation."""
        parts: list[list[Token]] = [[]]
        depth = 0
        for token in tokens:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if token.text == "," and not depth:
                parts.append([])
            else:
                parts[-1].append(token)
        return f"({', '.join(self._key_part(part) for part in parts)})"

    def _key_part(self, tokens: list[Token]) -> str:
        order = tokens[-1].text.upper() if len(tokens) > 1 else ""
        tokens = tokens[:-1] if order in ("ASC", "DESC") else tokens
        collation = ""
        if len(tokens) > 2 and tokens[-2].text.upper() == "COLLATE":
            collation, tokens = collation_of(tokens[-1].value), tokens[:-2]
        tokens = without_quotes(tokens)
        # A string is a name here too.
        named = len(tokens) == 1 and tokens[0].kind in ("word", "quoted", "string")
        column = self.names.get(fold(tokens[0].value)) if named else None
        collation = "" if column and collation == self.columns[column].collation else collation
        text = as_name(column) if column else render(tokens, self.names)
        return text + (f" COLLATE {collation}" if collation else "") + (" DESC" if order == "DESC" else "")


def _column_definition(column: Column, default: str | None, typed: "ColumnText") -> str:
    parts = [render(tokenize(column.type), upper=True)]
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
    tokens = without_quotes(tokenize(typed))
    if len(tokens) == 1 and tokens[0].kind in ("word", "quoted"):
        literal = tokens[0].kind == "word" and tokens[0].value.upper() in LITERALS
        return tokens[0].value.upper() if literal else as_string(tokens[0].value)  # DEFAULT abc is the string 'abc'
    simple = len(tokens) == 1 or len(tokens) == 2 and tokens[0].text in "+-"
    return render(tokens) if simple else f"({render(tokens)})"
