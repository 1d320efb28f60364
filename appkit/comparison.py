"""A table at two revisions: which row, which column and which value is which."""
from collections.abc import Iterator
from functools import cached_property
from itertools import count, pairwise

import duckdb

from appkit.snapshots import Snapshots
from appkit.values import Kept, as_union, canonical, same_value

_numbers = count(1)  # of the tables of rows that differ: one connection has those of several comparisons
_FIRST = 2048  # rows that are looked at before all of them
TOGETHER = 40  # columns counted by one statement: DuckDB takes much longer over a few that are very long

KEPT, CHANGED, LOST, FILLED = range(4)  # what became of a value, in the table of rows that differ

# MB of memory, rows of a slice, slices at a time: the next where DuckDB cannot do with one, for rows may be long. What
# goes through the rows in their order takes the same time with little memory; other joins begin with the second. Only
# one thread works on a group of 122,880 rows, as DuckDB stores them: so it is two slices that go side by side.
_WAYS = ((100, 122_880, 2), (512, 32_768, 1), (512, 8_192, 1), (2048, 8_192, 1))


def _between(place: int, low: int | None, high: int | None) -> str:
    conditions = [f"c{place} >= {low}"] * (low is not None) + [f"c{place} < {high}"] * (high is not None)
    return " AND ".join(conditions) or "true"


class Comparison:
    """A table at two revisions, row against row.

    Parameters
    ----------
    lineage
        For each column of `after` that continues one of `before`, that one's name.
    added
        Columns that earlier revisions of the same rehearsal added: they too may have taken up the values of a column
        that is gone now. A column that was always there may not: that two columns agree today is no proof.
    """

    def __init__(self, snapshots: Snapshots, before: Kept, after: Kept, lineage: dict[str, str],
                 added: frozenset[str] = frozenset()) -> None:
        self.snapshots, self.connection, self.large = snapshots, snapshots.connection, snapshots.large
        self.before, self.after = before, after
        self.pairs = [(before.position(was), after.position(name)) for name, was in lineage.items()]
        self.lineage = lineage
        self.new = frozenset(name for name in after.names if name not in lineage)
        self.carried: list[tuple[int, int]] = []
        self.aligned = False  # whether a row stands at the same place before and after
        self.rising = False  # whether the key is of integers, and the rows are in its order before and after
        self.still: frozenset[tuple[int, int]] = frozenset()  # pairs that hold the same values in the same order
        self.alike = False  # whether it is known that no row differs, in the columns that go on
        self.key: list[tuple[int, int]] = []
        if before is not after:
            self.still = self._find_still()
            self.alike = bool(self.pairs) and self.still.issuperset(self.pairs)
            if not self.alike:
                self.load()
            self.key = self._find_key()
            self._find_carried(added)

    def load(self) -> None:
        """Have the rows of both where they are compared."""
        self.snapshots.load(self.before)
        self.snapshots.load(self.after)

    def _find_still(self) -> frozenset[tuple[int, int]]:
        """Find the columns of a few rows that hold the same values, of the same kinds, in the same order."""
        before, after = self.before.few, self.after.few
        if before is None or after is None or before.rows != after.rows:
            return frozenset()
        both = {(b, a): (before.columns[b], after.columns[a]) for b, a in self.pairs}
        return frozenset(pair for pair, (old, new) in both.items()
                         if old.keys() == new.keys() and all(old[kind].equals(new[kind]) for kind in old))

    @property
    def moved(self) -> list[tuple[int, int]]:
        """The columns that go on and may hold another value in a row that is there before and after."""
        return [pair for pair in self.pairs if not (self.aligned and pair in self.still)]

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
        self.load()
        if not self._tell_apart([(b, a)]):
            return []
        joined = f"{self.before.relation} b JOIN {self.after.relation} a ON {self._same_key(b, a)}"
        shared = self.before.rows if self.aligned else self._count(joined)
        if not shared or shared < min(self.before.rows, self.after.rows):
            return []
        self.lineage = {**self.lineage, new[0]: old[0]}
        self.pairs.append((b, a))
        self.alike = False
        return [(b, a)]

    def _tell_apart(self, columns: list[tuple[int, int]]) -> bool:
        """Say whether columns hold no NULL and no value twice, before and after, in the form they are joined on.

        Where every row stands at its place, it is enough that the database holds them unique on one side.
        """
        sides = ("b", self.before, 0), ("a", self.after, 1)
        if any(kept.values[pair[side]] < kept.rows for _, kept, side in sides for pair in columns):
            return False
        self.aligned = self._stand_in_line(columns)
        self.rising = self._rise(columns)
        if self.aligned or self.rising:
            return True
        return all(self._count_different(*side, columns) == side[1].rows for side in sides)

    def _stand_in_line(self, columns: list[tuple[int, int]]) -> bool:
        """Say whether the two tables hold the same values of some columns in the same order."""
        if self.before.rows != self.after.rows:
            return False
        if self.still.issuperset(columns):
            return True
        differ = " OR ".join(f"NOT coalesce({self._same_key(*pair)}, false)" for pair in columns)
        return not self._any(f"{self._side_by_side()} WHERE {differ}")

    def _rise(self, columns: list[tuple[int, int]]) -> bool:
        """Say whether the key's integers rise from row to row, before and after: then none is there twice."""
        if self.before.last is None or self.after.last is None:
            return False
        key = self.before.position(self.before.table.key[0]), self.after.position(self.after.table.key[0])
        return columns == [key] and not self.retyped(*key)

    def _unlike(self, columns: list[tuple[int, int]]) -> str:
        return " OR ".join(f"{self.joinable('b', self.before, pair, 0)} IS DISTINCT FROM "
                           f"{self.joinable('a', self.after, pair, 1)}" for pair in columns)

    def _side_by_side(self) -> str:
        return f"{self.before.relation} b POSITIONAL JOIN {self.after.relation} a"

    def _count_different(self, letter: str, kept: Kept, side: int, columns: list[tuple[int, int]]) -> int:
        forms = ", ".join(self.joinable(letter, kept, pair, side) for pair in columns)
        return self._count(f"(SELECT DISTINCT {forms} FROM {kept.relation} {letter})")

    def joinable(self, letter: str, kept: Kept, pair: tuple[int, int], side: int) -> str:
        """Give the SQL of a value in the form in which it equals what it was, or became, at the other revision."""
        if self.retyped(*pair):
            return canonical(letter, self.before, pair[0], self.after, pair[1])
        if self.before.kinds[pair[0]] == self.after.kinds[pair[1]]:
            return f"{letter}.c{pair[side]}"
        return as_union(f"{letter}.c{pair[side]}", kept.kinds[pair[side]])

    def _same_key(self, b: int, a: int) -> str:
        same = f"{self.joinable('b', self.before, (b, a), 0)} = {self.joinable('a', self.after, (b, a), 1)}"
        # The form that is joined on may be alike where the value did not survive.
        return f"{same} AND {self.same(b, a)}" if self.retyped(b, a) else same

    def retyped(self, b: int, a: int) -> bool:
        """Say whether a column's declared type changed."""
        return self.before.table.columns[b].type.upper() != self.after.table.columns[a].type.upper()

    def same(self, b: int, a: int) -> str:
        """Give the SQL that says whether two values, neither of them NULL, are the same."""
        return same_value(self.before, b, self.after, a, retyped=self.retyped(b, a))

    def joined(self) -> str:
        """Give the SQL that joins the rows before, as b, with those after, as a, on the key."""
        if self.aligned:
            return self._side_by_side()
        on = " AND ".join(self._same_key(b, a) for b, a in self.key)
        return f"{self.before.relation} b FULL OUTER JOIN {self.after.relation} a ON {on}"

    def _find_carried(self, added: frozenset[str]) -> None:
        """Find the columns that are gone, but whose every value stands, row by row, in another column."""
        new = [name for name in self.after.names if name not in self.lineage]
        older = [name for name in self.after.names if name in added and name not in new]
        for b in self.gone():
            if not self.before.values[b] or not new + older:
                continue
            self.load()
            name = next((name for name in new + older if self._carries(b, self.after.position(name))), None)
            if name in new:
                new.remove(name)
                self.lineage = {**self.lineage, name: self.before.names[b]}
                self.pairs.append((b, self.after.position(name)))
                self.alike = False
            elif name:
                self.carried.append((b, self.after.position(name)))

    def gone(self) -> list[int]:
        """Give the places of the columns before that nothing continues."""
        followed = {b for b, _ in self.pairs} | {b for b, _ in self.carried}
        return [b for b in range(len(self.before.names)) if b not in followed]

    def _carries(self, b: int, a: int) -> bool:
        if self.after.values[a] == 0:
            return False
        if not self.key:
            return self.before.rows == self.multiset_counts([*self.pairs, (b, a)])[0]
        both = f"{self.joined()} WHERE b.rowid IS NOT NULL AND a.rowid IS NOT NULL AND b.c{b} IS NOT NULL"
        other = f"{both} AND (a.c{a} IS NULL OR NOT ({self.same(b, a)}))"
        return not self._any(f"{other} AND b.rowid < {_FIRST}") and not self._any(other) and self._any(both)

    def differs(self, b: int, a: int) -> str:
        """Give the SQL that says whether two values, either of which may be NULL, differ."""
        if self.before.kinds[b] == self.after.kinds[a] and not self.retyped(b, a):
            return f"b.c{b} IS DISTINCT FROM a.c{a}"
        return (f"((b.c{b} IS NULL) <> (a.c{a} IS NULL) OR "
                f"(b.c{b} IS NOT NULL AND a.c{a} IS NOT NULL AND NOT ({self.same(b, a)})))")

    @cached_property
    def differing(self) -> str:
        """The name of a table of the rows that differ, written when first asked for: they are joined only once.

        A row per row that is gone, new, or holds another value: b and a, its places before and after, NULL where it is
        not; f0 …, what became of its value in each column before.
        """
        self.load()
        fates = [f"{self._fate(b, a)} AS f{b}" for b, a in self.moved]
        fates += [f"CASE WHEN b.c{b} IS NOT NULL AND a.rowid IS NULL THEN {LOST} ELSE {KEPT} END::TINYINT AS f{b}"
                  for b, _ in self.carried]
        fates += [f"CASE WHEN b.c{b} IS NOT NULL THEN {LOST} ELSE {KEPT} END::TINYINT AS f{b}" for b in self.gone()]
        differ = " OR ".join(["a.rowid IS NULL", "b.rowid IS NULL", *(self.differs(b, a) for b, a in self.moved)])
        name = f"differing{next(_numbers)}"
        places = "".join(f", f{b} TINYINT DEFAULT {KEPT}" for b in range(len(self.before.names)))
        told = ", ".join(["b.rowid AS b", "a.rowid AS a", *fates])
        found = self._write(f"{name} (b BIGINT, a BIGINT{places})",
                            f"INSERT INTO {name} BY NAME SELECT {told} FROM ", f" WHERE {differ}")
        self.alike = found == 0
        return name

    def _write(self, table: str, start: str, end: str) -> int:
        """Make a table of what a statement selects from the joined rows, in slices if it can be; give how many rows."""
        sliced = self.rising and bool(self.key) and not self.aligned and not self.before.few
        kind = "TABLE" if sliced else "TEMP TABLE"  # what goes side by side sees no other's TEMP TABLE
        ways = _WAYS if sliced or self.aligned and not self.before.few else _WAYS[1:]
        for way in ways:
            memory, size, together = way
            self.connection.execute(f"CREATE OR REPLACE {kind} {table}")
            sources = self._slices(size) if sliced else [self.joined()]
            try:
                with self.snapshots.limited(memory):
                    return self.snapshots.run_beside([start + source + end for source in sources], together)
            except duckdb.OutOfMemoryException:
                if way is ways[-1]:
                    raise

    def _slices(self, size: int) -> list[str]:
        """Give the SQL that joins so many rows each: DuckDB finds them without a search, for they are in order."""
        (b, a), = self.key
        bounds = [None, *(self.row(f"SELECT c{b} FROM {self.before.relation} WHERE rowid = {place}")[0]
                          for place in range(size, self.before.rows, size)), None]
        return [f"(SELECT *, rowid FROM {self.before.relation} WHERE {_between(b, low, high)}) b FULL OUTER JOIN "
                f"(SELECT *, rowid FROM {self.after.relation} WHERE {_between(a, low, high)}) a ON b.c{b} = a.c{a}"
                for low, high in pairwise(bounds)]

    def release(self) -> None:
        """Let the table of rows that differ go; it is written again when it is asked for again."""
        if name := self.__dict__.pop("differing", None):
            self.connection.execute(f"DROP TABLE {name}")

    def _fate(self, b: int, a: int) -> str:
        same = self.same(b, a)
        return (f"CASE WHEN b.c{b} IS NULL THEN CASE WHEN a.c{a} IS NULL THEN {KEPT} ELSE {FILLED} END "
                f"WHEN a.c{a} IS NULL THEN {LOST} WHEN {same} THEN {KEPT} ELSE {CHANGED} END::TINYINT")

    def multiset_counts(self, pairs: list[tuple[int, int]]) -> list[int]:
        """Compare rows that nothing tells apart, by some columns: as many of each as there were.

        Returns
        -------
        rows kept, lost and added; then for each of the columns its values kept, lost and added
        """
        grouped = [f"(SELECT *, count(*) AS n FROM {side} GROUP BY ALL)" for side in self.unlike_rows(pairs)]
        on = " AND ".join(f"g.k{place} IS NOT DISTINCT FROM h.k{place}" for place in range(len(pairs)))
        wanted = ["greatest(coalesce(g.n, 0) - coalesce(h.n, 0), 0)",
                  "greatest(coalesce(h.n, 0) - coalesce(g.n, 0), 0)"]
        held = ["true", *(f"coalesce(g.k{place}, h.k{place}) IS NOT NULL" for place in range(len(pairs)))]
        counts = ", ".join(f"coalesce(sum({count}) FILTER (WHERE {value}), 0)::BIGINT"
                           for value in held for count in wanted)
        found = self.row(f"SELECT {counts} FROM {grouped[0]} g FULL OUTER JOIN {grouped[1]} h ON {on}")
        before = [self.before.rows, *(self.before.values[b] for b, _ in pairs)]
        return [number for held, lost, added in zip(before, found[::2], found[1::2])
                for number in (held - lost, lost, added)]

    def unlike_rows(self, pairs: list[tuple[int, int]]) -> list[str]:
        """Give the queries of the rows before, and after, less those that stand as they were at the same place.

        Their columns k0 … are in the form in which a value equals what it was, or became.
        """
        forms = [[f"{self.joinable(letter, kept, pair, side)} AS k{place}" for place, pair in enumerate(pairs)]
                 for letter, kept, side in (("b", self.before, 0), ("a", self.after, 1))]
        if self.before.rows != self.after.rows:
            return [f"(SELECT {', '.join(columns)} FROM {kept.relation} {letter})"
                    for columns, kept, letter in zip(forms, (self.before, self.after), "ba")]
        differ = self._unlike(pairs)
        return [f"(SELECT {', '.join(columns)} FROM {self._side_by_side()} WHERE {differ})" for columns in forms]

    def row(self, statement: str) -> tuple:
        """Give the one row of a query."""
        return self.connection.execute(statement).fetchone()

    def _count(self, source: str) -> int:
        return self.row(f"SELECT count(*) FROM {source}")[0]

    def _any(self, source: str) -> bool:
        return self.connection.execute(f"SELECT 1 FROM {source} LIMIT 1").fetchone() is not None
