"""The rules: what was observed of a revision goes in, findings come out."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from appkit import wording
from appkit.comparison import Comparison
from appkit.databases import Entry, Statement, fold
from appkit.differences import filled_with, lost_for_good, sample_changes, sample_of
from appkit.ledger import TableLedger
from appkit.objects import Announced, find_lost_objects
from appkit.outage import Wait, find_scans, find_waits
from appkit.schema import Difference
from appkit.script import Script
from appkit.values import shortened

COLUMNS = ["revision", "severity", "finding", "where", "evidence", "effect", "advice"]
UNSAFE = ("loss", "outage", "failure")
_WRITES_ROWS = re.compile(r"\s*(INSERT|UPDATE|REPLACE|WITH|LOAD|CALL)\b", re.IGNORECASE)
_COUNTS = re.compile(r"\b(GENERATED|AUTO_INCREMENT|AS)\b")
_WORKERS = 5  # what parallel workers read of a full scan is not counted; fewer rows are a look at some of them
_ENOUGH = 1000  # rows, for a rate to mean something


@dataclass(frozen=True)
class Finding:
    """Something a reader must know before the upgrade: a row of `Rehearsal.findings`."""

    revision: str
    severity: str  # 'loss', 'outage', 'failure' or 'warning'
    finding: str
    where: str  # 'table', 'table.column' or ''
    evidence: str
    effect: str
    advice: str


@dataclass(frozen=True)
class Pair:
    """A table before and after a revision; either name may be missing."""

    before: str | None
    after: str | None
    ledger: TableLedger
    comparison: Comparison | None = None
    keys: tuple[str, ...] = ()  # of a few rows of a table that went

    @property
    def name(self) -> str:
        """The table's name: the one it has afterwards, where it is still there."""
        return self.after or self.before

    @property
    def untouched(self) -> bool:
        """Whether nothing can have written to the table."""
        return self.comparison is not None and self.comparison.before is self.comparison.after


@dataclass(frozen=True)
class Failure:
    """A revision, or its downgrade, that did not run to its end."""

    reason: str
    statement: str = ""
    obstacle: Any = None


@dataclass(frozen=True)
class RoundTrip:
    """A revision taken back and applied again."""

    refused: Failure | None = None
    back_pairs: list[Pair] = field(default_factory=list)  # as it stood before the upgrade, and after the downgrade
    back_schema: list[Difference] = field(default_factory=list)
    again_failed: Failure | None = None
    again_pairs: list[Pair] = field(default_factory=list)
    again_schema: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """All that was observed of one revision."""

    revision: str
    script: Script
    statements: list[Statement]
    pairs: list[Pair]
    schema: list[Difference]
    catalogue: dict[str, tuple[Entry, ...]]  # as it is afterwards, by table
    drops: frozenset[tuple[str, str]] = frozenset()  # what DROP statements named: kind and folded name
    failure: Failure | None = None
    left_behind: str = ""  # what a failed revision left changed
    not_reached: tuple[str, ...] = ()
    trip: RoundTrip | None = None
    deaths: tuple[tuple[str, str], ...] = ()  # before which statement it died, and why it could not be run again
    tried: int = 0  # how many deaths were tried
    unwatched: bool = False  # whether something ran past SQLAlchemy
    ran: float = 0.0  # seconds that the upgrade took
    began: float = 0.0  # in seconds of time.perf_counter
    patience: float = 1.0  # seconds that the app's users may wait
    advise: Callable[[str], str] = str  # how to do what a statement does without stopping the app

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each table held before, by its name then."""
        return {pair.before: pair.ledger.before for pair in self.pairs if pair.before}

    @property
    def waits(self) -> list[Wait]:
        """Who waited for which table; nobody is told of where the revision failed."""
        return [] if self.failure else list(find_waits(self.statements, self.rows))


def judge(step: Step) -> list[Finding]:
    """Give the findings of one revision, but for who waits; those accepted in its file as warnings."""
    return [_accepted(finding, step.script) for finding in (
        *_failures(step), *_deaths(step), *_unwatched(step), *_losses(step), *_objects(step), *_inventions(step),
        *_invalid(step), *_reversal(step))]


def judge_waits(step: Step) -> list[Finding]:
    """Give the findings of who waits for a revision, once it is known how long its locks were held."""
    return [_accepted(finding, step.script) for finding in _outages(step)]


def by_gravity(found: list[Finding]) -> list[Finding]:
    """Sort findings, the gravest first."""
    order = {severity: place for place, severity in enumerate((*UNSAFE, "warning"))}
    return sorted(found, key=lambda finding: order[finding.severity])


def find_unused(step: Step, found: list[Finding]) -> set[str]:
    """Give what the revision's file accepts that is not among its findings: mistyped, or no longer so."""
    return step.script.accepted - {f"{finding.finding} {finding.where}".strip() for finding in found}


def _accepted(finding: Finding, script: Script) -> Finding:
    reason = script.accepts(finding.finding, finding.where)
    # What fails is not done by agreeing to it: nothing after it was seen.
    if reason is None or finding.severity == "warning" or finding.finding in ("fails", "half-applied"):
        return finding
    return replace(finding, severity="warning", advice=wording.ACCEPTED,
                   effect=f"Accepted in the revision file: {reason}. {finding.effect}")


# ---- what fails

def _failures(step: Step) -> Iterator[Finding]:
    failure = step.failure
    if failure is None:
        return
    where, evidence, advice = "", failure.reason, wording.CORRECT
    obstacle = failure.obstacle
    if obstacle and obstacle.rows:
        named = obstacle.column and obstacle.kind in ("not null", "unique")
        where = f"{obstacle.table}.{obstacle.column}" if named else obstacle.table
        evidence += (f"; {_rows(obstacle.rows)} in the way: {obstacle.what} "
                     f"({_few(obstacle.keys, obstacle.rows)})")
        advice = wording.THREE_STEPS[obstacle.kind].format(table=obstacle.table, column=obstacle.column or "…")
    if failure.statement:
        evidence += f"; statement: {_short(failure.statement)}"
    rest = f" Not rehearsed, so unknown: {', '.join(step.not_reached)}." if step.not_reached else ""
    yield Finding(step.revision, "failure", "fails", where, evidence, f"The upgrade stops here.{rest}", advice)
    if step.left_behind:
        yield Finding(step.revision, "failure", "half-applied", where, step.left_behind, *wording.HALF_APPLIED)


def _deaths(step: Step) -> Iterator[Finding]:
    """Tell of statements after which a death leaves what can neither be finished nor taken back."""
    if step.deaths:
        told = "; ".join(f"before {_short(text)}: then {reason}" for text, reason in step.deaths[:2])
        yield Finding(step.revision, "warning", "half-applied", "",
                      f"died between its statements, it cannot be run again at {len(step.deaths)} of {step.tried} "
                      f"points: {told}", wording.DIES, wording.HALF_APPLIED[1])


def _unwatched(step: Step) -> Iterator[Finding]:
    if step.unwatched:
        yield Finding(step.revision, "warning", "not-watched", "", *wording.NOT_WATCHED)


# ---- what is lost

@dataclass(frozen=True)
class _Lost:
    """What a table lost for good: rows, and values of rows that are still there by column."""

    rows: int
    keys: tuple[str, ...]
    values: dict[str, int]  # by the column's name before


def _losses(step: Step) -> Iterator[Finding]:
    if step.failure:
        return
    for pair in _touched(step.pairs):
        if pair.before is None or pair.ledger.whole:
            continue
        lost = _lost_for_good(pair, step.trip)
        if lost.rows:
            yield _rows_lost(step, pair, lost)
        for column in pair.ledger.columns:
            if lost.values.get(column.was) and not _is_generated(pair, column.was):
                yield _values_lost(step, pair, column, lost.values[column.was])


def _touched(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if not pair.untouched]


def _is_generated(pair: Pair, column: str) -> bool:
    """A generated column says nothing that the columns it is computed from do not."""
    before = pair.comparison.before
    return before.table.columns[before.position(column)].generated


def _lost_for_good(pair: Pair, trip: RoundTrip | None) -> _Lost:
    """Take off what the downgrade, really run, brought back."""
    back = None
    if trip and not trip.refused:
        back = next((other for other in trip.back_pairs if other.before == pair.before), None)
    ledger = pair.ledger
    if back is not None and back.ledger.kept == ledger.before and not _unkept(back.ledger):
        return _Lost(0, (), {})
    if pair.comparison is None or not pair.comparison.key:
        return _lost_by_count(pair, back)
    return _Lost(*lost_for_good(pair.comparison, back.comparison if back else None))


def _unkept(ledger: TableLedger) -> bool:
    return bool(ledger.lost or any(column.changed or column.lost for column in ledger.columns))


def _lost_by_count(pair: Pair, back: Pair | None) -> _Lost:
    """Where nothing tells rows apart, or no table is left to compare with, numbers are all there is."""
    rows = min(pair.ledger.lost, back.ledger.lost) if back else pair.ledger.lost
    values = {}
    for column in pair.ledger.columns:
        if pair.after is not None and column.was and column.was == column.column and _dropped(pair, column.column):
            again = next((other.lost for other in back.ledger.columns if other.was == column.was), 0) if back else None
            values[column.was] = column.lost if again is None else min(column.lost, again)
    return _Lost(rows, pair.keys, values)


def _dropped(pair: Pair, column: str) -> bool:
    return pair.comparison is not None and column not in pair.comparison.after.names


def _rows_lost(step: Step, pair: Pair, lost: _Lost) -> Finding:
    parent = _cascading(step.statements, pair.before)
    evidence = f"{lost.rows} of {_rows(pair.ledger.before)} gone"
    if lost.keys:
        evidence += f": {_few(lost.keys, lost.rows)}"
    undone = _not_undone(step)
    if parent:
        return Finding(step.revision, "loss", "children-lost", pair.name, f"{evidence}; by: {_short(parent)}",
                       f"Rows that the revision never names went with the table they refer to{undone}.",
                       wording.CHILDREN_GONE if re.match(r"\s*DROP\s+TABLE", parent, re.IGNORECASE) else
                       wording.TAKEN_ALONG)
    new = next((other for other in step.pairs if other.before is None and other.ledger.after == 0), None)
    advice = wording.KEEP_ROWS
    if pair.after is None and new is not None:
        advice = wording.RENAMED_TABLE.format(old=pair.before, new=new.after)
    return Finding(step.revision, "loss", "rows-lost", pair.name, evidence, f"These rows are deleted{undone}.", advice)


def _values_lost(step: Step, pair: Pair, column: Any, count: int) -> Finding:
    if _dropped(pair, column.was) and column.column == column.was:
        told = ", ".join(f"{key}: {shortened(value)}" for key, value in sample_of(pair.comparison, column.was))
        return Finding(step.revision, "loss", "values-lost", f"{pair.name}.{column.was}",
                       f"{count} of {_rows(pair.ledger.before)} held a value" + (f" ({told})" if told else ""),
                       f"The column is dropped with its values{_not_undone(step)}.", _rename_advice(pair, column.was))
    where = f"{pair.name}.{column.column}"
    samples = sample_changes(pair.comparison, column.was, column.column)
    told = "; ".join(f"{key}: {shortened(old)} → {shortened(new)}" for key, old, new in samples)
    parent = _cascading(step.statements, pair.before)
    if column.lost and not column.changed and parent:
        return Finding(step.revision, "loss", "children-lost", where,
                       f"{_counted(count, 'value')} set to NULL: {told}; by: {_short(parent)}",
                       "References that the revision never names were nulled with the table they refer to"
                       f"{_not_undone(step)}.", wording.CHILDREN_NULLED)
    name, now = ("values-changed", "different") if column.changed else ("values-lost", "gone")
    return Finding(step.revision, "loss", name, where, f"{count} of {_rows(pair.ledger.before)}: {told}",
                   f"Values that were there are {now} afterwards{_not_undone(step)}.", wording.KEEP_VALUES)


def _rename_advice(pair: Pair, column: str) -> str:
    """Take a new column of the same declared type for the old one under a new name; name all where that is unclear."""
    before, after = pair.comparison.before, pair.comparison.after
    types = {each.name: each.type.upper() for each in after.table.columns}
    new = [other.column for other in pair.ledger.columns if not other.was]
    alike = [name for name in new if types[name] == before.table.columns[before.position(column)].type.upper()]
    if not new:
        return wording.KEEP_COLUMN
    if len(alike) == 1 or len(new) == 1:
        return wording.RENAMED_COLUMN.format(old=column, new=(alike or new)[0])
    return wording.PERHAPS_RENAMED.format(old=column, new=", ".join(alike or new))


def _cascading(statements: list[Statement], table: str) -> str:
    """Give the statement that wrote to a table without naming it, where none that names it deletes from it."""
    quoted = "|".join(re.escape(table.replace(mark, mark * 2)) for mark in ('"', "`"))
    named = re.compile(rf"(?<![\w$])(?:{quoted})(?![\w$])", re.IGNORECASE)
    direct = re.compile(r"\s*(DELETE|DROP\s+TABLE|UPDATE|REPLACE|INSERT\s+OR\s+REPLACE)\b", re.IGNORECASE)
    by = ""
    for statement in statements:
        if fold(table) not in map(fold, statement.tables) or not direct.match(statement.text):
            continue
        if named.search(direct.sub("", statement.text, count=1)):
            return ""
        by = by or statement.text
    return by


def _not_undone(step: Step) -> str:
    if step.trip is None:
        return "; whether the downgrade brings them back was not tried"
    if step.trip.refused:
        return ", and the downgrade does not run"
    return ", and the downgrade does not bring them back"


# ---- who waits

def _outages(step: Step) -> Iterator[Finding]:
    if step.failure:
        return
    rows = step.rows
    for wait in step.waits:
        if wait.seconds <= step.patience:
            continue
        rate = f", {wait.rows / wait.seconds:,.0f} rows/s; {_straight(wait)}" if wait.rows >= _ENOUGH else ""
        name = "readers-wait" if "readers" in wait.who else "writers-wait"
        yield Finding(step.revision, "outage", name, wait.table,
                      f"{wait.who} wait {wait.seconds:.1f} s at {_rows(wait.rows)}{rate}; "
                      f"from: {_short(wait.statement)}",
                      wording.WAITS.format(who=wait.who, patience=step.patience), step.advise(wait.statement))
    for statement in step.statements:
        for table in sorted(statement.rewritten & {name for name, count in rows.items() if count}):
            if statement.locks is not None:  # where locks are seen: where a file is copied anyway, it says nothing
                yield Finding(step.revision, "warning", "table-rewritten", table,
                              f"{_rows(rows[table])} written anew by: {_short(statement.text)}", wording.REWRITTEN,
                              step.advise(statement.text))
    for table, text, read in find_scans(step.statements):
        if rows.get(table) and read * _WORKERS >= rows[table]:
            yield Finding(step.revision, "warning", "full-scan-under-lock", table,
                          f"{_rows(rows[table])}, all read by: {_short(text)}", wording.SCANNED, step.advise(text))


def _straight(wait: Wait) -> str:
    """Give the estimate for ten times the rows."""
    return f"about {wait.estimate(10 * wait.rows):,.0f} s at {10 * wait.rows:,} rows, if time grows with them"


def _invalid(step: Step) -> Iterator[Finding]:
    """Tell of indexes that are there and not used: new ones, and those that the revision takes for good."""
    changed = {(row.table, row.name) for row in step.schema if row.change != "removed"}
    texts = " ".join(statement.text for statement in step.statements)
    for table, entries in step.catalogue.items():
        for entry in entries:
            if entry.kind == "index" and entry.definition.endswith(" INVALID") and (
                    (table, entry.name) in changed or entry.name in texts):
                yield Finding(step.revision, "failure", "index-invalid", f"{table}.{entry.name}",
                              f"index {entry.name}: {entry.definition}", *wording.INVALID_INDEX)


# ---- what disappears beside rows

def _objects(step: Step) -> Iterator[Finding]:
    if step.failure:
        return
    announced = Announced(
        step.script, step.drops, any("sqlite_sequence" in statement.text for statement in step.statements),
        {pair.before for pair in step.pairs if pair.after is None},
        {pair.before: pair.after for pair in step.pairs if pair.before and pair.after and pair.before != pair.after})
    for lost in find_lost_objects(step.schema, announced):
        yield Finding(step.revision, "loss", "objects-lost", lost.where, lost.what, wording.OBJECTS_GONE,
                      wording.SAY_AGAIN.get(lost.kind, wording.SAY_AGAIN["other"]))


# ---- what is invented

def _inventions(step: Step) -> Iterator[Finding]:
    if step.failure:
        return
    for pair in _touched(step.pairs):
        if pair.comparison is None:
            continue
        for column in pair.ledger.columns:
            where = f"{pair.name}.{column.column}"
            if column.was and column.invented:
                told = _values_told(filled_with(pair.comparison, column.column, column.was))
                yield Finding(step.revision, "warning", "values-invented", where,
                              f"{column.invented} of {_rows(pair.ledger.before)} had NULL, now: {told}",
                              *wording.NULLS_FILLED)
            elif not column.was and (origin := _origin(step, pair.name, column.column)):
                values = filled_with(pair.comparison, column.column, None)
                if len(values) == 1 and pair.ledger.kept + pair.ledger.changed:
                    yield Finding(step.revision, "warning", "values-invented", where,
                                  f"all {values[0][1]} rows get {shortened(values[0][0])} ({origin})",
                                  *wording.DEFAULT_FILLED)


def _origin(step: Step, table: str, column: str) -> str:
    """Say where the values of a new column come from, if nobody entered them; '' if somebody may have."""
    definition = next((entry.definition for entry in step.catalogue.get(table, ())
                       if (entry.kind, entry.name) == ("column", column)), "")
    if default := f" {definition}".partition(" DEFAULT ")[2]:
        return f"DEFAULT {default}"
    written = any(_WRITES_ROWS.match(statement.text) for statement in step.statements if table in statement.tables)
    if "NOT NULL" not in definition or written or _COUNTS.search(definition):
        return ""
    return "it has no DEFAULT: the server invents a value"


def _values_told(values: list[tuple[Any, int]]) -> str:
    told = ", ".join(f"{shortened(value)} in {_rows(count)}" for value, count in values[:3])
    return told + (", …" if len(values) > 3 else "")


# ---- whether it can be taken back

def _reversal(step: Step) -> Iterator[Finding]:
    if step.trip is not None and step.failure is None:
        if verdict := _verdict(step, step.trip):
            severity, evidence, said = verdict
            yield Finding(step.revision, severity, "not-reversible", "", evidence, *said)


def _verdict(step: Step, trip: RoundTrip) -> tuple[str, str, tuple[str, str]] | None:
    """Say how far a round trip did not end where it began: severity, evidence, and what is said of it."""
    if trip.refused:
        return "failure", f"refuses: {trip.refused.reason}", wording.REFUSES
    lost = [f"{pair.name}: {told}" for pair in _touched(trip.back_pairs) if (told := _missing(pair.ledger))]
    schema = [f"{row.change} {row.kind} {row.table}.{row.name}" for row in _lasting(trip.back_schema)]
    if trip.again_failed:
        told = "; ".join([trip.again_failed.reason, *schema[:3]])
        return "failure", f"fails the second time: {told}", wording.SECOND_TIME
    if schema:
        told = "; ".join((schema + lost)[:4])
        return _going_back(step), f"lossy: after the downgrade, {told}", wording.LOSSY
    if lost:
        return _going_back(step), f"schema only: after the downgrade, {'; '.join(lost[:4])}", wording.SCHEMA_ONLY
    if again := _again(trip):
        return "warning", f"not the same the second time: {again}", wording.OTHERWISE
    return None


def _going_back(step: Step) -> str:
    """A downgrade that loses what the upgrade had kept is a loss of its own."""
    for back in _touched(step.trip.back_pairs):
        there = next((pair for pair in step.pairs if pair.before == back.before), None)
        if there is None or not _unkept(back.ledger):
            continue
        if not _unkept(there.ledger):
            return "loss"
    return "warning"


def _again(trip: RoundTrip) -> str:
    told = [f"{row.change} {row.kind} {row.table}.{row.name}" for row in _lasting(trip.again_schema)]
    told += [f"{pair.name}: {missing}" for pair in _touched(trip.again_pairs) if (missing := _missing(pair.ledger))]
    return "; ".join(told[:4])


def _missing(ledger: TableLedger) -> str:
    changed = sum(column.changed for column in ledger.columns)
    lost = sum(column.lost for column in ledger.columns)
    filled = sum(column.invented for column in ledger.columns)
    parts = [f"{_rows(ledger.lost)} missing" if ledger.lost else "",
             f"{_rows(ledger.added)} too many" if ledger.added else "",
             f"{_counted(lost, 'value')} missing" if lost and not ledger.lost else "",
             f"{_counted(changed, 'value')} changed" if changed else "",
             f"{_counted(filled, 'NULL')} filled" if filled else ""]
    return ", ".join(part for part in parts if part)


def _lasting(schema: list[Difference]) -> Iterator[Difference]:
    """Pass over the counters: that a number was used once is no difference of schemas."""
    return (row for row in schema if row.kind != "sequence")


# ---- how it is said

def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _rows(count: int) -> str:
    return _counted(count, "row")


def _few(keys: tuple[str, ...], total: int) -> str:
    return ", ".join(keys) + (", …" if len(keys) < total else "")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "…"
