"""What a database of MariaDB or MySQL says of itself: one question per kind of object, whatever there is of it.

Definitions do not name the database itself, so that a copy's read as those of the database it was made from.
"""
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from sqlalchemy import Connection

from appkit.databases import KINDS, Column, Entry, Table
from appkit.databases.mariadb.asking import ask, ask_named
from appkit.databases.mariadb.naming import as_name, as_text, quote

Row = dict[str, Any]

# MySQL remembers statistics, AUTO_INCREMENT's position among them, for a day; to MariaDB this is a comment.
_FRESH = "SELECT /*+ SET_VAR(information_schema_stats_expiry = 0) */"
_BASE = ("BASE TABLE", "SYSTEM VERSIONED")
# Texts, and names with what is in front of them.
_TOKENS = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|(?:`(?:[^`]|``)*`\s*\.\s*)*`(?:[^`]|``)*`",
                     re.DOTALL)
_NO_ACTION = ("NO ACTION", "RESTRICT")  # InnoDB checks both at once
_unknown = count(1)


class Reference(NamedTuple):
    """A foreign key."""

    table: str
    name: str
    columns: tuple[str, ...]
    schema: str  # of the parent, where that is another database
    parent: str
    theirs: tuple[str, ...]  # the parent's columns

    @property
    def told(self) -> str:
        """The parent as users see it."""
        return f"{self.schema}.{self.parent}" if self.schema else self.parent


@dataclass(frozen=True)
class Structure:
    """What a database says of itself at one moment."""

    tables: list[Table]  # as `read_tables` lists them
    by_table: dict[str, tuple[Entry, ...]]  # as `read_catalogue` lists them
    storage: dict[str, str]  # where each table is stored: elsewhere, it was written anew or emptied

    @property
    def entries(self) -> list[Entry]:
        """Every object, sorted by table, kind and name."""
        return [entry for entries in self.by_table.values() for entry in entries]


def read_tables(connection: Connection) -> list[Table]:
    """List the tables of the connection's database that hold rows, as a comparison needs to know them, by name.

    Views and sequences are not in it.
    """
    return _Look(connection).tables()


def read_catalogue(connection: Connection) -> list[Entry]:
    """List every object of the connection's database, sorted by table, kind and name.

    The table of a view, a sequence, a routine or an event is itself. A position, of a sequence or of
    AUTO_INCREMENT, is the number that is given next.
    """
    return read_structure(connection).entries


def read_structure(connection: Connection, before: Structure | None = None) -> Structure:
    """Give what `read_tables` and what `read_catalogue` give, with one look.

    An earlier look helps nothing: the server does not tell which of its definitions have changed since.
    """
    look = _Look(connection)
    tables = look.tables()
    by_table: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(look.entries(), key=lambda entry: (entry.table, KINDS.index(entry.kind), *entry[2:])):
        by_table[entry.table].append(entry)
    storage = read_storage(partial(ask, connection), [table.name for table in tables])
    return Structure(tables, {table: tuple(entries) for table, entries in by_table.items()}, storage)


def _here(column: str) -> str:
    """Give the condition that an object is in the connection's database.

    Names are compared there without regard to case and accents, though the server may tell Ä from a.
    """
    return (f"{column} = DATABASE() AND (@@lower_case_table_names OR "
            f"CAST({column} AS BINARY) = CAST(DATABASE() AS BINARY))")


def _rows(connection: Connection, source: str, schema: str, order: str = "", *, only: str = "TRUE") -> list[Row]:
    """Give the rows of a part of information_schema that are of this database."""
    statement = f"{_FRESH} * FROM information_schema.{source} WHERE {_here(schema)} AND {only}"
    return ask_named(connection, statement + (f" ORDER BY {order}" if order else ""))


def read_references(connection: Connection) -> list[Reference]:
    """List the foreign keys of the connection's database, by table and name."""
    database = ask(connection, "SELECT DATABASE()")[0][0]
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in _rows(connection, "key_column_usage", "table_schema", "table_name, constraint_name, ordinal_position",
                     only="referenced_table_name IS NOT NULL"):
        found[row["table_name"], row["constraint_name"]].append(row)
    return [_reference(rows, database) for rows in found.values()]


def _reference(rows: list[Row], database: str) -> Reference:
    first = rows[0]
    schema = first["referenced_table_schema"] if first["referenced_table_schema"] != database else ""
    return Reference(first["table_name"], first["constraint_name"], tuple(row["column_name"] for row in rows), schema,
                     first["referenced_table_name"], tuple(row["referenced_column_name"] for row in rows))


def read_storage(answer: Callable[[str], list], tables: Iterable[str]) -> dict[str, str]:
    """Give InnoDB's numbers of tables, which are others once a table is rebuilt; `answer` gives a statement's rows.

    Of other engines, and without the PROCESS privilege, nothing tells: then each look gives another answer.
    """
    known: dict[str, str] = {}
    part = "SUBSTRING_INDEX(SUBSTRING_INDEX(name, '/', -1), '#', 1)"  # of a partition: its table's
    try:
        source = "innodb_sys_tables" if "MariaDB" in answer("SELECT VERSION()")[0][0] else "innodb_tables"
        # 'filename' is the character set in which names are written to the disk.
        rows = answer(f"SELECT CONVERT(CONVERT(CAST({part} AS BINARY) USING filename) USING utf8mb4), table_id "
                      f"FROM information_schema.{source} WHERE CAST(SUBSTRING_INDEX(name, '/', 1) AS BINARY) "
                      "= CAST(CONVERT(DATABASE() USING filename) AS BINARY) ORDER BY table_id")
    except Exception:  # whichever driver's
        rows = []
    for name, number in rows:
        known[name] = f"{known[name]}, {number}" if name in known else str(number)
    return {name: known.get(name) or f"unknown {next(_unknown)}" for name in tables}


class _Look:
    """One look at the catalogue."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._database = ask(connection, "SELECT DATABASE()")[0][0]
        relations = self._rows("tables", "table_schema")
        self._relations = {row["table_name"]: row for row in relations if row["table_type"] != "VIEW"}
        self._columns = _grouped(self._rows("columns", "table_schema", "ordinal_position"))
        self._indexes = _grouped(self._rows("statistics", "table_schema", "index_name, seq_in_index"))
        self._references = read_references(connection)

    def _rows(self, source: str, schema: str, order: str = "", *, only: str = "TRUE") -> list[Row]:
        return _rows(self._connection, source, schema, order, only=only)

    def tables(self) -> list[Table]:
        found = [self._table(name) for name, row in self._relations.items() if row["table_type"] in _BASE]
        return sorted(found)

    def _table(self, name: str) -> Table:
        columns = tuple(Column(row["column_name"], row["column_type"], row["is_nullable"] == "YES", _is_generated(row))
                        for row in self._columns[name])
        key: tuple[str, ...] = ()
        uniques = set()
        for index, parts in _by_index(self._indexes[name]):
            whole = all(part["column_name"] and part["sub_part"] is None for part in parts)
            names = tuple(part["column_name"] for part in parts)
            if index == "PRIMARY":
                key = names if whole else ()
            elif whole and not int(parts[0]["non_unique"]):
                uniques.add(names)
        parents = {reference.told for reference in self._references if reference.table == name}
        return Table(name, columns, key, tuple(sorted(uniques - {key})), tuple(sorted(parents)))

    def entries(self) -> Iterator[Entry]:
        """Give the entries of every object."""
        sequences = [name for name, row in self._relations.items() if row["table_type"] == "SEQUENCE"]
        yield from self._sequences(sequences)
        partitions = self._partitions()
        for name, row in self._relations.items():
            if row["table_type"] in _BASE:
                yield Entry("table", name, name, _table_definition(row) + partitions.get(name, ""))
                if row["auto_increment"] is not None:
                    yield Entry("sequence", name, "AUTO_INCREMENT", str(row["auto_increment"]))
                for column in self._columns[name]:
                    definition = self._plain(_column_definition(column, row["table_collation"]))
                    yield Entry("column", name, column["column_name"], definition)
                yield from self._index_entries(name)
        yield from self._foreign_keys()
        yield from self._checks()
        yield from self._programs()

    def _plain(self, text: str) -> str:
        """Leave out the name of the database, where it stands in front of another."""
        front = re.compile(re.escape(quote(self._database)) + r"\s*\.\s*")
        return _TOKENS.sub(lambda match: front.sub("", match[0], 1) if front.match(match[0]) else match[0], text)

    def _partitions(self) -> dict[str, str]:
        if not any("partitioned" in (row["create_options"] or "") for row in self._relations.values()):
            return {}
        found: dict[str, str] = {}
        for name, rows in _grouped(self._rows(
                "partitions", "table_schema", "partition_ordinal_position, subpartition_ordinal_position",
                only="partition_name IS NOT NULL")).items():
            ways = [f"{way} BY {rows[0][f'{part}_method']} ({rows[0][f'{part}_expression'] or ''})"
                    for way, part in ((" PARTITION", "partition"), (" SUBPARTITION", "subpartition"))
                    if rows[0][f"{part}_method"]]
            parts = dict.fromkeys(as_name(row["partition_name"]) + (f" {row['partition_description']}"
                                  if row["partition_description"] is not None else "") for row in rows)
            found[name] = f"{''.join(ways)} ({', '.join(parts)})"
        return found

    def _index_entries(self, table: str) -> Iterator[Entry]:
        for name, parts in _by_index(self._indexes[table]):
            kind = "primary key" if name == "PRIMARY" else "index" if int(parts[0]["non_unique"]) else "unique"
            yield Entry(kind, table, name, self._plain(_index_definition(parts)))

    def _foreign_keys(self) -> Iterator[Entry]:
        rules = {(row["table_name"], row["constraint_name"]): row
                 for row in self._rows("referential_constraints", "constraint_schema")} if self._references else {}
        for reference in self._references:
            rule = rules[reference.table, reference.name]
            actions = "".join(f" ON {event} {rule[f'{event.lower()}_rule']}" for event in ("DELETE", "UPDATE")
                              if rule[f"{event.lower()}_rule"] not in _NO_ACTION)
            columns, theirs = (", ".join(map(as_name, names)) for names in (reference.columns, reference.theirs))
            definition = f"({columns}) REFERENCES {as_name(reference.told)} ({theirs}){actions}"
            yield Entry("foreign key", reference.table, reference.name, definition)

    def _checks(self) -> Iterator[Entry]:
        rows = self._rows("check_constraints", "constraint_schema")
        if rows and "table_name" not in rows[0]:  # MySQL names a check once in a database, MariaDB once in a table
            tables = {row["constraint_name"]: row for row in self._rows(
                "table_constraints", "table_schema", only="constraint_type = 'CHECK'")}
            rows = [{**row, **tables[row["constraint_name"]]} for row in rows]
        for row in rows:
            off = " NOT ENFORCED" if row.get("enforced") == "NO" else ""
            yield Entry("check", row["table_name"], row["constraint_name"], self._plain(row["check_clause"]) + off)

    def _sequences(self, names: list[str]) -> Iterator[Entry]:
        """Give the options and the position of MariaDB's sequences."""
        asked = [f"SELECT {as_text(name)}, s.* FROM {quote(name)} s" for name in names]
        for name, position, low, high, start, step, cache, cycle, _ in (
                ask(self._connection, " UNION ALL ".join(asked)) if asked else ()):
            options = f"START WITH {start} MINVALUE {low} MAXVALUE {high} INCREMENT BY {step} CACHE {cache}"
            yield Entry("sequence options", name, name, options + (" CYCLE" if cycle else ""))
            yield Entry("sequence", name, name, str(position))

    def _programs(self) -> Iterator[Entry]:
        """Give the views, triggers, routines and events; who defined them is left out, as it is of all else."""
        for row in self._rows("triggers", "trigger_schema"):
            text = f"{row['action_timing']} {row['event_manipulation']} FOR EACH ROW {row['action_statement']}"
            later = f" (number {row['action_order']})" if int(row["action_order"]) > 1 else ""
            yield Entry("trigger", row["event_object_table"], row["trigger_name"], text + later)
        for row in self._rows("views", "table_schema"):
            yield Entry("view", row["table_name"], row["table_name"], self._plain(_view_definition(row)))
        parameters: dict[tuple, list[str]] = defaultdict(list)
        routines = self._rows("routines", "routine_schema")
        for row in self._rows("parameters", "specific_schema", "ordinal_position") if routines else ():
            if row["ordinal_position"]:
                parameters[row["routine_type"], row["specific_name"]].append(_parameter(row))
        for row in routines:
            told = ", ".join(parameters[row["routine_type"], row["specific_name"]])
            kind = row["routine_type"].lower()
            yield Entry(kind, row["routine_name"], row["routine_name"], f"({told}){_routine_definition(row)}")
        for row in self._rows("events", "event_schema"):
            yield Entry("event", row["event_name"], row["event_name"], _event_definition(row))


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["table_name"]].append(row)
    return found


def _by_index(rows: Iterable[Row]) -> Iterable[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["index_name"]].append(row)
    return found.items()


def _is_generated(row: Row) -> bool:
    return bool(row["generation_expression"])


def _table_definition(row: Row) -> str:
    options = sorted((row["create_options"] or "").replace("partitioned", "").split())
    parts = [f"ENGINE={row['engine']}", f"COLLATE={row['table_collation']}", *options]
    if row["table_type"] == "SYSTEM VERSIONED":
        parts.append("WITH SYSTEM VERSIONING")
    return " ".join(parts) + _comment(row["table_comment"])


def _comment(text: str | None) -> str:
    return f" COMMENT {_literal(text)}" if text else ""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _column_definition(row: Row, collation: str | None) -> str:
    extra = (row["extra"] or "").lower()
    parts = [row["column_type"]]
    if row["is_nullable"] == "NO":
        parts.append("NOT NULL")
    default = _default(row, extra)
    if default is not None:
        parts.append(f"DEFAULT {default}")
    if updated := re.search(r"on update (\S+)", extra):
        parts.append(f"ON UPDATE {updated[1]}")
    if row["collation_name"] not in (None, collation):
        parts.append(f"COLLATE {row['collation_name']}")
    if _is_generated(row):
        stored = "STORED" if "stored" in extra or "persistent" in extra else "VIRTUAL"
        parts.append(f"GENERATED ALWAYS AS ({row['generation_expression']}) {stored}")
    parts += [word.upper() for word in ("auto_increment", "invisible", "without system versioning") if word in extra]
    return " ".join(parts) + _comment(row["column_comment"])


def _default(row: Row, extra: str) -> str | None:
    default = row["column_default"]
    if default is None or _is_generated(row) or default == "NULL" and "is_generated" in row:
        return None
    # MariaDB tells SQL; MySQL the bare value, or an expression.
    if "is_generated" in row or "default_generated" in extra or default.lower().startswith("current_timestamp"):
        return default
    return default if row["numeric_precision"] is not None or default.startswith("b'") else _literal(default)


def _index_definition(parts: list[Row]) -> str:
    first = parts[0]
    special = first["index_type"] if first["index_type"] in ("FULLTEXT", "SPATIAL") else ""
    columns = ", ".join(_index_part(part, prefix=special != "SPATIAL") for part in parts)
    words = [special, f"({columns})", f"USING {first['index_type']}" if first["index_type"] == "HASH" else "",
             "IGNORED" if first.get("ignored") == "YES" or first.get("is_visible") == "NO" else ""]
    return " ".join(word for word in words if word) + _comment(first["index_comment"])


def _index_part(part: Row, *, prefix: bool) -> str:
    name = as_name(part["column_name"]) if part["column_name"] else f"({part['expression']})"
    length = f"({part['sub_part']})" if prefix and part["sub_part"] is not None else ""
    return name + length + (" DESC" if part["collation"] == "D" else "")


def _view_definition(row: Row) -> str:
    how = "" if row.get("algorithm", "UNDEFINED") == "UNDEFINED" else f"ALGORITHM={row['algorithm']} "
    how += "SQL SECURITY INVOKER " if row["security_type"] == "INVOKER" else ""
    check = "" if row["check_option"] == "NONE" else f" WITH {row['check_option']} CHECK OPTION"
    return how + row["view_definition"] + check


def _parameter(row: Row) -> str:
    mode = row["parameter_mode"] if row["parameter_mode"] not in (None, "IN") else ""
    return " ".join(part for part in (mode, as_name(row["parameter_name"]), row["dtd_identifier"]) if part)


def _routine_definition(row: Row) -> str:
    parts = [f"RETURNS {row['dtd_identifier']}" if row["dtd_identifier"] else "",
             "DETERMINISTIC" if row["is_deterministic"] == "YES" else "",
             row["sql_data_access"] if row["sql_data_access"] != "CONTAINS SQL" else "",
             "SQL SECURITY INVOKER" if row["security_type"] == "INVOKER" else "", row["routine_definition"] or ""]
    return "".join(f" {part}" for part in parts if part) + _comment(row["routine_comment"])


def _event_definition(row: Row) -> str:
    when = f"AT {row['execute_at']}" if row["execute_at"] else f"EVERY {row['interval_value']} {row['interval_field']}"
    bounds = "".join(f" {word} {row[word.lower()]}" for word in ("STARTS", "ENDS") if row[word.lower()])
    kept = " ON COMPLETION PRESERVE" if row["on_completion"] == "PRESERVE" else ""
    off = "" if row["status"] == "ENABLED" else f" {row['status']}"
    return f"ON SCHEDULE {when}{bounds}{kept}{off} DO {row['event_definition']}" + _comment(row["event_comment"])
