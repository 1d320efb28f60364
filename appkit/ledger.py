"""The ledger: what became of every row and value of a table."""
from dataclasses import dataclass

from appkit.comparison import CHANGED, FILLED, LOST, TOGETHER, Comparison
from appkit.values import Kept


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


def count_ledger(comparison: Comparison) -> TableLedger:
    """Count what became of every row and value."""
    if comparison.before is comparison.after:
        return _untouched(comparison)
    return _keyed(comparison) if comparison.key else _loose(comparison)


def _untouched(comparison: Comparison) -> TableLedger:
    rows, values = comparison.before.rows, zip(comparison.before.names, comparison.before.values)
    return TableLedger(rows, rows, rows, 0, 0, 0, tuple(ColumnLedger(n, n, kept=count) for n, count in values))


def _keyed(comparison: Comparison) -> TableLedger:
    """Count the rows and values that differ; what is kept is the rest."""
    before, after = comparison.before, comparison.after
    wanted = ["a IS NOT NULL AND b IS NOT NULL", "a IS NULL", "b IS NULL"]
    for b, _ in comparison.moved:
        wanted += [f"f{b} = {CHANGED}", f"f{b} = {LOST}", f"f{b} = {FILLED} AND b IS NOT NULL"]
    changed, lost, added, *counts = _counts(comparison, wanted)
    moved = {pair: counts[3 * place:3 * place + 3] for place, pair in enumerate(comparison.moved)}
    found: list[int] = []
    for b, a in comparison.pairs:
        other, gone, invented = moved.get((b, a), (0, 0, 0))
        kept = before.values[b] - other - gone
        found += [kept, other, gone, after.values[a] - kept - other, invented]
    return TableLedger(before.rows, after.rows, before.rows - changed - lost, changed, lost, added,
                       _columns(comparison, found))


def _counts(comparison: Comparison, conditions: list[str]) -> list[int]:
    if comparison.alike:
        return [0] * len(conditions)
    found: list[int] = []
    counts = [f"count(*) FILTER (WHERE {condition})" for condition in conditions]
    for start in range(0, len(counts), 3 * TOGETHER):
        found += comparison.row(f"SELECT {', '.join(counts[start:start + 3 * TOGETHER])} FROM {comparison.differing}")
    return found


def _columns(comparison: Comparison, found: list[int]) -> tuple[ColumnLedger, ...]:
    counted = {}
    for place, (b, a) in enumerate(comparison.pairs):
        counts = found[5 * place:5 * place + 5]
        counted[a] = ColumnLedger(comparison.after.names[a], comparison.before.names[b], *counts)
    now = [counted.get(a) or ColumnLedger(name, "", filled=comparison.after.values[a])
           for a, name in enumerate(comparison.after.names)]
    carried = [ColumnLedger(comparison.after.names[a], comparison.before.names[b], kept=comparison.before.values[b])
               for b, a in comparison.carried]
    gone = [ColumnLedger(comparison.before.names[b], comparison.before.names[b], lost=comparison.before.values[b])
            for b in comparison.gone()]
    return tuple(now + carried + gone)


def _loose(comparison: Comparison) -> TableLedger:
    before, after = comparison.before.rows, comparison.after.rows
    if comparison.alike:
        found = [before, 0, 0, *(count for b, _ in comparison.pairs for count in (comparison.before.values[b], 0, 0))]
    else:
        found = comparison.multiset_counts(comparison.pairs) if comparison.pairs else [0, before, after]
    kept, lost, added = found[:3]
    columns = []
    for place in range(len(comparison.pairs)):
        same, gone, new = found[3 + 3 * place:6 + 3 * place]
        columns += [same, 0, gone, new, 0]
    return TableLedger(before, after, kept, 0, lost, added, _columns(comparison, columns))


def gone_ledger(kept: Kept) -> TableLedger:
    """Count a table that went as a whole."""
    columns = tuple(ColumnLedger(name, name, lost=count) for name, count in zip(kept.names, kept.values))
    return TableLedger(kept.rows, 0, 0, 0, kept.rows, 0, columns)


def new_ledger(kept: Kept) -> TableLedger:
    """Count a table that came as a whole."""
    columns = tuple(ColumnLedger(name, "", filled=count) for name, count in zip(kept.names, kept.values))
    return TableLedger(0, kept.rows, 0, 0, 0, kept.rows, columns)
