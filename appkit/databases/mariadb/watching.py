"""What a statement does to a private copy on MariaDB: which algorithm and lock it needs, rebuilds, scans, warnings."""
import re
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection

from appkit.databases import Hears, Lock, Statement
from appkit.databases.hearing import Heard, hear_drivers
from appkit.databases.mariadb.naming import as_text
from appkit.databases.mariadb.servers import place_behind

DDL_COMMITS = True  # whether a statement that changes the schema is committed with it
WATCHED: dict[str, Any] = {}
_DOORS = (("pymysql.connections:Connection", "connect"), ("MySQLdb", "connect"))
# What is of the server, and not of the copy.
_BEYOND = re.compile(
    r"(?:\s*|\s*(?:BEGIN\s+NOT|EXECUTE|PREPARE|SET\s+STATEMENT)\b.*\b)"
    r"((CREATE|ALTER|DROP|RENAME)\s+(OR\s+REPLACE\s+)?(ROLE|USER|DATABASE|SCHEMA|SERVER|TABLESPACE)|GRANT|REVOKE|USE"
    r"|SET\s+(GLOBAL|PASSWORD|DEFAULT\s+ROLE|PERSIST)|INSTALL|UNINSTALL|FLUSH|RESET|KILL|SHUTDOWN)\b",
    re.IGNORECASE | re.DOTALL)
_SYSTEM = {"information_schema", "performance_schema", "mysql", "sys"}
_PATIENCE = 10  # seconds; on a copy only another connection of the same migration can be in the way
# From the one that disturbs least: the first that the server accepts is the one that a statement needs.
_LADDER = (("INSTANT", "NONE"), ("NOCOPY", "NONE"), ("NOCOPY", "SHARED"), ("INPLACE", "NONE"), ("INPLACE", "SHARED"),
           ("COPY", "NONE"), ("COPY", "SHARED"), ("COPY", "EXCLUSIVE"))
_REFUSED = {1221, 1845, 1846}  # "is not supported", with and without the reason; 1221: not together
_ALTER = re.compile(r"\s*(ALTER\s+(ONLINE\s+|IGNORE\s+)*TABLE|CREATE\s+(\w+\s+)?INDEX|DROP\s+INDEX)\b", re.IGNORECASE)
_SAYS_HOW = re.compile(r"\b(ALGORITHM|LOCK)\s*=?\s*(DEFAULT|INSTANT|NOCOPY|INPLACE|COPY|NONE|SHARED|EXCLUSIVE)\b",
                       re.IGNORECASE)
_ALONE = re.compile(r"\s*(DROP|RENAME|TRUNCATE)\s+(TABLE\b)?", re.IGNORECASE)
_SCHEMA = re.compile(r"\s*(CREATE|ALTER|DROP|RENAME|TRUNCATE|ANALYZE|OPTIMIZE)\b", re.IGNORECASE)
_READS = re.compile(r"\s*(SELECT|SHOW|SET(?!\s+STATEMENT)|DESC|DESCRIBE|EXPLAIN|BEGIN(?!\s+NOT)|START|COMMIT|ROLLBACK"
                    r"|SAVEPOINT)\b", re.IGNORECASE)
# What may be sent past SQLAlchemy without anybody missing it: SQLAlchemy itself, and our own guard, do it.
_HARMLESS = re.compile(r"\s*(SET\s+(?!GLOBAL|PASSWORD|DEFAULT|PERSIST|STATEMENT)|SELECT\s+@@|SHOW|COMMIT|ROLLBACK|BEGIN"
                       r"|START)[^;(]*$", re.IGNORECASE)
_MAKES = re.compile(r"\s*CREATE\s+TABLE\b(?!.*\bSELECT\b)", re.IGNORECASE | re.DOTALL)  # a table without rows
_CALLS = re.compile(r"\s*(CALL|DO|EXECUTE|BEGIN\s+NOT)\b", re.IGNORECASE)
_BEFORE_DOT = re.compile(r"(?:`((?:[^`]|``)+)`|([\w$]+))\s*\.\s*[`\w]")
_COUNTED = ("Handler_write", "Handler_update", "Handler_delete", "Handler_read_rnd_next")
_TABLES = ("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
           "AND table_type LIKE '%TABLE%'")
# Only those that a text may name are opened for it; that is then told exactly.
_NAMED = (_TABLES + " AND LOCATE(REPLACE(CONVERT(table_name USING utf8mb4), '`', '``') COLLATE utf8mb4_general_ci, "
          "{text} COLLATE utf8mb4_general_ci)")
_REACHING = ("SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE() UNION "
             "SELECT routine_name FROM information_schema.routines WHERE routine_schema = DATABASE()")
_TRIGGERS = ("SELECT event_object_table FROM information_schema.triggers WHERE event_object_schema = DATABASE() "
             "AND event_object_table = {table}")


class Observer:
    """What MariaDB tells of one connection's statements.

    A statement that changes a table is tried with each algorithm and lock, from the one that disturbs least, until the
    server accepts one: that has done it then, and says who waits. DDL commits at once, so a lock ends with its
    statement. Source: https://mariadb.com/kb/en/innodb-online-ddl-overview/
    """

    def __init__(self, driver: Any, hears: Hears) -> None:
        self._driver, self._hears = driver, hears
        self._done: tuple[str, float] | None = None  # the rung that did it, and its seconds
        self._warnings: list[str] = []
        self._locks: list[Lock] = []
        self._taken = False
        self._heard = 0  # how many statements run, or questions of ours are asked, of which all that is sent is part
        self._passed = 0  # statements of the version table that are yet to come
        self._send, driver.query = driver.query, self._on_query
        for name in ("lock_wait_timeout", "innodb_lock_wait_timeout"):
            self._ask(f"SET SESSION {name} = LEAST(@@SESSION.{name}, {_PATIENCE})")

    def before(self, _connection: Connection, _cursor: Any, text: str) -> str:
        """Note how things stand before a statement; give the statement to run."""
        self._done, self._warnings = None, []
        self._tables = [] if _READS.match(text) else self._named(text)
        self._refuse_beyond(text)
        self._storage = self._numbers(self._tables) if self._tables and _SCHEMA.match(text) else {}
        self._counts = {} if _MAKES.match(text) else self._read_counts()
        self._heard += 1
        if _ALTER.match(text) and not _SAYS_HOW.search(text) and self._climb(text):
            return "DO 0"
        return text

    def _climb(self, text: str) -> bool:
        """Do a statement by the first rung of the ladder that the server accepts; False where that is none."""
        comma = ", " if re.match(r"\s*ALTER", text, re.IGNORECASE) else " "
        head, began = text.rstrip().rstrip(";"), time.perf_counter()
        for algorithm, lock in _LADDER:
            try:
                self._ask(f"{head}{comma}ALGORITHM={algorithm}{comma}LOCK={lock}")
            except Exception as reason:  # whichever driver's
                if reason.args and reason.args[0] in _REFUSED:
                    began = time.perf_counter()
                    continue
                return False  # it fails, and will again, as itself
            self._done = f"{algorithm}, LOCK={lock}", time.perf_counter() - began
            self._warnings = self._read_warnings()
            return True
        return False

    def _refuse_beyond(self, text: str) -> None:
        if _BEYOND.match(text) or not _READS.match(text) and self._names_another(text):
            self._hears.refuse_statement(text)

    def pass_by(self) -> None:
        """Hear of a statement that is not looked at: the version table's."""
        self._passed += 1

    def take(self) -> None:
        """Hear that somebody takes the connection: what is to be heard of it begins here."""
        self._taken = True

    def give_back(self) -> None:
        """Hear that the connection is given back."""
        self._taken = False

    def look_past(self, _statement: Statement) -> None:
        """Look for what was done past SQLAlchemy before a commit: it was told when it was sent."""

    def _on_query(self, text: str | bytes, *options: Any) -> Any:
        """Hear of all that the driver sends: what is no part of a statement has come past SQLAlchemy."""
        if self._taken and not self._heard:
            told = text if isinstance(text, str) else bytes(text).decode(errors="replace")
            if not _HARMLESS.match(told):
                self._hear_past(told)
        return self._send(text, *options)

    def _hear_past(self, text: str) -> None:
        if self._passed:
            self._passed -= 1
        else:
            self._tables = self._named(text)
            self._refuse_beyond(text)
            self._hears.miss()

    def after(self, _connection: Connection, _cursor: Any, statement: Statement) -> None:
        """Add to a statement what was seen of it."""
        self._heard = max(self._heard - 1, 0)
        if not _READS.match(statement.text):
            statement.warnings = self._warnings or self._read_warnings()
        if self._done:
            statement.algorithm, seconds = self._done
            statement.seconds, statement.began = seconds, time.perf_counter() - seconds
        written, read = self._count_since()
        if not _READS.match(statement.text):  # MyISAM empties a table without counting rows
            written = max(written, statement.rows or 0)
        existed = [name for name in self._tables if name in self._storage or not self._storage]
        statement.scanned = {existed[0]: read - 1} if len(existed) == 1 and read > 1 else {}  # the end is read, too
        self._see_writes(statement, written)
        self._see_locks(statement, existed, written)
        self._see_rebuilds(statement)

    def _see_writes(self, statement: Statement, written: int) -> None:
        if _SCHEMA.match(statement.text):
            statement.wrote = True
            for name in {*self._tables, *self._named(statement.text)}:
                self._hears.tell(name)
        elif written or _CALLS.match(statement.text):
            # What it takes along is not told: any table that it may reach.
            names = self._tables if len(self._tables) == 1 and self._goes_no_further(statement.text) else self._all()
            for name in names:
                self._hears.tell(name)

    def _see_locks(self, statement: Statement, existed: list[str], written: int) -> None:
        statement.locks, statement.waits = [], set()
        if statement.algorithm or _ALONE.match(statement.text):
            mode = (statement.algorithm or "LOCK=EXCLUSIVE").rpartition("LOCK=")[2]
            now = time.perf_counter()
            statement.locks = [Lock(name, f"LOCK={mode}", statement.began, now, alone=True) for name in existed]
            who = {"SHARED": ("writers",), "EXCLUSIVE": ("readers", "writers")}.get(mode, ())
            statement.waits = {f"{each} of {name}" for name in existed for each in who}
        elif written and not _SCHEMA.match(statement.text):
            statement.waits = {f"writers of the same rows of {name}" for name in existed}
            statement.locks = [Lock(name, "rows", statement.began) for name in existed]
            self._locks += statement.locks

    def _see_rebuilds(self, statement: Statement) -> None:
        if self._storage:
            now = self._numbers(self._named(statement.text))
            statement.rewritten |= {name for name, number in self._storage.items()
                                    if name in self._tables and now.get(name, number) != number}

    def fail(self) -> None:
        """Hear that a statement has failed."""
        self._heard = 0

    def settle(self, *, committed: bool) -> None:
        """Hear that a transaction has ended."""
        now = time.perf_counter()
        for lock in self._locks:
            lock.until = now
        self._locks = []

    def close(self) -> None:
        """Let go of what observing took."""
        self._driver.query = self._send

    # ---- asking

    def _named(self, text: str) -> list[str]:
        """Give the tables that a statement may name."""
        return _words((name for name, in self._ask(_NAMED.format(text=as_text(text)))), text)

    def _all(self) -> list[str]:
        return [name for name, in self._ask(_TABLES)]

    def _names_another(self, text: str) -> bool:
        """Say whether a statement names another database of the server, before a dot."""
        bare = re.sub(r"'(?:[^'\\]|\\.|'')*'", "''", text)
        named = {(plain or quoted.replace("``", "`")).lower() for quoted, plain in _BEFORE_DOT.findall(bare)}
        named -= {name.lower() for name in self._tables}
        if not named:
            return False
        own = {self._ask("SELECT DATABASE()")[0][0].lower(), *_SYSTEM, *(name.lower() for name in self._all())}
        return bool((named - own) & {name.lower() for name, in self._ask("SHOW DATABASES")})

    def _goes_no_further(self, text: str) -> bool:
        """Say whether a statement writes to no table but the one it names: no view, function, trigger, foreign key."""
        table, reaching = self._tables[0], {name for name, in self._ask(_REACHING)}
        if _words(reaching, text) or table in {name for name, in self._ask(_TRIGGERS.format(table=as_text(table)))}:
            return False
        keys = "SELECT ref_name FROM information_schema.innodb_sys_foreign"
        try:
            referred = {name for name, in self._ask(keys)}
        except Exception:  # it may not ask
            return False
        return not any(name.rpartition("/")[2].lower() == table.lower() for name in referred) and table.isascii() and (
            re.fullmatch(r"\w+", table) is not None)  # other names are spelt otherwise there

    def _numbers(self, tables: list[str]) -> dict[str, str]:
        from appkit.databases.mariadb.catalogue import read_storage

        return read_storage(self._ask, tables)

    def _read_counts(self) -> dict[str, int]:
        return {name: int(value) for name, value in
                self._ask(f"SHOW SESSION STATUS WHERE variable_name IN {_COUNTED}")}

    def _count_since(self) -> tuple[int, int]:
        """Give the rows written, and read one after the other, since the statement began."""
        if not self._counts:
            return 0, 0
        now = self._read_counts()
        grown = {name: now[name] - self._counts[name] for name in now}
        return (sum(grown[name] for name in _COUNTED[:3]), grown["Handler_read_rnd_next"])

    def _read_warnings(self) -> list[str]:
        return [f"{level} {code}: {told}" for level, code, told in self._ask("SHOW WARNINGS")]

    def _ask(self, statement: str) -> list[tuple]:
        self._heard += 1
        try:
            with self._driver.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            self._heard -= 1


def _words(names: Iterable[str], text: str) -> list[str]:
    """Give the names that stand in a text as words."""
    folded = text.lower()
    return [name for name in names
            if re.search(rf"(?<![\w$]){re.escape(name.lower().replace('`', '``'))}(?![\w$])", folded)]


def hear_connections(heard: Heard) -> AbstractContextManager[None]:
    """Call a function for every connection that PyMySQL or mysqlclient opens to a place; it may refuse."""
    return hear_drivers(_DOORS, heard, place_behind)
