"""A table at two revisions: which row, which column and which value is which."""
from collections.abc import Iterator

from appkit.snapshots import Snapshots
from appkit.values import Kept, as_union, canonical, same_value


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
        self.connection = snapshots.connection
        self.before, self.after = before, after
        self.pairs = [(before.position(was), after.position(name)) for name, was in lineage.items()]
        self.lineage = lineage
        self.new = frozenset(name for name in after.names if name not in lineage)
        self.carried: list[tuple[int, int]] = []
        self.key = [] if before.relation == after.relation else self._find_key()
        if before.relation != after.relation:
            self._find_carried(added)

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
        shared = self._count(f"{self.before.relation} b JOIN {self.after.relation} a ON {self._same_key(b, a)}")
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
            forms = ", ".join(self.joinable(letter, kept, pair, side) for pair in columns)
            if kept.rows != self._count(f"(SELECT DISTINCT {forms} FROM {kept.relation} {letter})"):
                return False
        return True

    def joinable(self, letter: str, kept: Kept, pair: tuple[int, int], side: int) -> str:
        """Give the SQL of a value in the form in which it equals what it was, or became, at the other revision."""
        if self.retyped(*pair):
            return canonical(letter, self.before, pair[0], self.after, pair[1])
        if self.before.kinds[pair[0]] == self.after.kinds[pair[1]]:
            return f"{letter}.c{pair[side]}"
        return as_union(f"{letter}.c{pair[side]}", kept.kinds[pair[side]])

    def _same_key(self, b: int, a: int) -> str:
        return f"{self.joinable('b', self.before, (b, a), 0)} = {self.joinable('a', self.after, (b, a), 1)}"

    def retyped(self, b: int, a: int) -> bool:
        """Say whether a column's declared type changed."""
        return self.before.table.columns[b].type.upper() != self.after.table.columns[a].type.upper()

    def same(self, b: int, a: int) -> str:
        """Give the SQL that says whether two values, neither of them NULL, are the same."""
        return same_value(self.before, b, self.after, a, retyped=self.retyped(b, a))

    def joined(self) -> str:
        """Give the SQL that joins the rows before, as b, with those after, as a, on the key."""
        on = " AND ".join(self._same_key(b, a) for b, a in self.key)
        return f"{self.before.relation} b FULL OUTER JOIN {self.after.relation} a ON {on}"

    def _find_carried(self, added: frozenset[str]) -> None:
        """Find the columns that are gone, but whose every value stands, row by row, in another column."""
        new = [name for name in self.after.names if name not in self.lineage]
        older = [name for name in self.after.names if name in added and name not in new]
        for b in self.gone():
            if not self.before.values[b]:
                continue
            name = next((name for name in new + older if self._carries(b, self.after.position(name))), None)
            if name in new:
                new.remove(name)
                self.lineage = {**self.lineage, name: self.before.names[b]}
                self.pairs.append((b, self.after.position(name)))
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
        held, same = self.row(f"SELECT count(*) FILTER (WHERE b.c{b} IS NOT NULL), count(*) FILTER (WHERE b.c{b} IS "
                              f"NOT NULL AND a.c{a} IS NOT NULL AND {self.same(b, a)}) FROM {self.joined()} "
                              f"WHERE b.rowid IS NOT NULL AND a.rowid IS NOT NULL")
        return 0 < held == same

    def differs(self, b: int, a: int) -> str:
        """Give the SQL that says whether two values, either of which may be NULL, differ."""
        return (f"((b.c{b} IS NULL) <> (a.c{a} IS NULL) OR "
                f"(b.c{b} IS NOT NULL AND a.c{a} IS NOT NULL AND NOT ({self.same(b, a)})))")

    def multiset_counts(self, pairs: list[tuple[int, int]]) -> list[int]:
        """Compare rows that nothing tells apart, by some columns: as many of each as there were.

        Returns
        -------
        rows kept, lost and added; then for each of the columns its values kept, lost and added
        """
        grouped = []
        for letter, kept, side in (("b", self.before, 0), ("a", self.after, 1)):
            columns = ", ".join(f"{self.joinable(letter, kept, pair, side)} AS k{place}"
                                for place, pair in enumerate(pairs))
            grouped.append(f"(SELECT {columns}, count(*) AS n FROM {kept.relation} {letter} GROUP BY ALL)")
        on = " AND ".join(f"g.k{place} IS NOT DISTINCT FROM h.k{place}" for place in range(len(pairs)))
        wanted = ["least(coalesce(g.n, 0), coalesce(h.n, 0))", "greatest(coalesce(g.n, 0) - coalesce(h.n, 0), 0)",
                  "greatest(coalesce(h.n, 0) - coalesce(g.n, 0), 0)"]
        held = ["true", *(f"coalesce(g.k{place}, h.k{place}) IS NOT NULL" for place in range(len(pairs)))]
        counts = ", ".join(f"coalesce(sum({count}) FILTER (WHERE {value}), 0)::BIGINT"
                           for value in held for count in wanted)
        return list(self.row(f"SELECT {counts} FROM {grouped[0]} g FULL OUTER JOIN {grouped[1]} h ON {on}"))

    def row(self, statement: str) -> tuple:
        """Give the one row of a query."""
        return self.connection.execute(statement).fetchone()

    def _count(self, source: str) -> int:
        return self.row(f"SELECT count(*) FROM {source}")[0]
