"""Migrate: flask_migrate.Migrate with its known traps cured, whatever the app's env.py looks like.

Nothing of flask_migrate, Alembic or env.py is replaced. Every command begins with `get_config`; what a command needs
hangs on the Config made there, and is found again by events of SQLAlchemy on the connection that Alembic migrates.
"""
import ast
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
import flask_migrate
from alembic import context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from flask import Flask, current_app, has_app_context
from flask_migrate.cli import db as db_commands
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import Pool

from appkit.databases import guard_of
from appkit.loggers import Loggers
from appkit.review import Review

_KEY = "appkit.migrate"
_HOOK = "process_revision_directives"
LOCK_TIMEOUT = "APPKIT_LOCK_TIMEOUT"  # in an app's config: seconds that a migration waits for a lock; 5, 0 for no limit


class Migrate(flask_migrate.Migrate):
    """Set up migrations as flask_migrate.Migrate does, with the same arguments.

    On PostgreSQL and MariaDB a migration waits for a lock for `APPKIT_LOCK_TIMEOUT` seconds (of the app's config; 5
    where it is left out, 0 for no limit), not for ever; a revision that was rolled back for it is tried again.

    Raises
    ------
    BlockedError
        In a command, when a lock was not to be had; it names who holds it.
    OrphanedRowsError
        In a command, when a migration on SQLite would leave rows whose foreign key points at nothing.
    MigrationError
        In `migrate`, when the revision would drop every table because their models are not known.
    """

    def init_app(self, app: Flask, *args: Any, **kwargs: Any) -> None:
        """Register with an app, as flask_migrate.Migrate.init_app."""
        super().init_app(app, *args, **kwargs)
        app.extensions["migrate"] = _Extension(app.extensions["migrate"])

    def get_config(self, *args: Any, **kwargs: Any) -> Config:
        """Begin a command: each function of flask_migrate calls this first."""
        _listen()
        config = super().get_config(*args, **kwargs)
        config.attributes[_KEY] = _Command(current_app.extensions["migrate"], config)
        return config


class _Extension:
    """What env.py finds as app.extensions["migrate"]: flask_migrate's own, which tells when it is read."""

    def __init__(self, theirs: Any) -> None:
        vars(self).update(vars(theirs))

    @property
    def db(self) -> Any:
        # Offline nothing is connected, so no later moment is known: env.py asks for this after its fileConfig.
        command = _running_command()
        if command is not None and command.line is None and context.is_offline_mode():
            command.loggers.restore()
        return vars(self)["db"]

    @db.setter
    def db(self, value: Any) -> None:
        vars(self)["db"] = value

    @property
    def metadata(self) -> Any:
        return self.db.metadata


class _Arguments(dict):
    """The options of one command: what an env.py writes into them is gone with it."""

    def __init__(self, given: dict) -> None:
        super().__init__(given)
        self.given = given


class _Command:
    """One command, from its beginning until its connection is given back or its command line ends."""

    def __init__(self, extension: Any, config: Config) -> None:
        given = getattr(extension.configure_args, "given", extension.configure_args)
        self.arguments = extension.configure_args = _Arguments(given)
        if "compare_server_default" not in _passed_by_env(config):
            self.arguments.setdefault("compare_server_default", True)
        self.loggers = Loggers(_configured_loggers(config))
        self.barren: list[bool] = []  # of each database: no table there, and none in the models
        self.line = _command_line()
        if self.line is not None:
            self.line.call_on_close(self.finish)

    def finish(self) -> None:
        """Leave the process as the command found it."""
        self.loggers.restore()
        # The stock env.py leaves a closure here that knows only its own command and would misjudge the next.
        self.arguments.pop(_HOOK, None)
        if _HOOK in self.arguments.given:
            self.arguments[_HOOK] = self.arguments.given[_HOOK]


def _command_line() -> click.Context | None:
    """Give the context of `flask db …`, when the command was typed: it ends after flask_migrate's last log line."""
    here = click.get_current_context(silent=True)
    return here if here is not None and here.parent is not None and here.parent.command is db_commands else None


def _passed_by_env(config: Config) -> set[str | None]:
    """Name the options that env.py passes to context.configure itself: Python refuses what comes twice."""
    try:
        tree = ast.parse(Path(config.get_main_option("script_location") or "", "env.py").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()  # Alembic reports it
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {word.arg for call in calls if getattr(call.func, "attr", None) == "configure" for word in call.keywords}


def _configured_loggers(config: Config) -> Iterator[str]:
    parser = config.file_config
    for key in parser.get("loggers", "keys", fallback="", raw=True).split(","):
        if name := parser.get(f"logger_{key.strip()}", "qualname", fallback="", raw=True).strip():
            yield name


def _running_command() -> _Command | None:
    config = getattr(context, "config", None)  # there only while an environment runs
    return None if config is None else config.attributes.get(_KEY)


def _running_migration(connection: Connection) -> MigrationContext | None:
    """Give the migration that runs on a connection, if one of ours does."""
    if _running_command() is None:
        return None
    try:
        migration = context.get_context()
    except Exception:  # what Alembic raises before env.py has called context.configure
        return None
    return migration if migration.connection is connection else None


def _listen() -> None:
    """Hear of every statement, once there is a command to hear it for."""
    for target, name, listener in ((Engine, "before_cursor_execute", _before_statement),
                                   (Engine, "commit", _before_commit), (Engine, "rollback", _before_rollback),
                                   (Engine, "handle_error", _on_error), (Pool, "checkin", _on_checkin)):
        if not event.contains(target, name, listener):
            event.listen(target, name, listener)


class _Migrating(NamedTuple):
    """What a connection's info holds while it is migrated."""

    command: _Command
    guard: Any


def _before_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    migration = _running_migration(connection)
    if migration is None:
        return
    command = _running_command()
    hook = migration.opts.get(_HOOK)
    if not isinstance(hook, Review):
        migration.opts[_HOOK] = Review(command.barren, hook)
    migrating = connection.info.get(_KEY)
    if migrating is None or migrating.command is not command:
        timeout = float(current_app.config.get(LOCK_TIMEOUT, 5.0)) if has_app_context() else 0.0
        guard = guard_of(connection, _engines(), timeout)
        connection.info[_KEY] = migrating = _Migrating(command, guard)
        if guard is not None:
            _let_retry()
    if migrating.guard is not None:
        migrating.guard.before(connection, statement)


def _let_retry() -> None:
    """Have the functions of the revisions run by the guard of their connection, which may begin them again."""
    for revision in context.script.walk_revisions():
        for name in ("upgrade", "downgrade"):
            function = getattr(revision.module, name, None)
            if function is not None and not getattr(function, "by_appkit", False):
                setattr(revision.module, name, _by_guard(function))


def _by_guard(migrate: Callable[..., None]) -> Callable[..., None]:
    @wraps(migrate)
    def run(*arguments: Any, **options: Any) -> None:
        guard = None if context.is_offline_mode() else _guard_of(context.get_context().connection)
        return guard.run(migrate, *arguments, **options) if guard else migrate(*arguments, **options)

    run.by_appkit = True
    return run


def _engines() -> Iterable[Engine]:
    database = current_app.extensions.get("sqlalchemy") if has_app_context() else None
    return getattr(database, "engines", {}).values()


def _guard_of(connection: Connection) -> Any:
    if connection.closed or connection.invalidated or _KEY not in connection.info:
        return None
    return connection.info[_KEY].guard


def _before_commit(connection: Connection) -> None:
    if guard := _guard_of(connection):
        guard.check()


def _before_rollback(connection: Connection) -> None:
    if guard := _guard_of(connection):
        guard.undo()


def _on_error(error: ExceptionContext) -> None:
    command = _running_command()
    # No connection came to be, so none will be given back.
    if error.connection is None and command is not None and command.line is None:
        command.finish()
    guard = _guard_of(error.connection) if error.connection is not None else None
    if guard and (blocked := guard.explain(error.original_exception, error.statement or "")):
        raise blocked from error.original_exception


def _on_checkin(dbapi_connection: Any, record: Any) -> None:
    migrating = record.info.pop(_KEY, None)
    if migrating is None:
        return
    if migrating.guard is not None and dbapi_connection is not None:
        migrating.guard.release()
    if migrating.command.line is None:
        migrating.command.finish()
