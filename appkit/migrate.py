"""Migrate: flask_migrate.Migrate with its known traps cured, whatever the app's env.py looks like.

Nothing of flask_migrate, Alembic or env.py is replaced. Every command begins with `get_config`; what a command needs
hangs on the Config made there, and is found again by events of SQLAlchemy on the connection that Alembic migrates.
"""
import ast
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import flask_migrate
from alembic import context
from alembic.config import Config
from alembic.operations.ops import DropTableOp, MigrationScript
from alembic.runtime.migration import MigrationContext
from flask import Flask, current_app, has_app_context
from flask_migrate.cli import db as db_commands
from sqlalchemy import Connection, Engine, event, func, inspect, select, table
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import Pool

from appkit.errors import MigrationError, OrphanedRowsError

_KEY = "appkit.migrate"
_HOOK = "process_revision_directives"
_LEGACY = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, which Python 3.11 does not have
_SAMPLES = 3

_FIRST_WORD = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
_READ = {"SELECT", "PRAGMA", "EXPLAIN", "VALUES"}
_END = {"COMMIT", "END"}
# What orphans no row: so that a history of new tables is not checked at every revision.
_HARMLESS = re.compile(r"\s*(CREATE\s+(UNIQUE\s+)?(TABLE|INDEX)|"
                       r"(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+alembic_version)\b", re.IGNORECASE)
_OUTSIDE = {"BEGIN", "VACUUM", "ATTACH", "DETACH"}  # begins by itself, or cannot run in a transaction

_log = logging.getLogger(__name__)


class Migrate(flask_migrate.Migrate):
    """Set up migrations as flask_migrate.Migrate does, with the same arguments.

    Raises
    ------
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
        self.loggers = _Loggers(config)
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


class _Loggers:
    """The state of every logger. An env.py's fileConfig disables those that exist and closes their handlers."""

    def __init__(self, config: Config) -> None:
        for name in _configured_loggers(config):
            logging.getLogger(name)  # fileConfig is about to make it: so its untouched state is known too
        known = [logging.root, *(logger for logger in logging.root.manager.loggerDict.values()
                                 if isinstance(logger, logging.Logger))]
        self._states = [(logger, logger.level, logger.disabled, logger.propagate, list(logger.handlers))
                        for logger in known]
        self._handlers = {handler for *_, handlers in self._states for handler in handlers}
        self._files = [handler for handler in self._handlers if getattr(handler, "stream", None) is not None
                       and isinstance(handler, logging.FileHandler)]

    def restore(self) -> None:
        """Put every logger back; may be called more than once."""
        added = set()
        for logger, level, disabled, propagate, handlers in self._states:
            added.update(set(logger.handlers) - self._handlers)
            logger.setLevel(level)
            logger.disabled, logger.propagate, logger.handlers = disabled, propagate, list(handlers)
        for handler in added:
            handler.close()
        for handler in self._files:
            if handler.stream is None:
                handler.mode = "a"  # closed by fileConfig: mode "w" would never open again, or empty the file


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
    guard: "_SQLiteGuard | None"


def _before_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    migration = _running_migration(connection)
    if migration is None:
        return
    command = _running_command()
    hook = migration.opts.get(_HOOK)
    if not isinstance(hook, _Review):
        migration.opts[_HOOK] = _Review(command, hook)
    migrating = connection.info.get(_KEY)
    if migrating is None or migrating.command is not command:
        guard = _SQLiteGuard(connection) if connection.dialect.name == "sqlite" else None
        connection.info[_KEY] = migrating = _Migrating(command, guard)
    if migrating.guard is not None:
        migrating.guard.before(connection, statement)


def _guard_of(connection: Connection) -> "_SQLiteGuard | None":
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


def _on_checkin(dbapi_connection: Any, record: Any) -> None:
    migrating = record.info.pop(_KEY, None)
    if migrating is None:
        return
    if migrating.guard is not None and dbapi_connection is not None:
        migrating.guard.release()
    if migrating.command.line is None:
        migrating.command.finish()


class _SQLiteGuard:
    """A SQLite connection under migration: real transactions, and foreign keys that are checked instead of acting.

    The driver begins a transaction only for INSERT, UPDATE and DELETE, so that every DDL statement is committed at
    once; and a DROP TABLE deletes the rows first, with all that cascades from them. Foreign keys cannot be switched
    off inside a transaction. Source: https://www.sqlite.org/lang_altertable.html#otheralter
    """

    def __init__(self, connection: Connection) -> None:
        self._raw = connection.connection.dbapi_connection
        self._autocommit = getattr(self._raw, "autocommit", _LEGACY)
        self._acting = _foreign_keys(self._raw)
        self._checked = self._acting or _app_has_foreign_keys(connection)
        self._level = _isolation_option(connection)
        self._begun = False
        self._orphans: Counter | None = None  # before the first write of the transaction
        self._found: tuple[Any, Counter] | None = None  # by the last check, and the state of the database then

    def before(self, connection: Connection, statement: str) -> None:
        """Make ready for a statement."""
        word = _FIRST_WORD.match(statement)[1].upper()
        if word in _READ:
            return  # so that a command that only looks takes no lock and checks nothing
        if word in _END:
            self.check()
            return
        if not (self._begun and self._raw.in_transaction):
            self._begin(connection, word)
        if self._orphans is None and self._checked and word not in _OUTSIDE and not _HARMLESS.match(statement):
            known = self._found is not None and self._found[0] == _state(self._raw)
            self._orphans = self._found[1] if known else _find_orphans(self._raw)

    def _begin(self, connection: Connection, word: str) -> None:
        if self._raw.in_transaction and self._acting:
            self._raw.commit()  # of what env.py, or who shares this connection, had open: else the PRAGMA does nothing
        if self._autocommit != _LEGACY:
            self._raw.autocommit = True  # ends the transaction that this mode always has open
            self._raw.autocommit = _LEGACY
        self._begun = True
        if self._raw.in_transaction:
            return
        _pragma(self._raw, "foreign_keys=OFF")
        in_autocommit_block = _isolation_option(connection) == "AUTOCOMMIT" != self._level
        if word not in _OUTSIDE and not in_autocommit_block:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def check(self) -> None:
        """Refuse what has been written since the transaction began if it orphans rows."""
        before, self._orphans, self._begun = self._orphans, None, False
        if before is None:
            return
        after = _find_orphans(self._raw)
        self._found = _state(self._raw), after
        told = _describe_new(self._raw, before, after)
        if not told:
            return
        fate = "Nothing of it was committed" if self._raw.in_transaction else "An autocommit_block has committed them"
        raise OrphanedRowsError(
            f"The migration leaves rows whose foreign key points at nothing: {'; '.join(told)}. {fate}. While a "
            "migration runs no ON DELETE acts: delete these rows, or point them elsewhere, in the same revision.")

    def undo(self) -> None:
        """Roll back, whatever SQLAlchemy takes this connection's mode for."""
        self._orphans, self._begun = None, False
        self._raw.rollback()

    def release(self) -> None:
        """Give the connection its own ways back."""
        self.undo()  # SQLAlchemy need not have done so after a commit that failed
        if self._acting:
            _pragma(self._raw, "foreign_keys=ON")
        if self._autocommit != _LEGACY:
            self._raw.autocommit = self._autocommit


def _isolation_option(connection: Connection) -> str | None:
    return connection.get_execution_options().get("isolation_level")


def _pragma(raw: Any, text: str) -> None:
    raw.execute(f"PRAGMA {text}").close()


def _state(raw: Any) -> tuple:
    """Give what changes with every change of the rows: by other connections, and by this one."""
    return _rows(raw, "PRAGMA data_version")[0][0], raw.total_changes


def _foreign_keys(raw: Any) -> bool:
    return bool(_rows(raw, "PRAGMA foreign_keys")[0][0])


def _app_has_foreign_keys(connection: Connection) -> bool:
    """Tell whether the app enforces foreign keys on the database for which env.py made an engine of its own."""
    database = current_app.extensions.get("sqlalchemy") if has_app_context() else None
    for engine in getattr(database, "engines", {}).values():
        if engine is not connection.engine and engine.url == connection.engine.url:
            with engine.connect() as other:
                return _foreign_keys(other.connection.dbapi_connection)
    return False


class _Link(NamedTuple):
    """A foreign key of a SQLite table."""

    table: str
    columns: tuple[str, ...]
    parent: str
    keys: tuple[str, ...]


def _find_orphans(raw: Any) -> Counter:
    """Count the rows that point at nothing, by table, columns and values."""
    found: Counter = Counter()
    for link in _broken_links(raw):
        values = ", ".join(_values_of(link))
        for count, *value in _rows(raw, f"SELECT count(*), {values} {_orphans_of(raw, link)} GROUP BY {values}"):
            found[link.table, link.columns, tuple(value)] += count
    return found


def _describe_new(raw: Any, before: Counter, after: Counter) -> list[str]:
    """Say which rows point at nothing that did not before."""
    new, moved = after - before, Counter()
    if not new:
        return []
    # A table or a column that was renamed takes its orphans along: those are not new.
    present = {(link.table, link.columns) for _, link in _links(raw)}
    for (name, columns, value), count in (before - after).items():
        if (name, columns) not in present:
            moved[value] += count
    for key, count in list(new.items()):
        spared = min(count, moved[key[2]])
        new[key] -= spared
        moved[key[2]] -= spared
    told = set()
    for link in _broken_links(raw):
        values = {key[2]: count for key, count in new.items() if key[:2] == (link.table, link.columns) and count}
        if values:
            told.add(_describe(raw, link, values))
    return sorted(told)


def _describe(raw: Any, link: _Link, values: dict[tuple, int]) -> str:
    names = _primary_key(raw, link.table) or link.columns
    shown = ", ".join(f"quote(c.{_quote(name)})" for name in names)
    same = " AND ".join(f"{value} = ?" for value in _values_of(link))
    order = ", ".join(f"c.{_quote(name)}" for name in names)
    wanted = f"SELECT {shown} {_orphans_of(raw, link)} AND {same} ORDER BY {order}"
    samples = []
    for value in sorted(values)[:_SAMPLES]:
        query = f"{wanted} LIMIT {_SAMPLES - len(samples)}"
        samples += [", ".join(map("=".join, zip(names, row))) for row in _rows(raw, query, *value)]
    count = sum(values.values())
    more = "; …" if count > len(samples) else ""
    return (f"{count} {'row' if count == 1 else 'rows'} of {link.table} ({'; '.join(samples)}{more}) "
            f"by {', '.join(link.columns)} to {link.parent}")


def _values_of(link: _Link) -> list[str]:
    """Write the values of a foreign key so that they compare however they are typed, and whatever bytes they hold."""
    return [f"hex(CAST(c.{_quote(name)} AS BLOB))" for name in link.columns]


def _orphans_of(raw: Any, link: _Link) -> str:
    """Write the FROM and WHERE of the rows that point at nothing."""
    refers = " AND ".join(f"c.{_quote(name)} IS NOT NULL" for name in link.columns)
    text = f"FROM {_quote(link.table)} AS c WHERE {refers}"
    if not _rows(raw, "SELECT 1 FROM main.sqlite_master WHERE name = ? COLLATE NOCASE", link.parent):
        return text
    # The plus takes the child's affinity away: SQLite compares by the parent's.
    match = " AND ".join(f"p.{_quote(key)} = +c.{_quote(name)}" for key, name in zip(link.keys, link.columns))
    return f"{text} AND NOT EXISTS (SELECT 1 FROM {_quote(link.parent)} AS p WHERE {match})"


def _broken_links(raw: Any) -> list[_Link]:
    """Give the foreign keys that some row breaks."""
    broken: dict[str, set[int]] = {}
    for name in dict.fromkeys(link.table for _, link in _links(raw)):
        try:
            broken[name] = {number for (number,) in _rows(
                raw, "SELECT DISTINCT fkid FROM pragma_foreign_key_check(?)", name)}
        except raw.OperationalError:
            broken[name] = set()  # the columns referred to are no key: SQLite cannot tell, and refuses every write
    return [link for number, link in _links(raw) if number in broken[link.table]]


def _links(raw: Any) -> list[tuple[int, _Link]]:
    """Give every foreign key, with the number that SQLite gives it in its table."""
    found = []
    for (name,) in _rows(raw, "SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name"):
        parts: dict[int, list[tuple]] = {}
        for number, *part in _rows(raw, 'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) '
                                        "ORDER BY id, seq", name):
            parts.setdefault(number, []).append(part)
        for number, part in parts.items():
            parents, columns, keys = zip(*part)
            if None in keys:  # REFERENCES without columns means the primary key
                keys = _primary_key(raw, parents[0])
            found.append((number, _Link(name, columns, parents[0], keys)))
    return found


def _primary_key(raw: Any, name: str) -> tuple[str, ...]:
    rows = _rows(raw, "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", name)
    return tuple(column for (column,) in rows)


def _rows(raw: Any, query: str, *parameters: str) -> list[tuple]:
    """Read with the driver itself, so that no listener and no setting of the app is in the way."""
    cursor = raw.cursor()
    cursor.row_factory = None
    kept, raw.text_factory = raw.text_factory, lambda data: data.decode(errors="replace")
    try:
        return cursor.execute(query, parameters).fetchall()
    finally:
        raw.text_factory = kept
        cursor.close()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class _Review:
    """What stands between autogenerate and a revision file, after the hook of the user or of env.py has had its say."""

    def __init__(self, command: _Command, theirs: Callable | None) -> None:
        self._command = command
        self._theirs = theirs

    def __call__(self, migration: MigrationContext, revision: Any, directives: list[MigrationScript]) -> None:
        script = directives[0]
        if self._theirs is not None:
            self._theirs(migration, revision, directives)
        if not getattr(migration.config.cmd_opts, "autogenerate", False):
            if not directives and _is_empty(script):
                directives[:] = [script]  # `check` reads it: where there is none it dies with an IndexError
            return
        catalogue = _Catalogue(migration)
        self._command.barren.append(not catalogue.modelled and not catalogue.there)
        _review_drops(migration, catalogue, [op for each in directives for op in each.upgrade_ops_list[-1].ops
                                             if isinstance(op, DropTableOp)])
        if directives and all(map(_is_empty, directives)) and _is_last(migration, script):
            directives[:] = []
            logging.getLogger("alembic.env").info("No changes in schema detected.")
        if not directives and all(self._command.barren):
            _warn("No model is known and the database has no table, so there is nothing to migrate. "
                  f"{_how_to_import()} before `migrate`: a model is known only once its module is imported.")


def _is_empty(script: MigrationScript) -> bool:
    return all(ops.is_empty() for ops in script.upgrade_ops_list)


def _is_last(migration: MigrationContext, script: MigrationScript) -> bool:
    """Tell whether this is the last database of a command: until then the script must stay."""
    if migration.opts.get("upgrade_token") == "upgrades":  # Alembic's default: there is only one
        return True
    return len(script.upgrade_ops_list) > len(current_app.config.get("SQLALCHEMY_BINDS") or {})


class _Catalogue:
    """The tables of a database and those of the models, as (schema, name), the default schema being None."""

    def __init__(self, migration: MigrationContext) -> None:
        inspector = inspect(migration.connection)
        target = migration.opts.get("target_metadata")
        models = [each for metadata in (target if isinstance(target, (list, tuple)) else [target])
                  for each in metadata.tables.values()]
        default = inspector.default_schema_name
        self.modelled = {(None if each.schema == default else each.schema, each.name) for each in models}
        schemas = {schema for schema, _ in self.modelled}.intersection(inspector.get_schema_names())
        names = {schema: inspector.get_table_names(schema=schema) for schema in {None, *schemas}}
        self.there = {(schema, name) for schema in names for name in names[schema]}
        versions = migration.version_table_schema
        self.there.discard((None if versions == default else versions, migration.version_table))


def _review_drops(migration: MigrationContext, catalogue: _Catalogue, drops: Iterable[DropTableOp]) -> None:
    dropped = sorted({(op.schema, op.table_name) for op in drops}, key=str)
    if not dropped:
        return
    if catalogue.there.isdisjoint(catalogue.modelled):
        known = ", ".join(sorted(_full_name(*each) for each in catalogue.modelled))
        raise MigrationError(
            f"This revision would drop every table that is there ({', '.join(_full_name(*each) for each in dropped)}), "
            f"because {f'the models know only {known}' if known else 'no model is known'}. No file was written. "
            f"{_how_to_import()} before `migrate`. If you do mean to drop them, write it by hand: `flask db revision`.")
    counted = ", ".join(f"{_full_name(*each)} ({_count_rows(migration.connection, *each)})" for each in dropped)
    _warn(f"This revision drops tables that no model knows: {counted}. To keep them, delete it, and import their "
          "models before `migrate`, or leave them out by include_object.")


def _full_name(schema: str | None, name: str) -> str:
    return f"{schema}.{name}" if schema else name


def _count_rows(connection: Connection, schema: str | None, name: str) -> str:
    count = connection.scalar(select(func.count()).select_from(table(name, schema=schema)))
    return f"{count} {'row' if count == 1 else 'rows'}"


def _how_to_import() -> str:
    package = Path(current_app.root_path, "__init__.py").is_file() and current_app.import_name != "__main__"
    module = f"{current_app.import_name}.models" if package else "models"
    return f"Import the module that defines the models (`import {module}`, say) where the app is made,"


def _warn(message: str) -> None:
    _log.disabled = False  # by the fileConfig of env.py, which disables every logger that is not in alembic.ini
    _log.warning("%s", message)
