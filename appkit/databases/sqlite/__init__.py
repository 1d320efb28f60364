"""SQLite: what it says of itself, how it is read, copied, watched, and guarded while it is migrated.

What reads rows is loaded when it is first asked for: Arrow would make every `flask db` slower.
"""
from importlib import import_module
from sqlite3 import Error as DriverError
from typing import Any

from appkit.databases.sqlite.catalogue import read_catalogue, read_structure, read_tables
from appkit.databases.sqlite.copies import (
    WATCHED, back_up, copy_database, empty_database, file_behind, file_of, hear_connections, is_connection, place_of,
    restore_copy, save_copy, size_of, storage_of, watch_writes)
from appkit.databases.sqlite.guard import Guard
from appkit.databases.sqlite.naming import quote
from appkit.databases.sqlite.reading import count_values, holds_database, read_orphans, reading_only
from appkit.databases.sqlite.statements import find_drops, find_obstacle, find_renames, find_table_renames

_LAZY = {"read_copy": "rows", "read_ordered": "rows", "read_rows": "rows", "understand": "meanings"}

__all__ = ["DriverError", "Guard", "WATCHED", "back_up", "copy_database", "count_values", "empty_database",
           "file_behind", "file_of", "find_drops", "find_obstacle", "find_renames", "find_table_renames",
           "hear_connections", "holds_database", "is_connection", "place_of", "quote", "read_catalogue", "read_copy",
           "read_ordered", "read_orphans", "read_rows", "read_structure", "read_tables", "reading_only",
           "restore_copy", "save_copy", "size_of", "storage_of", "understand", "watch_writes"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'appkit.databases.sqlite' has no attribute {name!r}")
    return getattr(import_module(f"appkit.databases.sqlite.{_LAZY[name]}"), name)
