"""The stand-in: a second Flask app on a private copy, with the user's own db, models and migrations."""
import copy
import hashlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import Script as Revision
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from flask import Flask
from sqlalchemy import URL, Connection, Engine

from appkit.databases import engine_of
from appkit.errors import AppkitError, RehearsalError, reason_of
from appkit.loggers import Loggers
from appkit.script import Script

_OURS = ("sqlalchemy", "migrate")


class StandIn:
    """An app like the user's, whose database is a copy, moved one revision at a time."""

    def __init__(self, app: Flask, url: URL) -> None:
        self.app = _like(app, url)
        self.engine: Engine = engine_of(self.app)
        self.version_table = "alembic_version"
        self.together = False  # whether env.py runs all revisions in one transaction
        _listen_alike(engine_of(app), self.engine)

    @cached_property
    def scripts(self) -> ScriptDirectory:
        """The history, read when first asked for: to read it is to run the head of every revision file."""
        return read_scripts(self.app)

    def script(self, revision: str) -> Script:
        """Give a revision's file."""
        found = self.scripts.get_revision(revision)
        return Script(Path(found.path), found.module)

    def digest(self, revisions: list[str]) -> dict[str, str]:
        """Give what tells these revision files, and env.py, from edited ones."""
        return digest_files(self.scripts, revisions)

    def pending(self, to: str) -> list[Revision]:
        """Give the revisions between the copy and a target, in the order in which they would run.

        Raises
        ------
        RehearsalError
            When the target is not there, or is not ahead.
        """
        heads = tuple(self.heads())
        self._check_known(heads)
        try:
            found = list(reversed(list(self.scripts.iterate_revisions(to, heads, implicit_base=True))))
            targets = () if found else self.scripts.get_revisions(to)
            there = all(script is None or script.revision in heads for script in targets)
        except (CommandError, RevisionError, ValueError, AssertionError, TypeError) as reason:
            known = ", ".join(sorted(script.revision for script in self.scripts.walk_revisions()))
            raise RehearsalError(f"Cannot rehearse to {to!r}: {reason or 'that is no revision'}. The history has: "
                                 f"{known or 'nothing'}.") from reason
        if not there or to == "base" and heads:
            raise RehearsalError(f"Cannot rehearse to {to!r}: it is not ahead. The database stands at "
                                 f"{', '.join(heads) or 'base'}.")
        return found

    def _check_known(self, heads: tuple[str, ...]) -> None:
        for head in heads:
            try:
                self.scripts.get_revision(head)
            except (CommandError, RevisionError) as reason:
                raise RehearsalError(
                    f"The database stands at {head!r}, a revision that no file in the history has. Was the file "
                    "deleted, or is it on another branch? diagnose(app) says more.") from reason

    def heads(self) -> list[str]:
        """Give the revisions that the copy stands at, by the version table that env.py names."""
        found: list[str] = []

        def look(heads: tuple[str, ...], context: MigrationContext) -> list:
            found.extend(heads if isinstance(heads, tuple) else (heads,))
            self.version_table = context.version_table
            self.together = context.impl.transactional_ddl and not context.opts.get("transaction_per_migration")
            return []

        self._run(look, dont_mutate=True)
        return sorted(found)

    def upgrade(self, revision: str) -> None:
        """Run one revision's upgrade on the copy, through the app's own env.py."""
        step = MigrationStep.upgrade_from_script(self.scripts.revision_map, self.scripts.get_revision(revision))
        self._run(lambda _heads, _context: [step])

    def upgrade_all(self, revisions: Sequence[str], before: Callable[[], None], after: Callable[..., None]) -> None:
        """Run several revisions' upgrades in one run of the app's own env.py, as `flask db upgrade` does.

        `before` is called before the first, `after` after each, with two functions: one that gives the heads as another
        connection sees them, and one that commits what Alembic would commit with the last revision only.
        """
        hooks = [before, after]

        def steps(_heads: Any, context: MigrationContext) -> Iterator[MigrationStep]:
            def read_heads(connection: Connection) -> tuple[str, ...]:
                return MigrationContext.configure(connection, opts={
                    "version_table": context.version_table,
                    "version_table_schema": context.version_table_schema}).get_current_heads()

            def commit() -> None:
                with context.autocommit_block():
                    if observer := context.connection.info.get("appkit"):
                        observer.take()  # Alembic has asked for the isolation level: that is not the migration's

            hooks[0]()
            for revision in revisions:
                yield MigrationStep.upgrade_from_script(self.scripts.revision_map, self.scripts.get_revision(revision))
                hooks[1](revision, read_heads, commit)

        try:
            self._run(steps)
        finally:
            hooks.clear()  # a migration that fails leaves this function in alembic.op, and with it the whole rehearsal

    def downgrade(self, revision: str) -> None:
        """Run one revision's downgrade on the copy, through the app's own env.py."""
        step = MigrationStep.downgrade_from_script(self.scripts.revision_map, self.scripts.get_revision(revision))
        self._run(lambda _heads, _context: [step])

    def _run(self, steps: Callable[[Any, MigrationContext], Iterable], **options: Any) -> None:
        with self.app.app_context():
            configured = self.app.extensions["migrate"]
            config = configured.migrate.get_config(configured.directory)
            with EnvironmentContext(config, self.scripts, fn=steps, **options):
                try:
                    self._run_env()
                finally:
                    configured.db.session.remove()
                    self.engine.dispose()

    def _run_env(self) -> None:
        """Run env.py as Alembic does, but compiled once for all steps."""
        if self._env:
            spec, code = self._env
            exec(code, vars(module_from_spec(spec)))
        else:
            self.scripts.run_env()

    @cached_property
    def _env(self) -> tuple[ModuleSpec, CodeType] | None:
        path = Path(self.scripts.dir) / "env.py"
        if not path.exists():
            return None  # there may be its bytecode, or Alembic says that it is missing
        spec = spec_from_file_location("env_py", path)
        return spec, spec.loader.get_code(spec.name)


def read_scripts(app: Flask) -> ScriptDirectory:
    """Give the history of an app as Alembic reads it.

    Raises
    ------
    RehearsalError
        When the app has no Flask-Migrate, or its history cannot be read.
    """
    configured = _migrate_of(app)
    try:
        with app.app_context(), no_bytecode():
            scripts = ScriptDirectory.from_config(configured.migrate.get_config(configured.directory))
            list(scripts.walk_revisions())
    except AppkitError:
        raise
    except Exception as reason:  # to read a history is to run its files, which may raise anything
        raise RehearsalError(f"Cannot read the history: {reason_of(reason)}. diagnose(app) says more.") from reason
    return scripts


def digest_files(scripts: ScriptDirectory, revisions: list[str]) -> dict[str, str]:
    """Give what tells the files of some revisions, and env.py, from edited ones: a digest by revision."""
    paths = {revision: Path(scripts.get_revision(revision).path) for revision in revisions}
    paths["env.py"] = Path(scripts.dir) / "env.py"
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


@contextmanager
def keep_loggers() -> Iterator[None]:
    """Leave every logger as it was, and be quiet below warnings meanwhile: env.py sets logging up anew at each run."""
    loggers, level = Loggers(), logging.getLogger().manager.disable
    logging.disable(max(level, logging.INFO))
    try:
        yield
    finally:
        logging.disable(level)
        loggers.restore()


@contextmanager
def no_bytecode() -> Iterator[None]:
    """Leave no bytecode of revision files: one rewritten within a second at the same length would run as it was."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _migrate_of(app: Flask) -> Any:
    if "migrate" not in app.extensions:
        raise RehearsalError(f"The app {app.name!r} has no Flask-Migrate: call Migrate(app, db) in its factory.")
    return app.extensions["migrate"]


def _like(app: Flask, url: URL) -> Flask:
    # A copy of the app itself: a revision may use what it has, its routes and its class's own attributes too.
    standin = copy.copy(app)
    standin.config = copy.copy(app.config)
    standin.config["SQLALCHEMY_TRACK_MODIFICATIONS"] = False  # or its listeners would be on the session twice
    as_text = isinstance(app.config.get("SQLALCHEMY_DATABASE_URI"), str)  # an env.py may count on it
    standin.config["SQLALCHEMY_DATABASE_URI"] = url.render_as_string(hide_password=False) if as_text else url
    standin.extensions = {name: value for name, value in app.extensions.items() if name not in _OURS}
    standin.teardown_appcontext_funcs, standin.shell_context_processors = [], []  # what comes now is not the app's
    standin._got_first_request = False  # or Flask refuses to have anything registered
    configured = _migrate_of(app)
    app.extensions["sqlalchemy"].init_app(standin)
    kept = dict(vars(configured.migrate))
    try:
        configured.migrate.init_app(standin, configured.db, configured.directory, **configured.configure_args)
    finally:
        # init_app notes its arguments on the extension, which is still the user's.
        vars(configured.migrate).update(kept)
    return standin


def _listen_alike(source: Engine, copy: Engine) -> None:
    """Give the copy's engine what the app listens to on its own: PRAGMAs, functions, collations, its BEGIN."""
    copy.dispatch._update(source.dispatch, only_propagate=False)
    copy.pool.dispatch._update(source.pool.dispatch, only_propagate=False)
    copy.dialect.dispatch._update(source.dialect.dispatch, only_propagate=False)
