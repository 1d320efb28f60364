"""The revisions of an app, where its database stands among them, and what is wrong with either.

Nothing here writes: the version table is looked at, never made, and revision files are only loaded. pandas is imported
by the functions that give a DataFrame, so that a health check stays light.
"""
import heapq
import importlib.util
import marshal
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError, to_tuple
from flask import Flask
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from appkit.databases import app_of, database_of, engine_of, is_missing
from appkit.diagnosis import History, Place, find_problems
from appkit.errors import AppkitError, MigrationError

if TYPE_CHECKING:
    import pandas as pd


def read_history(app: Any = None) -> "pd.DataFrame":
    """List the revisions of an app's history, oldest first.

    Parameters
    ----------
    app
        A Flask app; left out, the current one.

    Returns
    -------
    DataFrame, one row per revision; none stands before one that it follows or depends on
        Columns: revision, follows (those before it, comma-joined; empty for the first), message (string), applied
        (boolean: whether the database has it), head (boolean: whether nothing follows).

    Raises
    ------
    MigrationError
        When the history cannot be read; `diagnose` says more.
    """
    import pandas as pd

    app = app_of(app)
    scripts = _read_scripts(app)
    parents = _parents_of(scripts)
    order = _sort(parents)
    applied = _applied(_current(app), parents)
    files = {script.revision: script for script in scripts.walk_revisions()}
    return pd.DataFrame({
        "revision": pd.array(order, dtype="string"),
        "follows": pd.array([_joined(to_tuple(files[name].down_revision, ())) for name in order], dtype="string"),
        "message": pd.array([" ".join((files[name].doc or "").split()) for name in order], dtype="string"),
        "applied": pd.array([name in applied for name in order], dtype="boolean"),
        "head": pd.array([name in scripts.get_heads() for name in order], dtype="boolean"),
    })


def current_heads(app: Any = None) -> str:
    """Give the revisions that the database is at, comma-joined and sorted; empty when it has none."""
    return _joined(_current(app_of(app)))


def script_heads(app: Any = None) -> str:
    """Give the revisions that nothing follows, comma-joined and sorted; empty when there is none.

    Raises
    ------
    MigrationError
        When the history cannot be read; `diagnose` says more.
    """
    return _joined(set(_read_scripts(app_of(app)).get_heads()))


def diagnose(app: Any = None) -> "pd.DataFrame":
    """List what is wrong with an app's history and database before anything runs.

    Returns
    -------
    DataFrame, one row per problem, in the order in which to cure them; empty when nothing is wrong
        Columns, all string: problem (a short stable id), where, evidence, advice.

    A broken history is reported, never raised.
    """
    import pandas as pd

    app = app_of(app)
    place = _look_at_database(app)
    models = frozenset(_metadata_of(app).tables)
    left_out = frozenset(name for name in place.tables if name not in models and _is_left_out(name, app))
    problems = find_problems(_look_at_history(app), place, models=models, left_out=left_out)
    return pd.DataFrame(problems, columns=["problem", "where", "evidence", "advice"]).astype("string")


# The history


def _read_scripts(app: Flask) -> ScriptDirectory:
    _migrate_of(app)
    try:
        return _load(app)
    except Exception as error:  # a revision file is Python: it may raise anything
        raise MigrationError(f"The history cannot be read: {_reason(error)}. diagnose(app) says more.") from error


def _load(app: Flask) -> ScriptDirectory:
    with app.app_context():
        scripts = ScriptDirectory.from_config(_migrate_of(app).migrate.get_config())
    scripts.get_heads()  # loads every file
    return scripts


def _migrate_of(app: Flask) -> Any:
    if "migrate" not in app.extensions:
        raise AppkitError(f"The app {app.name!r} has no Migrate: call Migrate(app, db) first.")
    return app.extensions["migrate"]


def _parents_of(scripts: ScriptDirectory) -> dict[str, tuple[str, ...]]:
    return {script.revision: _parents(script, scripts) for script in scripts.walk_revisions()}


def _parents(script: Script, scripts: ScriptDirectory) -> tuple[str, ...]:
    # depends_on may name a branch: only the directory knows which revision that is.
    needed = [scripts.get_revision(name).revision for name in to_tuple(script.dependencies, ())]
    return (*to_tuple(script.down_revision, ()), *needed)


def _sort(parents: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Order the revisions so that each stands after its parents; among those that could stand next, by id."""
    waiting = {name: len(set(before)) for name, before in parents.items()}
    ready = sorted(name for name, count in waiting.items() if not count)
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for name, before in parents.items():
            if order[-1] in before:
                waiting[name] -= 1
                if not waiting[name]:
                    heapq.heappush(ready, name)
    return order


def _applied(current: Iterable[str], parents: Mapping[str, tuple[str, ...]]) -> set[str]:
    found, waiting = set(), list(current)
    while waiting:
        name = waiting.pop()
        if name in parents and name not in found:
            found.add(name)
            waiting += parents[name]
    return found


def _joined(revisions: Iterable[str]) -> str:
    return ", ".join(sorted(revisions))


# The database


def _current(app: Flask) -> tuple[str, ...]:
    engine = engine_of(app)
    if is_missing(engine):
        return ()  # and to look would make one
    with engine.connect() as connection:
        return _read_versions(connection, app)[1]


def _read_versions(connection: sa.Connection, app: Flask) -> tuple[bool, tuple[str, ...]]:
    """Tell whether there is a version table, and what it holds.

    Alembic's own MigrationContext would tell the same, with a log line for every look.
    """
    name, schema = _version_table(app)
    if not sa.inspect(connection).has_table(name, schema=schema):
        return False, ()
    versions = sa.table(name, sa.column("version_num"), schema=schema)
    return True, tuple(sorted(map(str, connection.scalars(sa.select(versions.c.version_num)))))


def _version_table(app: Flask) -> tuple[str, str | None]:
    options = app.extensions["migrate"].configure_args if "migrate" in app.extensions else {}
    return options.get("version_table") or "alembic_version", options.get("version_table_schema")


# The facts of a diagnosis


def _look_at_history(app: Flask) -> History:
    if "migrate" not in app.extensions:
        return History("Migrate", False, ("Migrate(app, db)",), (), "no Migrate", (), {}, ())
    folder = Path(_migrate_of(app).directory)
    shown = folder.name if folder.is_absolute() else str(folder)
    missing = tuple(name for name in ("alembic.ini", "env.py", "versions") if not (folder / name).exists())
    heads, parents, failure = (), {}, "incomplete" if missing else ""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            scripts = _load(app)
            heads, parents = tuple(sorted(set(scripts.get_heads()))), _parents_of(scripts)
        except Exception as error:
            failure = _reason(error)
    texts = tuple(dict.fromkeys(str(warning.message) for warning in told if "Revision" in str(warning.message)))
    stale = tuple(path.name for path in sorted((folder / "versions").glob("*.py")) if _is_stale(path))
    return History(shown, not folder.is_absolute(), missing, texts, failure, heads, parents, stale)


def _is_stale(path: Path) -> bool:
    """Tell whether Python would run a compiled file whose source has become another one.

    Source: PEP 552. Python trusts the file when the source's time, in whole seconds, and size are those in its head.
    """
    try:
        compiled = Path(importlib.util.cache_from_source(str(path))).read_bytes()
        source, state = path.read_bytes(), path.stat()
        head = importlib.util.MAGIC_NUMBER + bytes(4) + _word(int(state.st_mtime)) + _word(state.st_size)
        return compiled[:16] == head and marshal.loads(compiled[16:]) != compile(source, str(path), "exec")
    except (OSError, ValueError, SyntaxError, EOFError, TypeError):
        return False


def _word(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")


def _look_at_database(app: Flask) -> Place:
    name, schema = _version_table(app)
    table = f"{schema}.{name}" if schema else name
    engine = engine_of(app)
    database = database_of(engine)
    if not database.holds_database(engine):
        return Place("", table, False, (), (), ())
    try:
        with engine.connect() as connection, database.reading_only(connection):
            stamped, current = _read_versions(connection, app)
            names = [known.name for known in database.read_tables(connection)]
            orphans = tuple(database.read_orphans(connection))
    except SQLAlchemyError as error:
        return Place(_reason(error), table, False, (), (), ())
    return Place("", table, stamped, current, tuple(sorted(set(names) - {name, table})), orphans)


def _metadata_of(app: Flask) -> sa.MetaData:
    db = app.extensions["sqlalchemy"]
    return getattr(db, "metadatas", {}).get(None, db.metadata)


def _is_left_out(name: str, app: Flask) -> bool:
    """Ask the functions that the app gave to Migrate whether autogenerate looks at a table."""
    options = app.extensions["migrate"].configure_args if "migrate" in app.extensions else {}
    include_name = options.get("include_name") or (lambda *_: True)
    include_object = options.get("include_object") or (lambda *_: True)
    within = {"schema_name": None, "table_name": name, "schema_qualified_table_name": name}
    return not (include_name(name, "table", within)
                and include_object(sa.Table(name, sa.MetaData()), name, "table", True, None))


def _reason(error: BaseException) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    text = str(original).splitlines()[0] if str(original) else ""
    return text if isinstance(error, (CommandError, SQLAlchemyError)) else f"{type(error).__name__}: {text}"
