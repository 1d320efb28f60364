"""A MariaDB connection under migration: it waits for locks for a while, not for a day, and says who is in the way."""
import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from appkit.databases.holders import Blocker, describe
from appkit.errors import BlockedError
from appkit.loggers import warn

_TIMED_OUT = 1205
_A_DAY = 86_400  # what the server sets where nobody else has
_PAUSES = (0.5, 1, 2, 4)  # seconds, in which those who queue behind the migration get their turn
# Who has a transaction open in this database: nothing tells which tables it has read.
_BLOCKERS = """
SELECT p.id, '', CONCAT(p.command, ' ', COALESCE(p.state, '')), COALESCE(t.trx_query, p.info, ''), t.trx_started,
       TIMESTAMPDIFF(SECOND, t.trx_started, NOW()), 'this database'
FROM information_schema.processlist p LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id
WHERE p.db = DATABASE() AND p.id <> CONNECTION_ID() AND p.id <> {ours} AND (t.trx_id IS NOT NULL OR p.command = 'Query')
ORDER BY t.trx_started IS NULL, t.trx_started"""


class Guard:
    """A MariaDB connection under migration: it waits for locks for a while, and says who is in the way.

    A statement that waits for a metadata lock lets everybody else queue behind it. So lock_wait_timeout is set, unless
    the app has set it. DDL commits at once: only a revision whose very first write was refused is run again.
    Source: https://mariadb.com/kb/en/metadata-locking/
    """

    def __init__(self, connection: Connection, _engines: Iterable[Engine], timeout: float) -> None:
        self._raw = connection.connection.driver_connection
        self._engine, self._timeout = connection.engine, max(1, round(timeout)) if timeout else 0
        self._writes = 0
        self._before = self._ask("SELECT @@SESSION.lock_wait_timeout")[0][0]
        self._set = bool(self._timeout) and self._before == _A_DAY
        if self._set:
            self._ask(f"SET SESSION lock_wait_timeout = {self._timeout}")

    def before(self, _connection: Connection, statement: str) -> None:
        """Make ready for a statement."""
        if not statement.lstrip()[:6].upper().startswith(("SELECT", "SHOW", "SET", "DESC")):
            self._writes += 1

    def check(self) -> None:
        """Have nothing to refuse: the server checks."""

    def undo(self) -> None:
        """Have nothing to undo: the server does."""

    def release(self) -> None:
        """Give the connection its own ways back."""
        if self._set:
            self._ask(f"SET SESSION lock_wait_timeout = {self._before}")

    def explain(self, error: BaseException, statement: str) -> BlockedError | None:
        """Give the error that says who is in the way, where a timeout struck."""
        if not error.args or error.args[0] != _TIMED_OUT:
            return None
        waited = self._ask("SELECT @@SESSION.lock_wait_timeout")[0][0]
        return BlockedError(f"A lock was not to be had within {waited} s for: {' '.join(statement.split())[:160]}. "
                            f"{describe(self._blockers(), _pid_of)}")

    def run(self, migrate: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Run a revision's function again when its first write was refused a lock: then it has done nothing."""
        for pause in (*_PAUSES, None):
            before = self._writes
            try:
                return migrate(*arguments, **options)
            except BlockedError as blocked:
                if pause is None or self._writes > before + 1:
                    raise
                warn(f"{blocked} Trying again in {pause:g} s.")
                time.sleep(pause)

    def _blockers(self) -> list[Blocker]:
        try:
            with self._engine.connect() as other:
                rows = other.exec_driver_sql(_BLOCKERS.format(ours=_pid_of(self._raw))).all()
                return [Blocker(*row) for row in rows]
        except SQLAlchemyError:  # it may not ask, or the server is gone
            return []

    def _ask(self, statement: str) -> list[tuple]:
        with self._raw.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


def _pid_of(driver: Any) -> int | None:
    thread = getattr(driver, "thread_id", None)
    return thread() if callable(thread) else None
