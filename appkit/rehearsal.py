"""The rehearsal: copy, step, watch, compare, judge."""
from __future__ import annotations

import re
import shutil
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import duckdb
from flask import Flask
from sqlalchemy import URL, Connection, Engine, MetaData, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from appkit.databases import Statement, Table, app_of, database_of, engine_of, fold, with_driver
from appkit.drift import find_drift
from appkit.errors import AppkitError, RehearsalError, SourceTouchedError, reason_of
from appkit.findings import Failure, Finding, Pair, RoundTrip, Step, by_gravity, find_unused, judge, judge_waits
from appkit.folders import PrivateFolder
from appkit.matching import match_tables, match_untouched
from appkit.progress import announce, recorded, within
from appkit.record import Record, State
from appkit.result import Rehearsal
from appkit.schema import Difference, find_differences
from appkit.snapshots import Snapshots
from appkit.standin import StandIn, keep_loggers, no_bytecode
from appkit.values import Kept
from appkit.watching import Watch

# As PostgreSQL, MariaDB (a sort for an index says the last one) and SQLite say that a disk is full.
_FULL = re.compile(r"No space left on device|\bis full\b|Temp file write failure|is corrupt; try to repair it")
_DEATHS = 20  # at most so many of a revision's statements are died before

_one_at_a_time = threading.Lock()  # Alembic's context is global to the process


def rehearse(app: Flask | None = None, to: str = "head", *, downgrade: bool = True, on: str | URL | None = None,
             in_place: bool = False, copy_to: str | URL | None = None, patience: float = 1.0) -> Rehearsal:
    """Run the pending revisions on a private copy of an app's database, with all its rows, and say what they did.

    The database itself is only read; a connection to it, opened while the revisions run, is refused.

    Parameters
    ----------
    app
        A Flask app with Flask-SQLAlchemy and Flask-Migrate; left out, the current app.
    to
        The revision to rehearse to, as `flask db upgrade` takes it.
    downgrade
        Whether to take each revision back and apply it again, on a copy of the copy. Without it, a value that changed
        counts as lost: that it comes back was not seen.
    on
        The URL of a branch, a replica or a restored backup, of the same kind: it is copied in the place of the app's
        own database.
    in_place
        Rehearse right in the database at `on`, which is changed by it, and not on a copy of it.
    copy_to
        The URL of a server to make the copy on; left out, the one that is copied from.
    patience
        For how many seconds the app's users may wait for a table: a lock held longer is an outage. Where it is not
        seen who waits (SQLite), it says nothing.

    Raises
    ------
    RehearsalError
        When it cannot be made: no history, a target that is not ahead, no room on the disk, another rehearsal running
        in this process, or a migration that reaches for the real database (SourceTouchedError).
    UnsupportedDatabaseError
        When appkit does not know this kind of database.
    """
    app = app_of(app)
    if not _one_at_a_time.acquire(blocking=False):
        raise RehearsalError("Another rehearsal is running in this process, and Alembic can only run one at a time. "
                             "Wait for it, or run this one in a process of its own.")
    try:
        with keep_loggers(), no_bytecode(), warnings.catch_warnings(), ExitStack() as stack, ExitStack() as unfinished:
            warnings.simplefilter("ignore")  # what they warn of is observed here, and a filter must not make it fail
            asked = _Asked(app, downgrade, *map(_url, (on, copy_to)), in_place, patience)
            rehearsal = _run(asked, to, stack, unfinished)
            unfinished.pop_all()  # the rows that were kept go with the result, and at once where there is none
            return rehearsal
    finally:
        _one_at_a_time.release()


class _Asked(NamedTuple):
    """How a rehearsal is to be made."""

    app: Flask
    downgrade: bool
    on: URL | None
    copy_to: URL | None
    in_place: bool
    patience: float


def _url(given: str | URL | None) -> URL | None:
    return None if given is None else with_driver(given)


def _run(asked: _Asked, to: str, stack: ExitStack, unfinished: ExitStack) -> Rehearsal:
    database = database_of(engine_of(asked.app))
    try:
        return _Run(asked, stack, unfinished).rehearse(to)
    except duckdb.Error as reason:
        raise RehearsalError(f"Cannot keep or compare the rows: {reason_of(reason)}. Is the disk full?") from reason
    except (database.DriverError, SQLAlchemyError) as reason:
        raise RehearsalError(f"Cannot read the copy: {reason_of(reason)}. Is its server still running? Is the database "
                             "damaged, or does a column need a function of the app's?") from reason


class _Together(Exception):
    """A revision is not committed before the next one runs."""


class _Run:
    """One rehearsal, while it goes on."""

    def __init__(self, asked: _Asked, stack: ExitStack, unfinished: ExitStack) -> None:
        self.app, self.downgrade, self.patience = asked.app, asked.downgrade, asked.patience
        self.work = stack.enter_context(recorded())
        self.source = _only_engine(asked.app)
        self.database = database_of(self.source)
        self.kept_folder = PrivateFolder()  # for as long as somebody holds the result
        unfinished.callback(self.kept_folder.close)
        self.copies = PrivateFolder()
        stack.callback(self.copies.close)
        self.folder = self.copies.path
        # What an engine learns by its first connection, as the default schema, it must learn from its own database: the
        # stand-in hears what the source's engine listens to.
        self.database.place_of(self.source)
        self._copy(asked, stack, unfinished)
        self.standin = StandIn(asked.app, self.url)
        stack.callback(self.standin.engine.dispose)
        self._reader = create_engine(self.url, pool_size=1)  # to connect anew takes longer than to read a few rows
        stack.callback(self._reader.dispose)
        self.watch = stack.enter_context(Watch(self.database, self.standin.engine, [self.source]))
        self._check_copy()
        self.snapshots = Snapshots(self.kept_folder.path)
        unfinished.callback(self.snapshots.close)
        self.before: URL | None = None  # the copy before the revision at hand, where it may be left half-applied
        self.untouched: dict[int, Pair] = {}  # by the identity of what was kept
        self.needed: set[str] = set()  # the relations of states that are over

    def _copy(self, asked: _Asked, stack: ExitStack, unfinished: ExitStack) -> None:
        """Make the copy, and keep it as it is at the start."""
        origin = self._origin(asked, stack)
        with within("", self._find_room(origin)):
            if asked.in_place:
                self.url = self.database.adopt_copy(origin)
            else:
                self.url = self.database.copy_database(origin, self.folder, asked.copy_to)
                stack.callback(self.database.drop_copy, self.url)
        # What a server holds for a rehearsal goes with the result, and at once where there is none.
        unfinished.callback(weakref.finalize(self.kept_folder, self.database.drop_copies, self.url))
        # What no revision touches is never read, unless somebody asks for it later.
        self.start = self.database.save_copy(self.url, self.kept_folder.path, "start")

    def _origin(self, asked: _Asked, stack: ExitStack) -> Engine:
        """Give the engine of what is copied: the app's own, or of what stands in for it."""
        if asked.on is None:
            if asked.in_place:
                raise RehearsalError("in_place=True without on=: the app's own database is never rehearsed in.")
            return self.source
        origin = create_engine(asked.on, poolclass=NullPool)
        stack.callback(origin.dispose)
        kind = origin.dialect.name
        if kind != self.source.dialect.name:
            raise RehearsalError(f"on= is a database of {kind}, the app's is one of {self.source.dialect.name}.")
        if self.database.place_of(origin) == self.database.place_of(self.source):
            raise RehearsalError("on= is the app's own database. Leave it out to rehearse on a copy of that.")
        return origin

    def _find_room(self, origin: Engine) -> str:
        """Say what room on the disk this may need, and stop where there is less."""
        size, free = self.database.size_of(origin), shutil.disk_usage(self.folder).free
        needed = size * self.database.ROOM[self.downgrade]
        told = f"up to {_amount(needed)} of disk in {self.folder.parent}, where {_amount(free)} are free"
        if needed > free:
            shorter = ", or rehearse with downgrade=False" if self.downgrade else ""
            raise RehearsalError(f"To rehearse this database of {_amount(size)} takes {told}. Make room, name a larger "
                                 f"place in TMPDIR{shorter}.")
        return f"needs {told}"

    def rehearse(self, to: str) -> Rehearsal:
        start = self._start()
        pending = tuple(script.revision for script in self.standin.pending(to))
        self.begin = ",".join(start) or "base"
        self._reset()
        if self.downgrade or not self._run_at_once(pending):
            self._run_singly(pending)
        findings = self._findings()
        if not self.steps or not self.steps[-1].failure:
            if set(self.standin.heads()) == set(self.standin.scripts.get_heads()):
                empty = self.database.empty_database(self.folder, self.url)
                findings += find_drift(list(self.states)[-1], self._models, empty, self.state.schema)
        record = Record(app=self.app, snapshots=self.snapshots, folder=self.kept_folder, states=self.states,
                        start=tuple(start), pending=pending, to=to, files=self.standin.digest(list(pending)),
                        downgrade=self.downgrade, notes=tuple(self.database.notes_of(self.url)),
                        unused=self._unused(), work=tuple(self.work))
        return Rehearsal.of(record, self.steps, findings)

    def _findings(self) -> list[Finding]:
        """Give what was found of each revision, now that it is known how long its locks were held."""
        later = 0.0
        for step in reversed(self.steps):
            alone = [statement.began for statement in step.statements if statement.alone]
            for lock in (lock for statement in step.statements for lock in statement.locks or ()):
                if lock.until and not lock.alone and lock.since > max(alone, default=0.0):
                    lock.until += later
            # Where env.py runs all revisions in one transaction, each holds its locks until the last one is done, or
            # until one commits to run a statement outside of it.
            later = min(alone) - step.began if alone else later + step.ran
            later = later if self.standin.together else 0.0
            self.found[step.revision] += judge_waits(step)
        return [finding for step in self.steps for finding in by_gravity(self.found[step.revision])]

    def _unused(self) -> tuple[str, ...]:
        """Give what the revisions' files accept that was not found."""
        return tuple(sorted(f"{step.revision}: {each}" for step in self.steps
                            for each in find_unused(step, self.found[step.revision])))

    def _reset(self) -> None:
        """Begin at the start."""
        self.state = self._look(None, set())
        self.states, self.steps, self.found = {self.begin: self.state}, [], {}
        self.added: dict[str, frozenset[str]] = {}  # columns that this rehearsal's revisions added, by table

    def _run_singly(self, pending: tuple[str, ...]) -> None:
        """Run each revision in a run of env.py of its own, until one fails."""
        for place, revision in enumerate(pending):
            with _within(pending, place):
                if self.downgrade and self.database.DDL_COMMITS:
                    self.before = self.database.save_copy(self.url, self.folder, "before")
                failure = self._try(self.standin.upgrade, revision)
                self._close(revision, failure, pending[place + 1:])
            if failure:
                return

    def _run_at_once(self, pending: tuple[str, ...]) -> bool:
        """Run the revisions in one run of env.py, and look after each; say whether that could be done.

        It cannot where they are not committed one by one, nor where env.py goes on to write or fails after the last.
        Then the copy is put back to the start.
        """
        if not pending:
            return True
        ours: list[BaseException] = []  # what is raised by looking is not the migration's doing
        with _within(pending, 0):
            failure = self._try(self.standin.upgrade_all, pending, self._before, partial(self._after, pending, ours))
        if ours and not isinstance(ours[0], _Together):
            raise ours[0]
        place = len(self.steps)
        if ours or place == len(pending) and (failure or self.watch.touched or not self.watch.all_seen):
            self._reader.dispose()
            self.database.restore_copy(self.url, self.database.save_copy(self.start, self.folder, "saved"))
            self._reset()
            return False
        if failure:
            with _within(pending, place):
                self._close(pending[place], failure, pending[place + 1:])
        return True

    def _before(self) -> None:
        # What env.py set for its one transaction (SET LOCAL), a commit in the middle would take away.
        self.may_commit = not self.watch.statements

    def _after(self, pending: tuple[str, ...], ours: list[BaseException], revision: str,
               read_heads: Callable[[Connection], Any], commit: Callable[[], None]) -> None:
        place = len(self.steps)
        try:
            if not self._is_committed(revision, read_heads):
                if not self.may_commit:
                    raise _Together
                with suppress(Exception):  # it is env.py's own transaction
                    commit()
                if not self._is_committed(revision, read_heads):
                    raise _Together
            self.running.close()
            with _within(pending, place):
                self._close(revision, None, pending[place + 1:])
            self.watch.begin()
            if place + 1 < len(pending):
                self._begin("upgrade", _within(pending, place + 1))
        except BaseException as reason:
            ours.append(reason)
            raise

    def _is_committed(self, revision: str, read_heads: Callable[[Connection], Any]) -> bool:
        with self.watch.pausing(), self._reader.connect() as connection:
            return revision in read_heads(connection)

    def _forget_all_but(self, states: list[State]) -> None:
        """Drop the rows that neither these states, the last ones, nor those before them hold."""
        self.needed |= {kept.relation for state in states for kept in state.tables.values()}
        self.snapshots.forget_all_but(self.needed)

    def _check_copy(self) -> None:
        """Make sure that the stand-in reaches the copy, whatever the app's engine options make of its URL."""
        with closing(self.standin.engine.raw_connection()) as pooled:
            place = self.database.place_behind(pooled.driver_connection)
        self.standin.engine.dispose()
        if place != self.database.place_of(self.standin.engine):
            raise RehearsalError("The app's engine makes its own connections (a creator or a pool in its options), so "
                                 "it cannot be led to a copy. Give it a URL.")

    def _start(self) -> list[str]:
        """Give the revisions that the copy stands at, and tell the watch the name of the version table."""
        try:
            heads = self.standin.heads()
        except (AppkitError, KeyboardInterrupt):
            raise
        except BaseException as reason:
            if self.watch.refused:
                raise SourceTouchedError(self.watch.refused) from reason
            raise RehearsalError(f"env.py does not run: {reason_of(reason)}") from reason
        if self.watch.refused:
            raise SourceTouchedError(self.watch.refused)
        self.watch.version_table = self.standin.version_table
        return heads

    @property
    def _models(self) -> MetaData:
        return self.app.extensions["sqlalchemy"].metadatas[None]

    # ---- one revision

    def _close(self, revision: str, failure: Failure | None, rest: tuple[str, ...]) -> None:
        """Look at what a revision did, and judge it."""
        before = self.state
        step, self.state = self._step(revision, before, failure, rest)
        self.steps.append(step)
        self.found[revision] = judge(step)
        for pair in (*step.pairs, *(step.trip.back_pairs if step.trip else ())):
            if pair.comparison:
                pair.comparison.release()
        if not failure:
            self.states[revision] = self.state
        self._forget_all_but([before, self.state])

    def _step(self, revision: str, before: State, failure: Failure | None, rest: tuple[str, ...]) -> tuple[Step, State]:
        statements, touched = self._seen(revision)
        after = self._look(before, touched)
        pairs = self._pairs(before, after, statements)
        schema = self._differences(before, after)
        facts = dict(revision=revision, script=self.standin.script(revision), statements=statements, pairs=pairs,
                     schema=schema, catalogue=after.schema, unwatched=touched is None, began=self.began, ran=self.ran,
                     patience=self.patience, advise=self.database.advise,
                     drops=self.database.find_drops(statement.text for statement in statements))
        if failure:
            return Step(**facts, failure=failure, left_behind=_left_behind(pairs, schema), not_reached=rest), after
        self._note_added(pairs)
        writing = list(self.watch.writing)
        trip = self._there_and_back(before, after, revision) if self.downgrade else None
        deaths, tried = self._die_at_each(revision, writing) if self.before else ((), 0)
        return Step(**facts, trip=trip, deaths=deaths, tried=tried), after

    def _begin(self, what: str, *contexts: AbstractContextManager) -> None:
        self.watch.begin()
        self.running = ExitStack()
        for context in (*contexts, announce(f"running {what}()")):
            self.running.enter_context(context)

    def _try(self, run: Callable, *arguments: Any) -> Failure | None:
        """Run something of the app's on the copy, watched; give why it failed."""
        self._begin(run.__name__.removesuffix("_all"))
        try:
            run(*arguments)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as reason:  # a script may raise anything, SystemExit too
            if _FULL.search(reason_of(reason)):  # that is no fault of the revision's
                raise RehearsalError(f"There is no room left for the copy: {reason_of(reason).rstrip('.')}. Make some, "
                                     "or name another place: TMPDIR for a file, copy_to= for a server.") from reason
            failed = self.watch.failed
            return Failure(reason_of(reason), failed.text if failed else "", self.watch.obstacle)
        finally:
            self.running.close()
        return None

    def _seen(self, revision: str) -> tuple[list[Statement], set[str] | None]:
        """Give the statements of what ran last, and the tables it can have written to.

        None in place of the tables where it wrote by ways that were not watched.
        """
        if self.watch.refused:
            raise SourceTouchedError(f"Revision {revision}: {self.watch.refused}")
        self.watch.settle()
        self.began, self.ran = self.watch.began, time.perf_counter() - self.watch.began
        # Copies: what is asked of the copy from here on is not the migration's doing.
        return list(self.watch.statements), set(self.watch.touched) if self.watch.all_seen else None

    def _there_and_back(self, before: State, after: State, revision: str) -> RoundTrip:
        """Take a revision back and apply it again, then put the copy back to where it was before that."""
        self._reader.dispose()
        saved = self.database.save_copy(self.url, self.folder, "saved")
        try:
            refused = self._try(self.standin.downgrade, revision)
            touched = self._seen(revision)[1]
            if refused:
                return RoundTrip(refused=refused)
            back = self._look(after, touched)
            again_failed = self._try(self.standin.upgrade, revision)
            touched = self._seen(revision)[1]
            trip = RoundTrip(back_pairs=self._pairs(before, back, []), back_schema=self._differences(before, back),
                             again_failed=again_failed)
            if again_failed:
                return trip
            again = self._look(back, touched)
            return replace(trip, again_pairs=self._pairs(after, again, []),
                           again_schema=self._differences(after, again))
        finally:
            self._reader.dispose()
            self.database.restore_copy(self.url, saved)

    def _die_at_each(self, revision: str, writing: list[str]) -> tuple[tuple[tuple[str, str], ...], int]:
        """Let the upgrade die between any two of its statements, and run it again; give where that fails, and why."""
        points = range(2, min(len(writing), _DEATHS) + 1)
        if not points:
            return (), 0
        saved = self.database.save_copy(self.url, self.folder, "saved")
        stuck = []
        try:
            for place in points:
                self.database.restore_copy(self.url, self.database.save_copy(self.before, self.folder, "trial"))
                self.watch.dies_before = place
                self._try(self.standin.upgrade, revision)
                self.watch.dies_before = None
                if again := self._try(self.standin.upgrade, revision):
                    stuck.append((writing[place - 1], again.reason))
        finally:
            self.watch.dies_before = None
            self.database.restore_copy(self.url, saved)
        return tuple(stuck), len(points)

    # ---- looking

    def _look(self, before: State | None, touched: set[str] | None) -> State:
        """Keep every table's rows as they stand; a table that nothing can have written to is not read again."""
        tables: dict[str, Kept] = {}
        with self.watch.pausing():
            with self._reader.connect() as connection:
                structure = self.database.read_structure(connection, before.structure if before else None)
            for table in (table for table in structure.tables if table.name != self.standin.version_table):
                untouched = touched is not None and fold(table.name) not in touched
                old = before.tables.get(table.name) if before and untouched else None
                if old and old.table == table and (
                        before.structure.storage[table.name] == structure.storage[table.name]):
                    tables[table.name] = old
                else:
                    tables[table.name] = self._keep(table, is_start=before is None)
        schema = {table: entries for table, entries in structure.by_table.items()
                  if table != self.standin.version_table}
        return State(tables, schema, structure)

    def _keep(self, table: Table, *, is_start: bool) -> Kept:
        """Keep a table's rows, unless there are none, or they stay where they are."""
        if is_start:
            with self._reader.connect() as connection:
                rows, values = self.database.count_values(connection, table)
            kept_as = create_engine(self.start, poolclass=NullPool)
            return Kept(table, rows=rows, values=values, read=partial(self.database.read_copy, kept_as, table))
        return self.snapshots.keep(table, self.database.read_copy(self._reader, table))

    def _pairs(self, before: State, after: State, statements: list[Statement]) -> list[Pair]:
        """Set the tables of two states side by side, and count what became of their rows and values."""
        texts = [statement.text for statement in statements]
        same = {name for name, kept in before.tables.items() if after.tables.get(name) is kept}
        old, new = ({name: kept for name, kept in state.tables.items() if name not in same}
                    for state in (before, after))
        pairs = [self._untouched(after.tables[name]) for name in same]
        pairs += [Pair(*found) for found in match_tables(
            self.snapshots, old, new, self.database.find_renames(texts), self.database.find_table_renames(texts),
            self.added)]
        return sorted(pairs, key=lambda pair: pair.name)

    def _untouched(self, kept: Kept) -> Pair:
        """Give the pair of a table with itself, which is the same one as long as nothing touches the table."""
        if id(kept) not in self.untouched:
            self.untouched[id(kept)] = Pair(*match_untouched(self.snapshots, kept))
        return self.untouched[id(kept)]

    def _differences(self, before: State, after: State) -> list[Difference]:
        return find_differences(before.schema, after.schema)

    def _note_added(self, pairs: list[Pair]) -> None:
        """Follow the columns that this rehearsal added through later renames."""
        both = [(pair, self.added.get(pair.before, frozenset())) for pair in pairs if pair.before and pair.after]
        self.added = {pair.after: pair.comparison.new | {name for name, was in pair.comparison.lineage.items()
                                                         if was in known}
                      for pair, known in both if known or pair.comparison.new}


def _within(pending: tuple[str, ...], place: int) -> AbstractContextManager:
    return within(pending[place], f"revision {pending[place]}, {place + 1} of {len(pending)}")


def _only_engine(app: Flask) -> Engine:
    with app.app_context():
        engines = app.extensions["sqlalchemy"].engines
    if len(engines) > 1:
        names = ", ".join(str(name or "the default") for name in engines)
        raise RehearsalError(f"This app has {len(engines)} databases ({names}); appkit rehearses apps with one.")
    return engine_of(app)


def _amount(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _left_behind(pairs: list[Pair], schema: list[Difference]) -> str:
    """Say what a failed revision left changed, whole tables first; '' when all is as it was."""
    rows = [row for row in schema if row.kind != "sequence"]
    whole = {row.table for row in rows if row.kind == "table" and row.change != "changed"}
    told = [f"{row.change} table {row.table}" for row in rows if row.kind == "table" and row.table in whole]
    told += [f"{pair.name}: rows differ" for pair in pairs if pair.before and not pair.ledger.whole]
    told += [f"{row.change} {row.kind} {row.table}.{row.name}" for row in rows if row.table not in whole]
    return "; ".join(told[:4]) + ("; …" if len(told) > 4 else "")
