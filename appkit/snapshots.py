"""Every table's rows as they stood at a revision, kept in a DuckDB file, and the ledger between two of them."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from appkit.databases import Table

# How a value is kept, by its kind. SQLite stores any kind in any column, so a column that holds several is kept as a
# union of them: 1, 1.0, '1' and x'31' stay four different values. 'x' is text whose bytes are no UTF-8.
_KINDS = {"i": "BIGINT", "r": "DOUBLE", "t": "VARCHAR", "b": "BLOB", "x": "BLOB"}
_ARROW = {"i": pa.int64(), "r": pa.float64(), "t": pa.string(), "b": pa.binary(), "x": pa.binary()}
_UNION = "UNION(" + ", ".join(f"{kind} {type_}" for kind, type_ in _KINDS.items()) + ")"
_KIND_OF = {int: "i", float: "r", str: "t", bytes: "b", bool: "i"}
_SEVERAL = "u"


@dataclass
class Kept:
    """A table as it stood at one revision: where its rows are kept, and what the catalogue said of it."""

    table: Table
    relation: str  # its name in the DuckDB file
    rows: int = 0
    values: list[int] = field(default_factory=list)  # values that are not NULL, per column
    kinds: list[str] = field(default_factory=list)  # '', one of _KINDS, or _SEVERAL, per column

    def position(self, column: str) -> int:
        """Give a column's place."""
        return self.names.index(column)

    @property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""
        return [column.name for column in self.table.columns]


@dataclass(frozen=True)
class ColumnLedger:
    """What became of one column's values: before = kept + changed + lost, after = kept + changed + filled.

    `invented` are those of `filled` that stand in rows which were there before, with a NULL in this column.
    """

    column: str
    was: str
    kept: int = 0
    changed: int = 0
    lost: int = 0
    filled: int = 0
    invented: int = 0


@dataclass(frozen=True)
class TableLedger:
    """What became of one table's rows: before = kept + changed + lost, after = kept + changed + added."""

    before: int
    after: int
    kept: int
    changed: int
    lost: int
    added: int
    columns: tuple[ColumnLedger, ...]

    @property
    def whole(self) -> bool:
        """Whether every row is there, none is new, and every value is what it was."""
        return self.kept == self.before == self.after and not any(
            column.changed or column.lost or column.filled for column in self.columns)


class Snapshots:
    """The rows of every table at every revision, in a DuckDB file of a private folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / "snapshots.duckdb"
        self._connection = duckdb.connect(str(path))
        path.chmod(0o600)
        self._connection.execute("SET memory_limit = '1GB'; SET preserve_insertion_order = false")
        self._number = 0
        self._relations: set[str] = set()

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    def keep(self, table: Table, batches: Iterable[list[tuple]]) -> Kept:
        """Keep a table's rows, given in batches of columns of values."""
        self._number += 1
        self._relations.add(f"s{self._number}")
        width = len(table.columns)
        kept = Kept(table, f"s{self._number}", values=[0] * width, kinds=[""] * width)
        # An integer column stands in until the first value tells the kind.
        columns = ", ".join(f"c{place} BIGINT" for place in range(width))
        self._connection.execute(f"CREATE TABLE {kept.relation} ({columns})")
        for batch in batches:
            self._append(kept, batch)
        return kept

    def forget_all_but(self, relations: set[str]) -> None:
        """Drop the rows that no state needs any more."""
        for relation in self._relations - relations:
            self._connection.execute(f"DROP TABLE {relation}")
        self._relations &= relations

    def _append(self, kept: Kept, batch: list[tuple]) -> None:
        arrays, names, expressions = [], [], []
        for place, values in enumerate(batch):
            parts = _by_kind(values)
            self._widen(kept, place, parts)
            kept.values[place] += sum(len(part) - part.null_count for part in parts.values())
            for kind, part in parts.items():
                arrays.append(part)
                names.append(f"c{place}_{kind}")
            expressions.append(_stored(place, parts, kept.kinds[place]))
        kept.rows += len(batch[0])
        incoming = pa.table(arrays or [pa.nulls(len(batch[0]))], names=names or ["nothing"])
        self._connection.register("incoming", incoming)
        self._connection.execute(f"INSERT INTO {kept.relation} SELECT {', '.join(expressions)} FROM incoming")
        self._connection.unregister("incoming")

    def _widen(self, kept: Kept, place: int, parts: dict[str, pa.Array]) -> None:
        """Give a column the room for kinds of values that it had not held so far."""
        old = kept.kinds[place]
        if old == _SEVERAL or not parts or set(parts) == {old}:
            return
        new = next(iter(parts)) if not old and len(parts) == 1 else _SEVERAL
        if new == _SEVERAL:
            change = f"{_UNION} USING {_as_union(f'c{place}', old)}"
        else:
            change = f"{_KINDS[new]} USING NULL"
        self._connection.execute(f"ALTER TABLE {kept.relation} ALTER c{place} TYPE {change}")
        kept.kinds[place] = new

    def read(self, kept: Kept) -> Iterator[list[tuple]]:
        """Give a kept table's rows back, in batches of columns of values, ordered by its key."""
        places = [kept.position(name) for name in kept.table.key] or range(len(kept.names))
        columns = ", ".join(f"c{place}" for place in range(len(kept.names)))
        order = ", ".join(f"c{place} NULLS FIRST" for place in places)
        cursor = self._connection.cursor()
        cursor.execute(f"SELECT {columns} FROM {kept.relation} ORDER BY {order}")
        while rows := cursor.fetchmany(20_000):
            yield list(zip(*rows))

    def whole(self, kept: Kept, *, gone: bool) -> list[tuple[tuple | None, str, Any, Any]]:
        """Give every value of a table as a difference: key, column, before, after; all gone, or all new."""
        places = [kept.position(name) for name in kept.table.key]
        rows = (row for batch in self.read(kept) for row in zip(*batch))
        return [(tuple(row[place] for place in places) or None, name, *((value, None) if gone else (None, value)))
                for row in rows for name, value in zip(kept.names, row) if value is not None]

    def sample_keys(self, kept: Kept, limit: int = 3) -> tuple[str, ...]:
        """Give the keys of a table's first rows, as text; none where it has no key."""
        places = [kept.position(name) for name in kept.table.key]
        if not places:
            return ()
        columns = ", ".join(f"c{place}" for place in places)
        rows = self._connection.execute(f"SELECT {columns} FROM {kept.relation} ORDER BY ALL LIMIT {limit}").fetchall()
        return tuple(", ".join(f"{name}={shortened(value)}" for name, value in zip(kept.table.key, row))
                     for row in rows)

    def compare(self, before: Kept, after: Kept, lineage: dict[str, str],
                added: frozenset[str] = frozenset()) -> Comparison:
        """Compare a table at two revisions.

        Parameters
        ----------
        lineage
            For each column of `after` that continues one of `before`, that one's name.
        added
            Columns that earlier revisions of the same rehearsal added: they too may have taken up the values of a
            column that is gone now. A column that was always there may not: that two columns agree today is no proof.
        """
        comparison = Comparison(self._connection, before, after, lineage)
        comparison.find_carried(added)
        return comparison


class Comparison:
    """A table at two revisions, row against row."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, before: Kept, after: Kept,
                 lineage: dict[str, str]) -> None:
        self._connection = connection
        self.before, self.after = before, after
        self.pairs = [(before.position(was), after.position(name)) for name, was in lineage.items()]
        self.lineage = lineage
        self.new = frozenset(name for name in after.names if name not in lineage)
        self.carried: list[tuple[int, int]] = []
        self.key = [] if before.relation == after.relation else self._find_key()

    # ---- which row is which

    def _find_key(self) -> list[tuple[int, int]]:
        """Find the columns that tell a row at both revisions: pairs of places, empty when there are none."""
        for columns in self._candidate_keys():
            if self._tell_apart(columns):
                return columns
        return self._renamed_key()

    def _candidate_keys(self) -> Iterator[list[tuple[int, int]]]:
        now = {b: a for b, a in self.pairs}
        was = {a: b for b, a in self.pairs}
        before, after = self.before.table, self.after.table
        for names in (before.key, *before.uniques):
            places = [self.before.position(name) for name in names]
            if places and all(place in now for place in places):
                yield [(place, now[place]) for place in places]
        for names in (after.key, *after.uniques):
            places = [self.after.position(name) for name in names]
            if places and all(place in was for place in places):
                yield [(was[place], place) for place in places]

    def _renamed_key(self) -> list[tuple[int, int]]:
        """Take a key that only changed its name: the same values under another column's name."""
        old, new = self.before.table.key, self.after.table.key
        if len(old) != 1 or len(new) != 1 or new[0] in self.lineage or old[0] in self.lineage.values():
            return []
        b, a = self.before.position(old[0]), self.after.position(new[0])
        if not self._tell_apart([(b, a)]):
            return []
        shared = self._one(f"SELECT count(*) FROM {self.before.relation} b JOIN {self.after.relation} a "
                           f"ON {self._same_key(b, a)}")
        if not shared or shared < min(self.before.rows, self.after.rows):
            return []
        self.lineage = {**self.lineage, new[0]: old[0]}
        self.pairs.append((b, a))
        return [(b, a)]

    def _tell_apart(self, columns: list[tuple[int, int]]) -> bool:
        """Say whether columns hold no NULL and no value twice, before and after, in the form they are joined on."""
        for letter, kept, side in (("b", self.before, 0), ("a", self.after, 1)):
            if any(kept.values[pair[side]] < kept.rows for pair in columns):
                return False
            forms = ", ".join(self._joinable(letter, kept, pair, side) for pair in columns)
            if kept.rows != self._one(f"SELECT count(*) FROM (SELECT DISTINCT {forms} FROM {kept.relation} {letter})"):
                return False
        return True

    def _joinable(self, letter: str, kept: Kept, pair: tuple[int, int], side: int) -> str:
        """Give the SQL of a value in the form in which it equals what it was, or became, at the other revision."""
        if self._retyped(*pair):
            return _canonical(letter, self.before, pair[0], self.after, pair[1])
        if self.before.kinds[pair[0]] == self.after.kinds[pair[1]]:
            return f"{letter}.c{pair[side]}"
        return _as_union(f"{letter}.c{pair[side]}", kept.kinds[pair[side]])

    def _same_key(self, b: int, a: int) -> str:
        return f"{self._joinable('b', self.before, (b, a), 0)} = {self._joinable('a', self.after, (b, a), 1)}"

    # ---- which value is which

    def _retyped(self, b: int, a: int) -> bool:
        return self.before.table.columns[b].type.upper() != self.after.table.columns[a].type.upper()

    def _same(self, b: int, a: int) -> str:
        """Give the SQL that says whether two values, neither of them NULL, are the same."""
        return _same_value(self.before, b, self.after, a, retyped=self._retyped(b, a))

    def _joined(self) -> str:
        on = " AND ".join(self._same_key(b, a) for b, a in self.key)
        return f"{self.before.relation} b FULL OUTER JOIN {self.after.relation} a ON {on}"

    def find_carried(self, added: frozenset[str]) -> None:
        """Find the columns that are gone, but whose every value stands, row by row, in another column."""
        if not self.key:
            return
        new = [name for name in self.after.names if name not in self.lineage]
        older = [name for name in self.after.names if name in added and name not in new]
        for b in self._gone():
            if not self.before.values[b]:
                continue
            name = next((name for name in new + older if self._carries(b, self.after.position(name))), None)
            if name in new:
                new.remove(name)
                self.lineage = {**self.lineage, name: self.before.names[b]}
                self.pairs.append((b, self.after.position(name)))
            elif name:
                self.carried.append((b, self.after.position(name)))

    def _gone(self) -> list[int]:
        followed = {b for b, _ in self.pairs} | {b for b, _ in self.carried}
        return [b for b in range(len(self.before.names)) if b not in followed]

    def _carries(self, b: int, a: int) -> bool:
        if self.after.values[a] == 0:
            return False
        held, same = self._row(f"SELECT count(*) FILTER (WHERE b.c{b} IS NOT NULL), count(*) FILTER (WHERE b.c{b} IS "
                               f"NOT NULL AND a.c{a} IS NOT NULL AND {self._same(b, a)}) FROM {self._joined()} "
                               f"WHERE b.rowid IS NOT NULL AND a.rowid IS NOT NULL")
        return 0 < held == same

    # ---- the ledger

    def ledger(self) -> TableLedger:
        """Count what became of every row and value."""
        if self.before.relation == self.after.relation:
            return self._untouched()
        return self._keyed() if self.key else self._multiset()

    def _untouched(self) -> TableLedger:
        rows, values = self.before.rows, zip(self.before.names, self.before.values)
        return TableLedger(rows, rows, rows, 0, 0, 0, tuple(ColumnLedger(n, n, kept=count) for n, count in values))

    def _keyed(self) -> TableLedger:
        both = "b.rowid IS NOT NULL AND a.rowid IS NOT NULL"
        differ = " OR ".join(self._differs(b, a) for b, a in self.pairs) or "false"
        wanted = [f"{both} AND NOT ({differ})", f"{both} AND ({differ})", "a.rowid IS NULL", "b.rowid IS NULL"]
        for b, a in self.pairs:
            held = f"b.c{b} IS NOT NULL AND a.c{a} IS NOT NULL"
            wanted += [f"{held} AND {self._same(b, a)}", f"{held} AND NOT ({self._same(b, a)})",
                       f"b.c{b} IS NOT NULL AND a.c{a} IS NULL", f"b.c{b} IS NULL AND a.c{a} IS NOT NULL",
                       f"{both} AND b.c{b} IS NULL AND a.c{a} IS NOT NULL"]
        counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in wanted)
        found = list(self._row(f"SELECT {counts} FROM {self._joined()}"))
        return TableLedger(self.before.rows, self.after.rows, *found[:4], self._columns(found[4:]))

    def _columns(self, found: list[int]) -> tuple[ColumnLedger, ...]:
        counted = {}
        for place, (b, a) in enumerate(self.pairs):
            counted[a] = ColumnLedger(self.after.names[a], self.before.names[b], *found[5 * place:5 * place + 5])
        now = [counted.get(a) or ColumnLedger(name, "", filled=self.after.values[a])
               for a, name in enumerate(self.after.names)]
        carried = [ColumnLedger(self.after.names[a], self.before.names[b], kept=self.before.values[b])
                   for b, a in self.carried]
        gone = [ColumnLedger(self.before.names[b], self.before.names[b], lost=self.before.values[b])
                for b in self._gone()]
        return tuple(now + carried + gone)

    def _differs(self, b: int, a: int) -> str:
        return (f"((b.c{b} IS NULL) <> (a.c{a} IS NULL) OR "
                f"(b.c{b} IS NOT NULL AND a.c{a} IS NOT NULL AND NOT ({self._same(b, a)})))")

    def _multiset(self) -> TableLedger:
        """Compare rows that nothing tells apart: as many of each as there were."""
        if not self.pairs:
            return self._replaced()
        grouped = []
        for letter, kept, side in (("b", self.before, 0), ("a", self.after, 1)):
            columns = ", ".join(f"{self._joinable(letter, kept, pair, side)} AS k{place}"
                                for place, pair in enumerate(self.pairs))
            grouped.append(f"(SELECT {columns}, count(*) AS n FROM {kept.relation} {letter} GROUP BY ALL)")
        on = " AND ".join(f"g.k{place} IS NOT DISTINCT FROM h.k{place}" for place in range(len(self.pairs)))
        wanted = ["least(coalesce(g.n, 0), coalesce(h.n, 0))", "greatest(coalesce(g.n, 0) - coalesce(h.n, 0), 0)",
                  "greatest(coalesce(h.n, 0) - coalesce(g.n, 0), 0)"]
        sums = wanted[:]
        for place in range(len(self.pairs)):
            value = f"coalesce(g.k{place}, h.k{place}) IS NOT NULL"
            sums += [f"CASE WHEN {value} THEN {count} ELSE 0 END" for count in wanted]
        counts = ", ".join(f"coalesce(sum({count}), 0)::BIGINT" for count in sums)
        found = list(self._row(f"SELECT {counts} FROM {grouped[0]} g FULL OUTER JOIN {grouped[1]} h ON {on}"))
        kept, lost, added = found[:3]
        columns = []
        for place in range(len(self.pairs)):
            k, gone, new = found[3 + 3 * place:6 + 3 * place]
            columns += [k, 0, gone, new, 0]
        return TableLedger(self.before.rows, self.after.rows, kept, 0, lost, added, self._columns(columns))

    def _replaced(self) -> TableLedger:
        """Count rows of which no column continues: all gone, all new."""
        return TableLedger(self.before.rows, self.after.rows, 0, 0, self.before.rows, self.after.rows,
                           self._columns([]))

    # ---- the rows

    def differences(self) -> list[tuple[tuple | None, str, Any, Any]]:
        """Give every value that differs: key, column, before, after; by key, then in the columns' order.

        Without a key the rows that differ are given whole, and the key is None.
        """
        if self.before.relation == self.after.relation:
            return []
        statement = self._cells()
        if not statement:
            return []
        found = self._connection.execute(f"SELECT * FROM ({statement}) ORDER BY ALL").fetchall()
        width = len(self.key)
        return [(tuple(row[:width]) or None, row[width + 1], row[width + 2], row[width + 3]) for row in found]

    def sample_changes(self, was: str, name: str, limit: int = 3) -> list[tuple[str, Any, Any]]:
        """Give a few values that are others now, or gone from a row that is there: key, before, after; by key."""
        b, a = self.before.position(was), self.after.position(name)
        return self._sample(f"b.rowid IS NOT NULL AND a.rowid IS NOT NULL AND b.c{b} IS NOT NULL AND "
                            f"{self._value_gone(b, a)}", [f"b.c{b}", f"a.c{a}"], limit)

    def sample_of(self, was: str, limit: int = 3) -> list[tuple[str, Any]]:
        """Give a few values of a column as it was: key, value; by key."""
        b = self.before.position(was)
        return self._sample(f"b.c{b} IS NOT NULL", [f"b.c{b}"], limit)

    def _sample(self, condition: str, values: list[str], limit: int) -> list[tuple]:
        if not self.key:
            return []
        keys = [self._key_value(b, a) for b, a in self.key]
        rows = self._connection.execute(f"SELECT {', '.join(keys + values)} FROM {self._joined()} WHERE {condition} "
                                        f"ORDER BY {', '.join(keys)} LIMIT {limit}").fetchall()
        width = len(keys)
        return [(self._key_told(row[:width]), *row[width:]) for row in rows]

    def _key_told(self, values: tuple) -> str:
        return ", ".join(f"{self.before.names[b]}={shortened(value)}" for (b, _), value in zip(self.key, values))

    def filled_with(self, name: str, was: str | None, limit: int = 4) -> list[tuple[Any, int]]:
        """Give what a column was filled with where it had NULL, or was not there: value and number, most first."""
        a = self.after.position(name)
        here = f"a.c{a} IS NOT NULL"
        if was is None or not self.key:
            source = f"{self.after.relation} a WHERE {here}"
        else:
            b = self.before.position(was)
            source = f"{self._joined()} WHERE {here} AND b.rowid IS NOT NULL AND b.c{b} IS NULL"
        return self._connection.execute(f"SELECT a.c{a}, count(*) AS n FROM {source} GROUP BY a.c{a} "
                                        f"ORDER BY n DESC, a.c{a} LIMIT {limit}").fetchall()

    def lost_for_good(self, back: Comparison | None) -> tuple[int, tuple[str, ...], dict[str, int]]:
        """Count what is gone or another one, less what a downgrade brought back.

        Parameters
        ----------
        back
            The comparison of the same `before` with the table after the downgrade; None when there was none.

        Returns
        -------
        the rows gone, the keys of a few of them, and per column (its name before) the values gone from other rows
        """
        mine = self._lost_cells("lost_up")
        width = len(self.key)
        if back is not None and [b for b, _ in back.key] == [b for b, _ in self.key]:
            keys = ", ".join([*(f"key{place}" for place in range(width)), "place"])
            # A row that came back with another value in it has lost a value, not itself.
            mine = (f"(SELECT {keys}, up.gone AND back.gone AS gone FROM {mine} up "
                    f"JOIN {back._lost_cells('lost_back')} back USING ({keys}))")
        keys = ", ".join(f"key{place}" for place in range(width))
        rows = self._one(f"SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {mine} WHERE gone)")
        few = self._connection.execute(f"SELECT DISTINCT {keys} FROM {mine} WHERE gone ORDER BY ALL LIMIT 3").fetchall()
        values = self._connection.execute(f"SELECT place, count(*) FROM {mine} WHERE NOT gone "
                                          "GROUP BY place").fetchall()
        told = tuple(self._key_told(row) for row in few)
        return rows, told, {self.before.names[place]: count for place, count in values}

    def _value_gone(self, b: int, a: int) -> str:
        return f"(a.c{a} IS NULL OR NOT ({self._same(b, a)}))"

    def _key_value(self, b: int, a: int) -> str:
        if self.before.kinds[b] == self.after.kinds[a]:
            return f"coalesce(b.c{b}, a.c{a})"
        return f"coalesce({_boxed('b', self.before, b)}, {_boxed('a', self.after, a)})"

    def _cells(self) -> str:
        gone = self._gone()
        new = [a for a in range(len(self.after.names)) if a not in {place for _, place in self.pairs}]
        if not self.key:
            return self._loose_rows()
        keys = ", ".join(f"{self._key_value(b, a)} AS key{place}" for place, (b, a) in enumerate(self.key))
        source = self._joined()
        parts = []
        for b, a in self.pairs:
            parts.append((a, self.after.names[a], _boxed("b", self.before, b), _boxed("a", self.after, a),
                          self._differs(b, a)))
        null = f"NULL::{_UNION}"
        parts += [(a, self.after.names[a], null, _boxed("a", self.after, a), f"a.c{a} IS NOT NULL") for a in new]
        parts += [(len(self.after.names) + b, self.before.names[b], _boxed("b", self.before, b), null,
                   f"b.c{b} IS NOT NULL") for b in gone]
        return " UNION ALL ".join(f"SELECT {keys}, {place} AS place, {_literal(name)} AS name, {old} AS before, "
                                  f"{now} AS after FROM {source} WHERE {differ}"
                                  for place, name, old, now, differ in parts)

    def _loose_rows(self) -> str:
        """Give the SQL of the rows without key that are gone or new, value by value."""
        if not self.pairs:
            return ""
        sides = []
        for letter, kept, side in (("b", self.before, 0), ("a", self.after, 1)):
            columns = ", ".join(f"{self._joinable(letter, kept, pair, side)} AS k{place}"
                                for place, pair in enumerate(self.pairs))
            sides.append(f"(SELECT {columns} FROM {kept.relation} {letter})")
        null, parts = f"NULL::{_UNION}", []
        for place, pair in enumerate(self.pairs):
            value = _as_union(f"k{place}", "t" if self._retyped(*pair) else self._kind_joined(pair))
            head = f"SELECT {place} AS place, {_literal(self.after.names[pair[1]])} AS name"
            where = f"WHERE k{place} IS NOT NULL"
            parts.append(f"{head}, {value} AS before, {null} AS after FROM ({sides[0]} EXCEPT ALL {sides[1]}) {where}")
            parts.append(f"{head}, {null} AS before, {value} AS after FROM ({sides[1]} EXCEPT ALL {sides[0]}) {where}")
        return " UNION ALL ".join(parts)

    def _kind_joined(self, pair: tuple[int, int]) -> str:
        old, new = self.before.kinds[pair[0]], self.after.kinds[pair[1]]
        return old if old == new else _SEVERAL

    def _lost_cells(self, name: str) -> str:
        """Write the values of `before` that are gone or others into a temporary table; give its name.

        A row per value: key0 …, place (of the column), gone (whether its whole row is).
        """
        keys = ", ".join(f"b.c{b} AS key{place}" for place, (b, _) in enumerate(self.key))
        mapped = dict(self.pairs + self.carried)
        parts = []
        for b in range(len(self.before.names)):
            gone = f"coalesce({self._value_gone(b, mapped[b])}, true)" if b in mapped else "true"
            parts.append(f"SELECT {keys}, {b} AS place, a.rowid IS NULL AS gone FROM {self._joined()} "
                         f"WHERE b.rowid IS NOT NULL AND b.c{b} IS NOT NULL AND (a.rowid IS NULL OR {gone})")
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {' UNION ALL '.join(parts)}")
        return name

    # ---- asking

    def _row(self, statement: str) -> tuple:
        return self._connection.execute(statement).fetchone()

    def _one(self, statement: str) -> Any:
        return self._row(statement)[0]


def _by_kind(values: tuple) -> dict[str, pa.Array]:
    """Split a column's values by kind into Arrow arrays of the full length, NULL where a value is of another kind."""
    types = set(map(type, values)) - {type(None)}
    kinds = {_KIND_OF[found] for found in types}
    if len(kinds) == 1 and kinds != {"t"}:
        kind = kinds.pop()
        return {kind: pa.array(values, _ARROW[kind])}
    if kinds == {"t"}:
        try:
            return {"t": pa.array(values, pa.string())}
        except UnicodeEncodeError:
            pass
    tagged = [_tagged(value) for value in values]
    return {kind: pa.array([value if tag == kind else None for tag, value in tagged], _ARROW[kind])
            for kind in _KINDS if any(tag == kind for tag, _ in tagged)}


def _tagged(value: Any) -> tuple[str, Any]:
    if value is None:
        return "", None
    kind = _KIND_OF[type(value)]
    if kind == "t":
        try:
            value.encode()
        except UnicodeEncodeError:
            return "x", value.encode("utf-8", "surrogateescape")
    return kind, value


def _stored(place: int, parts: dict[str, pa.Array], kind: str) -> str:
    """Give the SQL that puts a batch's arrays of one column into its kept form."""
    if not parts:
        return "NULL"
    if kind != _SEVERAL:
        return f"c{place}_{kind}"
    cases = " ".join(f"WHEN c{place}_{part} IS NOT NULL THEN union_value({part} := c{place}_{part})::{_UNION}"
                     for part in parts)
    return f"CASE {cases} END"


def _as_union(expression: str, kind: str) -> str:
    if kind == _SEVERAL:
        return expression
    if not kind:
        return f"NULL::{_UNION}"
    return f"CASE WHEN {expression} IS NOT NULL THEN union_value({kind} := {expression})::{_UNION} END"


def _boxed(letter: str, kept: Kept, place: int) -> str:
    return _as_union(f"{letter}.c{place}", kept.kinds[place])


def _member(letter: str, kept: Kept, place: int, kind: str) -> str | None:
    """Give the SQL of a value as one kind, NULL where it is of another; None where the column never is of that kind."""
    held = kept.kinds[place]
    if held == kind:
        return f"{letter}.c{place}"
    return f"union_extract({letter}.c{place}, '{kind}')" if held == _SEVERAL else None


def _canonical(letter: str, before: Kept, b: int, after: Kept, a: int) -> str:
    """Give the SQL of a value as text that is the same before and after where `_equal` says that the value survived.

    1 and 1.0 and '1' are one; a text is brought to the form of a number where numbers may have become text.
    """
    kept, place = (before, b) if letter == "b" else (after, a)
    number = "CASE WHEN {0} = trunc({0}) AND abs({0}) < 9e18 THEN {0}::BIGINT::VARCHAR ELSE {0}::VARCHAR END"
    text = "{0}"
    if before.kinds[b] in ("i", "r", _SEVERAL) and after.kinds[a] in ("t", "b", _SEVERAL):
        cast = number.format("TRY_CAST({0} AS DOUBLE)")
        text = f"CASE WHEN regexp_full_match({{0}}, '-?[0-9]+') THEN {{0}} ELSE coalesce({cast}, {{0}}) END"
    elif after.kinds[a] == "r":
        text = "regexp_replace({0}, '^(-?[0-9]+)\\.0$', '\\1')"
    forms = {"i": "{0}::VARCHAR", "r": number, "t": text, "x": "'x' || hex({0})",
             "b": f"coalesce({text.format('TRY(decode({0}))')}, 'x' || hex({{0}}))"}
    members = [(_member(letter, kept, place, kind), form) for kind, form in forms.items()]
    held = ", ".join(form.format(member) for member, form in members if member)
    return f"coalesce({held})" if held else "NULL::VARCHAR"


def _same_value(before: Kept, b: int, after: Kept, a: int, *, retyped: bool) -> str:
    old, new = before.kinds[b], after.kinds[a]
    if not old or not new:
        return "false"
    if not retyped:
        if old == new:
            return f"b.c{b} = a.c{a}"
        return f"coalesce({_boxed('b', before, b)} = {_boxed('a', after, a)}, false)"
    ways = [_equal(_member("b", before, b, x), _member("a", after, a, y), x + y) for x in _KINDS for y in _KINDS]
    return "(" + (" OR ".join(f"coalesce({way}, false)" for way in ways if way) or "false") + ")"


def _equal(old: str | None, new: str | None, kinds: str) -> str | None:
    """Give the SQL that says whether a value survived a change of its column's type, by its kinds before and after.

    A number that became text must give the number back; a text that became a number must have been exactly that
    number's own text, for '007' is not what 7 gives back.
    """
    if old is None or new is None:
        return None
    if kinds[0] == kinds[1]:
        return f"{old} = {new}"
    forms = {
        "ir": "({1} = trunc({1}) AND TRY_CAST({1} AS HUGEINT) = {0})",
        "ri": "({0} = trunc({0}) AND TRY_CAST({0} AS HUGEINT) = {1})",
        "it": "({1} = {0}::VARCHAR OR {1} = {0}::VARCHAR || '.0')",
        "rt": "(TRY_CAST({1} AS DOUBLE) = {0})",
        "ti": "({0} = {1}::VARCHAR)",
        "tr": "({0} = {1}::VARCHAR OR {0} || '.0' = {1}::VARCHAR)",
        "ib": "(encode({0}::VARCHAR) = {1})",
        "bi": "({0} = encode({1}::VARCHAR))",
        "rb": "(TRY_CAST(TRY(decode({1})) AS DOUBLE) = {0})",
        "br": "({0} = encode({1}::VARCHAR) OR {0} = encode(regexp_replace({1}::VARCHAR, '\\.0$', '')))",
        "tb": "(encode({0}) = {1})",
        "bt": "({0} = encode({1}))",
        "xb": "({0} = {1})",
        "bx": "({0} = {1})",
    }
    return forms[kinds].format(old, new) if kinds in forms else None


def shortened(value: Any) -> str:
    """Give a value as Python writes it, cut where it is long."""
    told = repr(value)
    return told if len(told) <= 40 else told[:37] + "…" + told[-1]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# ---- which table and which column is which

Match = tuple[str | None, str | None, TableLedger, Comparison | None, tuple[str, ...]]


def match_tables(snapshots: Snapshots, before: dict[str, Kept], after: dict[str, Kept],
                 renames: list[tuple[str, dict[str, str]]], moved: dict[str, str],
                 added: dict[str, frozenset[str]]) -> list[Match]:
    """Set the tables of two moments side by side, with the ledger of each pair.

    Parameters
    ----------
    renames
        What statements said of columns: (table, {new: old}), in order.
    moved
        The tables that statements renamed: {new: old}, in lower case.
    added
        The columns that this rehearsal added, by table.

    Returns
    -------
    name before, name after, ledger, comparison, and for a table that went the keys of a few rows; by name; a name is
    missing where a table came or went
    """
    partners = _renamed(before, after, moved)
    new = [name for name in after if name not in partners.values()]
    found = []
    for name in before:
        for other in () if name in partners else sorted(new):
            if _moved_whole(_compare(snapshots, before[name], after[other], renames, frozenset())):
                partners[name] = other
                new.remove(other)
                break
        if name in partners:
            other = partners[name]
            comparison = _compare(snapshots, before[name], after[other], renames, added.get(name, frozenset()))
            found.append((name, other, comparison.ledger(), comparison, ()))
        else:
            found.append((name, None, _gone(before[name]), None, snapshots.sample_keys(before[name])))
    found += [(None, name, _new(after[name]), None, ()) for name in new]
    return sorted(found, key=lambda entry: entry[1] or entry[0])


def _renamed(before: dict[str, Kept], after: dict[str, Kept], moved: dict[str, str]) -> dict[str, str]:
    """Give for each table the one that it became: the one that statements made of it, else the one of its name."""
    names = {name.lower(): name for name in before}
    origins = {other: names.get(moved[other.lower()]) for other in after if other.lower() in moved}
    partners = {origin: other for other, origin in origins.items() if origin is not None}
    taken = set(partners.values())
    partners.update({name: name for name in before if name in after and name not in partners and name not in taken})
    return partners


def _compare(snapshots: Snapshots, before: Kept, after: Kept, renames: list[tuple[str, dict[str, str]]],
             added: frozenset[str]) -> Comparison:
    names = {before.table.name.lower(), after.table.name.lower()}
    lineage = _trace(before.names, after.names, [pairs for table, pairs in renames if table.lower() in names])
    return snapshots.compare(before, after, lineage, added)


def _moved_whole(comparison: Comparison) -> bool:
    """Whether a table that appeared holds every row and value of one that went: the same under another name."""
    ledger = comparison.ledger()
    return 0 < ledger.before == ledger.kept and not any(column.lost for column in ledger.columns)


def _trace(before: list[str], after: list[str], renames: list[dict[str, str]]) -> dict[str, str]:
    """Give for each column afterwards the one before that it continues. SQL names know no case."""
    now = {name.lower(): name for name in before}
    for pairs in renames:
        origins = {new.lower(): now.get(old.lower()) for new, old in pairs.items()}
        for old in pairs.values():
            now.pop(old.lower(), None)
        now.update({new: origin for new, origin in origins.items() if origin is not None})
    return {name: now[name.lower()] for name in after if name.lower() in now}


def _gone(kept: Kept) -> TableLedger:
    columns = tuple(ColumnLedger(name, name, lost=count) for name, count in zip(kept.names, kept.values))
    return TableLedger(kept.rows, 0, 0, 0, kept.rows, 0, columns)


def _new(kept: Kept) -> TableLedger:
    columns = tuple(ColumnLedger(name, "", filled=count) for name, count in zip(kept.names, kept.values))
    return TableLedger(0, kept.rows, 0, 0, 0, kept.rows, columns)
