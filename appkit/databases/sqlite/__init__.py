"""SQLite: what it says of itself, how it is read, copied, watched, and guarded while it is migrated."""
from sqlite3 import Error as DriverError

from appkit.databases.sqlite.catalogue import read_catalogue, read_structure, read_tables
from appkit.databases.sqlite.copies import (
    back_up, copy_database, empty_database, file_behind, file_of, hear_connections, is_connection, place_of,
    read_batches, read_storage, restore_copy, save_copy, storage_of, watch_writes)
from appkit.databases.sqlite.guard import Guard
from appkit.databases.sqlite.naming import quote
from appkit.databases.sqlite.reading import holds_database, read_orphans, read_rows, reading_only, understand
from appkit.databases.sqlite.statements import find_drops, find_obstacle, find_renames, find_table_renames

__all__ = ["DriverError", "Guard", "back_up", "copy_database", "empty_database", "file_behind", "file_of",
           "find_drops", "find_obstacle", "find_renames", "find_table_renames", "hear_connections", "holds_database",
           "is_connection", "place_of", "quote", "read_batches", "read_catalogue", "read_orphans", "read_rows",
           "read_storage", "read_structure", "read_tables", "reading_only", "restore_copy", "save_copy", "storage_of",
           "understand", "watch_writes"]
