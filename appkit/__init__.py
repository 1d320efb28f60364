"""Change a database schema without fear, in a notebook.

The public names, and nothing else. Each is loaded when it is first asked for, so that `import appkit`, and with it
every `flask` command of an app, stays as quick as Flask-Migrate alone: pandas and DuckDB come with the first reading.
"""
from importlib import import_module
from typing import Any

from appkit.errors import (AppkitError, ApplyError, BlockedError, MigrationError, OrphanedRowsError, RehearsalError,
                           SourceTouchedError, UnknownTableError, UnsupportedDatabaseError)

_HOMES = {
    "Migrate": "migrate",
    "Post": "models",
    "Rehearsal": "result",
    "User": "models",
    "compare_databases": "verdicts",
    "compare_schema": "schema",
    "create_app": "app",
    "db": "models",
    "demo": "scratch",
    "diagnose": "history",
    "draw_schema": "diagram",
    "list_tables": "tables",
    "read_history": "history",
    "read_query": "tables",
    "read_schema": "schema",
    "read_table": "tables",
    "rehearse": "rehearsal",
}

__all__ = sorted([*_HOMES, "AppkitError", "ApplyError", "BlockedError", "MigrationError", "OrphanedRowsError",
                  "RehearsalError", "SourceTouchedError", "UnknownTableError", "UnsupportedDatabaseError"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'appkit' has no attribute {name!r}")
    value = getattr(import_module(f"appkit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
