"""PostgreSQL: what it says of itself, how it is read, copied, watched, and guarded while it is migrated.

What reads rows is loaded when it is first asked for: Arrow would make every `flask db` slower.
"""
from importlib import import_module
from typing import Any

from sqlalchemy.exc import DBAPIError as DriverError

from appkit.databases.postgresql.advice import advise
from appkit.databases.postgresql.catalogue import read_catalogue, read_structure, read_tables
from appkit.databases.postgresql.copies import (
    ROOM, adopt_copy, back_up, copy_database, drop_copies, drop_copy, empty_database, is_connection, notes_of,
    place_asked, place_behind, place_of, restore_copy, save_copy, size_of)
from appkit.databases.postgresql.guard import Guard
from appkit.databases.postgresql.naming import quote
from appkit.databases.postgresql.obstacles import find_obstacle
from appkit.databases.postgresql.reading import count_values, holds_database, read_orphans, reading_only
from appkit.databases.postgresql.statements import find_drops, find_renames, find_table_renames
from appkit.databases.postgresql.watching import DDL_COMMITS, WATCHED, Observer, hear_connections

_LAZY = {"read_copy": "rows", "read_ordered": "rows", "read_rows": "rows", "understand": "meanings"}

__all__ = ["DDL_COMMITS", "DriverError", "Guard", "Observer", "ROOM", "WATCHED", "adopt_copy", "advise", "back_up",
           "copy_database", "count_values", "drop_copies", "drop_copy", "empty_database", "find_drops", "find_obstacle",
           "find_renames", "find_table_renames", "hear_connections", "holds_database", "is_connection", "notes_of",
           "place_asked", "place_behind", "place_of", "quote", "read_catalogue", "read_copy", "read_ordered",
           "read_orphans", "read_rows", "read_structure", "read_tables", "reading_only", "restore_copy", "save_copy",
           "size_of", "understand"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'appkit.databases.postgresql' has no attribute {name!r}")
    return getattr(import_module(f"appkit.databases.postgresql.{_LAZY[name]}"), name)
