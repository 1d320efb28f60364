"""Rehearsal: what a rehearsal saw, to look at, to ask, and to apply."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pandas as pd

from appkit.applying import Applied, apply
from appkit.batches import join_batches
from appkit.databases import database_of, engine_of
from appkit.differences import differences
from appkit.display import count_severities, html_of, json_of, text_of
from appkit.errors import RehearsalError, UnknownTableError
from appkit.findings import COLUMNS, UNSAFE, Finding, Pair, Step
from appkit.progress import Work
from appkit.record import Record
from appkit.schema import Difference
from appkit.tables import typed_frame

_LEDGER = ["revision", "table", "before", "after", "kept", "changed", "lost", "added"]
_VALUES = ["revision", "table", "column", "was", "kept", "changed", "lost", "filled"]
_STATEMENTS = ["revision", "statement", "seconds", "rows", "locks", "waits", "rewritten", "scanned", "held", "wal",
               "algorithm", "warnings"]
_LOCKS = ["revision", "statement", "table", "mode", "taken", "released"]
_WAITS = ["revision", "table", "who", "seconds", "rows", "rows_per_second", "estimate", "statement"]
_DIFFERENCES = ["key", "column", "before", "after"]


@dataclass(frozen=True, eq=False, repr=False)
class Rehearsal:
    """What the pending revisions did to a private copy of a database.

    findings
        revision, severity ('loss', 'outage', 'failure' or 'warning'), finding, where, evidence, effect, advice: texts.
    ledger
        A row per revision and table: before = kept + changed + lost and after = kept + changed + added, in rows.
    columns
        A row per revision, table and column, in values that are not NULL: what stood there before = kept + changed +
        lost, what stands there after = kept + changed + filled. `was` is the column's name before, '' for a new one; a
        column that is gone stands under its old name.
    statements
        A row per statement: seconds; rows (as the driver counts them, missing where it does not); locks, those newly
        taken, a line `table mode` each; waits, who would wait from here to the end of the transaction (`readers of
        post`, `writers of post`, `writers of the same rows of post`); rewritten, the tables and indexes written anew;
        scanned, the tables read as a whole, with the rows read; held, seconds from the statement to the end of its
        transaction; wal, bytes; algorithm, the first that the server accepted; warnings, the server's. What the
        database was not asked is missing.
    locks
        A row per lock: revision, statement, table, mode, taken and released (seconds since the revision began).
    schema
        A row per object that differs: revision, change, kind, table, name, before, after.
    work
        Where the time went: revision, work (copying, running, keeping or comparing), rows (missing
        where it is not by rows), seconds.
    """

    start: str
    revisions: tuple[str, ...]
    findings: pd.DataFrame
    ledger: pd.DataFrame
    columns: pd.DataFrame
    statements: pd.DataFrame
    locks: pd.DataFrame
    schema: pd.DataFrame
    work: pd.DataFrame
    _record: Record
    _steps: dict[str, Step]

    @classmethod
    def of(cls, record: Record, steps: list[Step], findings: list[Finding]) -> Rehearsal:
        """Put what was seen into frames."""
        return cls(next(iter(record.states)), record.pending,
                   _frame(map(astuple, findings), COLUMNS, COLUMNS),
                   _frame(_ledger_rows(steps), _LEDGER, _LEDGER[:2]),
                   _frame(_value_rows(steps), _VALUES, _VALUES[:4]),
                   _statements(steps),
                   _locks(steps),
                   _schema(steps),
                   _work(record.work),
                   record, {step.revision: step for step in steps})

    @property
    def safe(self) -> bool:
        """Whether every revision was rehearsed, and there is no loss, outage or failure that is not accepted."""
        return len(self._steps) == len(self.revisions) and not self.findings["severity"].isin(UNSAFE).any()

    def rows(self, table: str, revision: str | None = None) -> pd.DataFrame:
        """Give the values of a table that differ after a revision; left out, the last one after which some do.

        Returns
        -------
        DataFrame, one row per value, by key, then in the columns' order
            Columns: key (the value, a tuple of several, or None where nothing tells rows apart), column, before, after
            (None where there is no value). A row that is gone has its values in before, a new one in after.

        Raises
        ------
        UnknownTableError
            When no such table was there, before or after.
        RehearsalError
            When no such revision was rehearsed.
        """
        pair = self._pair(table, revision)
        if pair is None:
            return pd.DataFrame(columns=_DIFFERENCES, dtype=object)
        found = differences(pair.comparison) if pair.comparison else self._whole(pair)
        rows = [(key[0] if key and len(key) == 1 else key, *rest) for key, *rest in found]
        return pd.DataFrame({name: pd.Series([row[place] for row in rows], dtype=object)
                             for place, name in enumerate(_DIFFERENCES)})

    def table(self, name: str, at: str | None = None) -> pd.DataFrame:
        """Give a table as it stood at a revision; left out, at the last. `start` names the state before the first."""
        at = list(self._record.states)[-1] if at is None else at
        if at not in self._record.states:
            raise RehearsalError(f"No state {at!r} was kept. There are: {', '.join(self._record.states)}.")
        tables = self._record.states[at].tables
        if name not in tables:
            raise UnknownTableError(f"No table {name!r} at {at}. There are: {', '.join(tables) or 'none'}.")
        kept = tables[name]
        batch = join_batches(list(self._record.snapshots.read(kept)), len(kept.names))
        return typed_frame(kept.names, [column.type for column in kept.table.columns], batch,
                           database_of(engine_of(self._record.app)))

    def waits(self, rows: int | None = None) -> pd.DataFrame:
        """Give who would wait for the app's tables while this is applied, and for how long, by revision.

        Parameters
        ----------
        rows
            For what size of a table to give an estimate; left out, the size that it has.

        Returns
        -------
        DataFrame, one row per revision, table and who waits
            Columns: revision, table, who ('readers and writers' or 'writers'), seconds (observed here, from the
            statement that took the lock to the end of its transaction), rows (in the table), rows_per_second, estimate
            (seconds at `rows` rows, along a straight line: a lock that costs the same at any size is overrated),
            statement. Empty on a database whose locks are not seen.
        """
        found = [(step.revision, wait) for step in self._steps.values() for wait in step.waits]
        values = [(revision, wait.table, wait.who, wait.seconds, wait.rows, wait.rows / wait.seconds,
                   wait.estimate(wait.rows if rows is None else rows), wait.statement) for revision, wait in found]
        columns = list(zip(*values)) or [()] * len(_WAITS)
        kinds = {"rows": "Int64", "seconds": "Float64", "rows_per_second": "Float64", "estimate": "Float64"}
        return pd.DataFrame({name: pd.array(column, dtype=kinds.get(name, "string"))
                             for name, column in zip(_WAITS, columns)})

    def apply(self) -> Applied:
        """Upgrade the real database to what was rehearsed, and only to that, after a backup; say where the backup is.

        Raises
        ------
        ApplyError
            When the rehearsal was not safe, or the database or the revision files are no longer those rehearsed.
        """
        unsafe = self.findings[self.findings["severity"].isin(UNSAFE)]
        return apply(self._record, blocked=[f"{row.finding} {row.where}".strip() for row in unsafe.itertuples()])

    def to_dict(self) -> dict[str, Any]:
        """Give the verdict and every frame as plain values, as `flask rehearse --json` prints them."""
        return {"safe": self.safe, "start": self.start, "revisions": list(self.revisions),
                "reached": list(self._steps)[-1] if self._steps else self.start,
                **{name: json_of(getattr(self, name)) for name in
                   ("findings", "ledger", "columns", "statements", "locks", "schema", "work")}}

    def __repr__(self) -> str:
        return f"Rehearsal({self._title})"

    def __str__(self) -> str:
        return text_of(self._title, self.findings, self._tables, self._notes)

    def _repr_html_(self) -> str:
        return html_of(self._title, self.findings, self._tables, self.statements, self._notes)

    @property
    def _title(self) -> str:
        if not self.revisions:
            return f"nothing pending at {self.start}"
        verdict = "safe" if self.safe else "not safe"
        return f"{self.start} → {self.revisions[-1]}: {verdict}, {count_severities(self.findings)}"

    @property
    def _tables(self) -> dict[str, pd.DataFrame]:
        """The rows of the ledger and of the columns in which something differs."""
        rows, values = self.ledger, self.columns
        rows = rows[(rows["kept"] != rows["before"]) | (rows["after"] != rows["before"])]
        inside = values.merge(self.ledger[(self.ledger["before"] > 0) & (self.ledger["after"] > 0)][_LEDGER[:2]])
        values = inside[(inside["changed"] > 0) | (inside["lost"] > 0) | (inside["filled"] > 0)]
        return {"Rows that differ, by revision and table:": rows,
                "Values that differ, by revision, table and column:": values}

    @property
    def _notes(self) -> list[str]:
        if not self.revisions:
            return ["Nothing is pending. An app that upgrades its database while it is created has done so by now: "
                    "rehearse a plain app on the same models and migrations."]
        missed = self.revisions[len(self._steps):]
        notes = [f"Not rehearsed, so unknown: {', '.join(missed)}."] if missed else []
        if self._record.unused:
            notes.append(f"Accepted in revision files, but not found: {'; '.join(self._record.unused)}.")
        if self._record.notes:
            notes.append(f"Not as at the source: {'; '.join(self._record.notes)}.")
        if not self._record.downgrade:
            notes.append("Downgrades were not run: whether there is a way back is unknown.")
        return notes

    def _whole(self, pair: Pair) -> list[tuple]:
        """Give every value of a table that came or went as a whole."""
        states = [state.tables for state in self._record.states.values()]
        kept = next((tables[pair.name] for tables in (states if pair.after else states[::-1]) if pair.name in tables))
        return self._record.snapshots.whole(kept, gone=pair.after is None)

    def _pair(self, table: str, revision: str | None) -> Pair | None:
        if revision is not None and revision not in self._steps:
            raise RehearsalError(f"Revision {revision!r} was not rehearsed. These were: "
                                 f"{', '.join(self._steps) or 'none'}.")
        steps = list(self._steps.values()) if revision is None else [self._steps[revision]]
        pairs = [pair for step in steps for pair in step.pairs if table in (pair.before, pair.after)]
        if not pairs:
            known = sorted({pair.name for step in steps for pair in step.pairs})
            raise UnknownTableError(f"No table {table!r}. There are: {', '.join(known) or 'none'}.")
        differing = [pair for pair in pairs if not pair.ledger.whole]
        return (differing or [None])[-1]


def _frame(rows: Iterable[tuple], names: list[str], texts: list[str]) -> pd.DataFrame:
    columns = list(zip(*rows)) or [()] * len(names)
    return pd.DataFrame({name: pd.array(values, dtype="string") if name in texts else
                         pd.array(np.array(values, dtype=np.int64), dtype="Int64")
                         for name, values in zip(names, columns)})


def _ledger_rows(steps: list[Step]) -> Iterable[tuple]:
    for step in steps:
        for pair in step.pairs:
            ledger = pair.ledger
            yield (step.revision, pair.name, ledger.before, ledger.after, ledger.kept, ledger.changed, ledger.lost,
                   ledger.added)


def _value_rows(steps: list[Step]) -> Iterable[tuple]:
    for step in steps:
        for pair in step.pairs:
            for column in pair.ledger.columns:
                yield (step.revision, pair.name, column.column, column.was, column.kept, column.changed, column.lost,
                       column.filled)


def _statements(steps: list[Step]) -> pd.DataFrame:
    found = [(step.revision, statement) for step in steps for statement in step.statements]
    texts = {"revision": [revision for revision, _ in found], "statement": [s.text.strip() for _, s in found],
             "locks": [_lines(s.locks, lambda lock: f"{lock.table} {lock.mode}") for _, s in found],
             "waits": [_lines(s.waits, str) for _, s in found],
             "rewritten": [", ".join(sorted(s.rewritten)) for _, s in found],
             "scanned": [_lines(s.scanned, lambda table: f"{table} {s.scanned[table]}") for _, s in found],
             "algorithm": [s.algorithm for _, s in found], "warnings": ["\n".join(s.warnings) for _, s in found]}
    arrays = {name: pd.array(values, dtype="string") for name, values in texts.items()}
    for name, dtype in (("seconds", "Float64"), ("rows", "Int64"), ("held", "Float64"), ("wal", "Int64")):
        arrays[name] = pd.array([getattr(s, name) for _, s in found], dtype=dtype)
    return pd.DataFrame({name: arrays[name] for name in _STATEMENTS})


def _lines(found: Iterable[Any] | None, told: Callable[[Any], str]) -> str | None:
    return None if found is None else "\n".join(sorted(set(map(told, found))))


def _locks(steps: list[Step]) -> pd.DataFrame:
    found = [(step.revision, statement.text.strip(), lock.table, lock.mode, lock.since - step.began,
              lock.until - step.began if lock.until else None)
             for step in steps for statement in step.statements for lock in statement.locks or ()]
    columns = list(zip(*found)) or [()] * len(_LOCKS)
    return pd.DataFrame({name: pd.array(values, dtype="Float64" if name in _LOCKS[4:] else "string")
                         for name, values in zip(_LOCKS, columns)})


def _schema(steps: list[Step]) -> pd.DataFrame:
    names = ["revision", *Difference._fields]
    return _frame(((step.revision, *each) for step in steps for each in step.schema), names, names)


def _work(done: Iterable[Work]) -> pd.DataFrame:
    columns = list(zip(*done)) or [()] * 4
    return pd.DataFrame({name: pd.array(values, dtype=dtype) for name, values, dtype in zip(
        ("revision", "work", "rows", "seconds"), columns, ("string", "string", "Int64", "Float64"))})
