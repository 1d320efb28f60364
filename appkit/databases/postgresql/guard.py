"""A PostgreSQL connection under migration: it waits for locks for a while, not for ever, and says who is in the way."""
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from appkit.databases.holders import Blocker, describe
from appkit.databases.postgresql.servers import UNKNOWN, is_connection, is_shared, pid_behind
from appkit.errors import BlockedError
from appkit.loggers import warn

_NOT_AVAILABLE = "55P03"
_IDLE = 0  # of a transaction, as libpq tells it
_PAUSES = (0.5, 1, 2, 4)  # seconds, in which those who queue behind the migration get their turn
_SAVEPOINT = "appkit_revision"
# Who holds, or waits before us for, a lock on a table that the statement names; the longest transaction first.
_BLOCKERS = """
SELECT DISTINCT a.pid, coalesce(a.application_name, ''), coalesce(a.state, ''), coalesce(a.query, ''), a.xact_start,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8, c.relname
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
     JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid NOT IN (%(own)s, pg_backend_pid()) AND c.oid >= 16384
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      AND (position(c.relname IN %(statement)s) > 0 OR c.oid IN (
           SELECT i.indrelid FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
           WHERE position(x.relname IN %(statement)s) > 0))
ORDER BY a.xact_start"""


class Guard:
    """A PostgreSQL connection under migration: it waits for locks for a while, and says who is in the way.

    A statement that waits for a lock lets everybody else queue behind it, readers too. So a lock_timeout is set, unless
    the app has set one; when it strikes, the revision is rolled back to its beginning, which lets its locks go, and is
    run again after a pause. Source: https://www.postgresql.org/docs/current/runtime-config-client.html, lock_timeout.
    """

    def __init__(self, connection: Connection, _engines: Iterable[Engine], timeout: float) -> None:
        self._raw = connection.connection.driver_connection
        self._known = is_connection(self._raw)
        if timeout and not self._known:
            warn(f"A lock is waited for as long as the server lets it. {UNKNOWN.format(connection.engine.driver)}")
        self._milliseconds = round(timeout * 1000) if self._known else 0
        self._engine, self._info = connection.engine, connection.info
        self._set = False
        self._pid: int | None = None  # of the server's process
        self._local = False  # whether what is set ends with the transaction, for the session is not ours alone

    def before(self, *_statement: Any) -> None:
        """Make ready for a statement."""
        if self._milliseconds and (not self._set or self._raw.info.transaction_status == _IDLE):
            with self._heard():
                self._limit()

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Have an observer of the connection know the transactions in the block as ours."""
        observer = self._info.get("appkit")
        if observer:
            observer.give_back()
        yield
        if observer:
            observer.take()

    def _limit(self) -> None:
        if not self._set:
            self._local = is_shared(self._raw)
        self._set = True
        self._pid = pid_behind(self._raw)
        self._ask("SELECT set_config('lock_timeout', %s, %s) WHERE current_setting('lock_timeout') = '0'",
                  (f"{self._milliseconds}ms", self._local))

    def check(self) -> None:
        """Have nothing to refuse: the server checks."""

    def undo(self) -> None:
        """Have nothing to undo: the server does."""

    def release(self) -> None:
        """Give the connection its own ways back."""
        if self._set and not self._local:
            self._raw.rollback()
            with self._heard():
                self._ask("RESET lock_timeout")
                self._raw.commit()

    def explain(self, error: BaseException, statement: str) -> BlockedError | None:
        """Give the error that says who is in the way, where a lock_timeout struck."""
        if getattr(error, "sqlstate", getattr(error, "pgcode", None)) != _NOT_AVAILABLE:
            return None
        return BlockedError(f"A lock was not to be had within {self._milliseconds / 1000:g} s for: "
                            f"{' '.join(statement.split())[:160]}. {describe(self._blockers(statement), _pid_of)}")

    def run(self, migrate: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Run a revision's function again from its beginning when a lock was not to be had."""
        for pause in (*_PAUSES, None):
            try:
                if self._known and not self._raw.autocommit:
                    self.before()  # what is set after a savepoint ends with the return to it
                    self._ask(f"SAVEPOINT {_SAVEPOINT}")
                return migrate(*arguments, **options)
            except BlockedError as blocked:
                if pause is None or not self._rolled_back():
                    raise
                warn(f"{blocked} Trying again in {pause:g} s.")
                time.sleep(pause)

    def _rolled_back(self) -> bool:
        """Undo what the revision did; False where an autocommit_block has committed some of it."""
        try:
            self._ask(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        except Exception:  # no such savepoint: whatever the driver calls it
            return False
        return True

    def _blockers(self, statement: str) -> list[Blocker]:
        try:
            with self._engine.connect() as other:
                rows = other.exec_driver_sql(_BLOCKERS, {"own": self._pid, "statement": statement}).all()
                return [Blocker(*row) for row in rows]
        except SQLAlchemyError:  # it may not ask, or the server is gone
            return []

    def _ask(self, statement: str, parameters: tuple | None = None) -> None:
        with self._raw.cursor() as cursor:
            cursor.execute(statement, parameters)


def _pid_of(driver: Any) -> int | None:
    info = getattr(driver, "info", None)
    return getattr(info, "backend_pid", None)
