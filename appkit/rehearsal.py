"""The rehearsal: copy, step, watch, compare, judge."""
from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import pandas as pd
from flask import Flask
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from appkit.databases import app_of, database_of, engine_of
from appkit.errors import RehearsalError, SourceTouchedError, reason_of
from appkit.findings import Failure, Finding, Pair, RoundTrip, Step, judge
from appkit.folders import PrivateFolder
from appkit.result import Record, Rehearsal, State
from appkit.schema import compare_schema, read_schema
from appkit.snapshots import Snapshots, match_tables
from appkit.standin import StandIn, keep_loggers, no_bytecode
from appkit.watching import Statement, Watch

_one_at_a_time = threading.Lock()  # Alembic's context is global to the process


def rehearse(app: Flask | None = None, to: str = "head", *, downgrade: bool = True) -> Rehearsal:
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

    Raises
    ------
    RehearsalError
        When it cannot be made: no history, a target that is not ahead, another rehearsal running in this process, or
        a migration that reaches for the real database (SourceTouchedError).
    UnsupportedDatabaseError
        When appkit does not know this kind of database.
    """
    app = app_of(app)
    if not _one_at_a_time.acquire(blocking=False):
        raise RehearsalError("Another rehearsal is running in this process, and Alembic can only run one at a time. "
                             "Wait for it, or run this one in a process of its own.")
    try:
        with keep_loggers(), no_bytecode(), warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")  # what they warn of is observed here, and a filter must not make it fail
            return _Run(app, downgrade, stack).rehearse(to)
    finally:
        _one_at_a_time.release()


class _Run:
    """One rehearsal, while it goes on."""

    def __init__(self, app: Flask, downgrade: bool, stack: ExitStack) -> None:
        self.app, self.downgrade = app, downgrade
        self.source = engine_of(app)
        self.database = database_of(self.source)
        with app.app_context():
            self.sources = list(app.extensions["sqlalchemy"].engines.values())
        self.kept_folder = PrivateFolder()  # for as long as somebody holds the result
        self.copies = PrivateFolder()
        stack.callback(self.copies.close)
        self.folder = self.copies.path
        self.url = self.database.copy_database(self.source, self.folder)
        self.standin = StandIn(app, self.url)
        stack.callback(self.standin.engine.dispose)
        self.version_table = self.standin.version_options.get("version_table", "alembic_version")
        self.watch = stack.enter_context(
            Watch(self.database, self.standin.engine, self.sources, self.version_table))
        self.snapshots = Snapshots(self.kept_folder.path)
        self.added: dict[str, frozenset[str]] = {}  # columns that this rehearsal's revisions added, by table

    def rehearse(self, to: str) -> Rehearsal:
        start = self.standin.heads()
        pending = [script.revision for script in self.standin.pending(to)]
        state = self._look(None, set())
        states, steps, findings = {",".join(start) or "base": state}, [], []
        for place, revision in enumerate(pending):
            step, state = self._step(revision, state, tuple(pending[place + 1:]))
            steps.append(step)
            findings += judge(step)
            if not step.failure:
                states[revision] = state
            self.snapshots.forget_all_but({kept.relation for kept in chain(
                *(known.tables.values() for known in (*states.values(), state)))})
            if step.failure:
                break
        else:
            findings += self._drift(state, steps)
        record = Record(app=self.app, snapshots=self.snapshots, folder=self.kept_folder, states=states,
                        start=tuple(start), pending=tuple(pending), to=to, files=self.standin.digest(pending),
                        downgrade=self.downgrade)
        return Rehearsal.of(record, steps, findings)

    # ---- one revision

    def _step(self, revision: str, before: State, rest: tuple[str, ...]) -> tuple[Step, State]:
        failure, statements, touched = self._try(self.standin.upgrade, revision)
        after = self._look(before, touched)
        pairs = self._pairs(before, after, statements)
        schema = self._differences(before, after)
        facts = dict(revision=revision, script=self.standin.script(revision), statements=statements, pairs=pairs,
                     schema=schema, defaults=_defaults(after.schema))
        if failure:
            return Step(**facts, failure=failure, left_behind=_left_behind(pairs, schema), not_reached=rest), after
        self._note_added(pairs)
        trip = self._there_and_back(before, after, revision) if self.downgrade else None
        return Step(**facts, trip=trip), after

    def _try(self, run: Any, revision: str) -> tuple[Failure | None, list[Statement], set[str] | None]:
        """Run one step on the copy; give why it failed, its statements, and the tables it can have written to.

        None in place of the tables where it wrote by ways that were not watched.
        """
        watch = self.watch
        watch.begin()
        failure = None
        try:
            run(revision)
        except (SourceTouchedError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as reason:  # a script may raise anything, SystemExit too
            failed = watch.failed
            failure = Failure(reason_of(reason), failed.text if failed else "", watch.obstacle)
        if watch.refused:
            raise SourceTouchedError(f"Revision {revision}: {watch.refused}")
        return failure, watch.statements, watch.touched if watch.all_seen else None

    def _there_and_back(self, before: State, after: State, revision: str) -> RoundTrip:
        """Take a revision back and apply it again, then put the copy back to where it was before that."""
        saved = self.database.save_copy(self.url, self.folder)
        try:
            refused, _, touched = self._try(self.standin.downgrade, revision)
            if refused:
                return RoundTrip(refused=refused)
            back = self._look(after, touched)
            again_failed, _, touched = self._try(self.standin.upgrade, revision)
            trip = RoundTrip(back_pairs=self._pairs(before, back, []), back_schema=self._differences(before, back),
                             again_failed=again_failed)
            if again_failed:
                return trip
            again = self._look(back, touched)
            return RoundTrip(back_pairs=trip.back_pairs, back_schema=trip.back_schema,
                             again_pairs=self._pairs(after, again, []), again_schema=self._differences(after, again))
        finally:
            self.database.restore_copy(self.url, saved)

    # ---- looking

    def _look(self, before: State | None, touched: set[str] | None) -> State:
        """Keep every table's rows as they stand; a table that nothing can have written to is not read again."""
        storage = self.database.read_storage(self.url)
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.connect() as connection:
            found = [table for table in self.database.read_tables(connection) if table.name != self.version_table]
        tables = {}
        for table in found:
            old = before.tables.get(table.name) if before else None
            untouched = touched is not None and table.name.lower() not in touched
            if untouched and old and old.table == table and before.storage[table.name] == storage[table.name]:
                tables[table.name] = old
            else:
                names = tuple(column.name for column in table.columns)
                tables[table.name] = self.snapshots.keep(
                    table, self.database.read_batches(self.url, table.name, names))
        schema = read_schema(engine)
        return State(tables, schema[schema["table"] != self.version_table].reset_index(drop=True), storage)

    def _pairs(self, before: State, after: State, statements: list[Statement]) -> list[Pair]:
        """Set the tables of two states side by side, and count what became of their rows and values."""
        texts = [statement.text for statement in statements]
        return [Pair(*found) for found in match_tables(
            self.snapshots, before.tables, after.tables, self.database.find_renames(texts),
            self.database.find_table_renames(texts), self.added)]

    def _differences(self, before: State, after: State) -> pd.DataFrame:
        return compare_schema(before.schema, after.schema)

    def _note_added(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            if pair.before and pair.after:
                new = {column.column for column in pair.ledger.columns if not column.was}
                self.added[pair.after] = self.added.get(pair.before, frozenset()) | new

    # ---- the models

    def _drift(self, state: State, steps: list[Step]) -> list[Finding]:
        """Hold the copy at head against what the models would create."""
        if set(self.standin.heads()) != set(self.standin.scripts.get_heads()):
            return []
        revision = steps[-1].revision if steps else ",".join(self.standin.heads())
        metadata = self.app.extensions["sqlalchemy"].metadatas[None]
        if not metadata.tables and state.tables:
            return [Finding(revision, "warning", "drift", "", f"the models know no table, the database has "
                            f"{len(state.tables)}: {', '.join(sorted(state.tables)[:3])}",
                            "The next `flask db migrate` would drop them all.",
                            "Import the models' module where the app is created.")]
        try:
            schema = self._created(metadata)
        except SQLAlchemyError as reason:
            return [Finding(revision, "warning", "drift", "", f"not observed: the models cannot create their tables on "
                            f"this database: {reason_of(reason)}", "Whether models and migrations agree is unknown.",
                            "Look at the models' types and defaults.")]
        return list(_differing(revision, schema, state.schema))

    def _created(self, metadata: Any) -> pd.DataFrame:
        engine = create_engine(self.database.empty_database(self.folder, self.url), poolclass=NullPool)
        metadata.create_all(engine)
        return read_schema(engine)


_MODELLED = ("table", "column", "primary key", "foreign key", "unique", "check", "index")


def _differing(revision: str, models: pd.DataFrame, database: pd.DataFrame) -> Iterator[Finding]:
    """Compare by what objects are, not by what constraints are called: a name of its own is no drift."""
    def forms(schema: pd.DataFrame) -> set[tuple[str, str, str, str]]:
        rows = schema[schema["kind"].isin(_MODELLED)].itertuples()
        return {(row.table, row.kind, row.name if row.kind in ("table", "column") else "", row.definition)
                for row in rows}

    wanted, there = forms(models), forms(database)
    tables = {(form[0], form[1]) for form in wanted ^ there if form[1] == "table"}
    lone = {table for table, _ in tables if not ({f[0] for f in wanted} & {f[0] for f in there} & {table})}
    for table, kind, name, definition in sorted(wanted ^ there):
        if table in lone and kind != "table":
            continue
        in_models = (table, kind, name, definition) in wanted
        told = f"{kind} {name or definition}" if kind != "table" else "the table"
        told += f" ({definition})" if name and definition and kind == "column" else ""
        here, not_there, wish = (("models", "database", "create it") if in_models else
                                 ("database", "models", "drop or change it"))
        yield Finding(revision, "warning", "drift", f"{table}.{name}" if kind == "column" else table,
                      f"{told} is in the {here}, not in the {not_there}",
                      f"The next `flask db migrate` will want to {wish}.",
                      "Let the models and the migrations say the same: add it to the one that lacks it.")


def _defaults(schema: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Give the DEFAULT of each column that has one."""
    found = {}
    for row in schema[schema["kind"] == "column"].itertuples():
        if " DEFAULT " in f" {row.definition} ":
            found[row.table, row.name] = f" {row.definition}".split(" DEFAULT ", 1)[1]
    return found


def _left_behind(pairs: list[Pair], schema: pd.DataFrame) -> str:
    """Say what a failed revision left changed, whole tables first; '' when all is as it was."""
    rows = [row for row in schema.itertuples() if row.kind != "sequence"]
    whole = {row.table for row in rows if row.kind == "table" and row.change != "changed"}
    told = [f"{row.change} table {row.table}" for row in rows if row.kind == "table" and row.table in whole]
    told += [f"{pair.name}: rows differ" for pair in pairs if pair.before and not pair.ledger.whole]
    told += [f"{row.change} {row.kind} {row.table}.{row.name}" for row in rows if row.table not in whole]
    return "; ".join(told[:4]) + ("; …" if len(told) > 4 else "")
