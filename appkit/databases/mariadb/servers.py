"""A MariaDB server as its administrator meets it: one connection per task, and the place that tells it from others."""
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Engine

from appkit.databases.connecting import own_connection
from appkit.databases.mariadb.naming import quote
from appkit.errors import RehearsalError, reason_of

Run = Callable[..., list[tuple]]

_YEAR = 31_536_000  # seconds, the longest that a session may be silent
_DRIVERS = ("pymysql", "MySQLdb")
_PLACE = ("SHOW VARIABLES WHERE Variable_name IN ('hostname', 'port', 'datadir', 'server_uid', 'server_uuid', "
          "'lower_case_table_names')")
_places: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Server:
    """A server, and how a URL's database is reached there."""

    dbapi: ModuleType
    parameters: dict[str, Any]  # of the driver's connect()
    database: str

    @property
    def Error(self) -> type[Exception]:
        """The root of the driver's errors."""
        return self.dbapi.Error

    @contextmanager
    def connect(self, database: str | None = None) -> Iterator[Run]:
        """Give a function that runs statements, each committed by itself, in a database, or beside them all."""
        with closing(self.open()) as connection:
            def run(statement: str, *values: Any) -> list[tuple]:
                with closing(connection.cursor(cursors_of(connection).Cursor)) as cursor:
                    cursor.execute(statement, values or None)
                    return list(cursor.fetchall()) if cursor.description else []
            run("SET SESSION sql_mode = ''")
            if database is not None:
                run(f"USE {quote(database)}")
            yield run

    def open(self) -> Any:
        """Open a connection to no database."""
        try:
            return self.dbapi.connect(**self.parameters | {"autocommit": True, "charset": "utf8mb4"})
        except self.Error as reason:
            raise RehearsalError(f"Cannot reach the server {self.place}: {reason_of(reason)}.") from reason

    @property
    def place(self) -> str:
        """Where the server is, for a message."""
        return f"{self.parameters.get('host', 'localhost')}:{self.parameters.get('port', 3306)}"

    # ---- what a keeper asks

    def hold(self, token: str) -> Any:
        """Open a connection that tells everybody on the server, as long as it lives, that a token is in use."""
        connection = self.open()
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET SESSION wait_timeout = {_YEAR}")
            cursor.execute("SELECT GET_LOCK(%s, 0)", (token,))
            cursor.fetchall()
        return connection

    def names(self) -> list[str]:
        """Name the databases."""
        with self.connect() as run:
            return [name for name, in run("SELECT schema_name FROM information_schema.schemata")]

    def held(self, token: str) -> bool:
        """Say whether somebody holds a token."""
        with self.connect() as run:
            return not run("SELECT IS_FREE_LOCK(%s)", token)[0][0]

    def drop(self, name: str) -> None:
        """Drop a database."""
        with self.connect() as run:
            run(f"DROP DATABASE IF EXISTS {quote(name)}")


def server_of(engine: Engine, url: URL | None = None) -> Server:
    """Give the server of an engine, or of a URL of the same driver.

    Raises
    ------
    RehearsalError
        When the driver is not known here.
    """
    _check_driver(engine)
    _, options = engine.dialect.create_connect_args(url or engine.url)
    database = options.get("database", options.get("db", ""))
    parameters = {name: value for name, value in options.items() if name not in ("database", "db", "init_command")}
    return Server(engine.dialect.loaded_dbapi, parameters, database)


def place_of(engine: Engine) -> str:
    """Give what tells an engine's database from every other one: its server and its name, asked once."""
    if engine not in _places:
        _check_driver(engine)
        with own_connection(engine) as connection:
            _places[engine] = place_behind(connection)
    return _places[engine]


def place_behind(connection: Any) -> str:
    """Give the same for an open driver connection; to ask it begins no transaction."""
    with closing(connection.cursor(cursors_of(connection).Cursor)) as cursor:
        cursor.execute(_PLACE)
        found = {_text(name).lower(): _text(value) for name, value in cursor.fetchall()}
        folded = found.pop("lower_case_table_names", "0") != "0"
        cursor.execute(f"SELECT HEX({'LOWER(DATABASE())' if folded else 'DATABASE()'})")
        name = cursor.fetchone()[0]
    return "/".join([*(found[each] for each in sorted(found)), _text(name or "")])


def _check_driver(engine: Engine) -> None:
    if engine.dialect.loaded_dbapi.__name__ not in _DRIVERS:
        raise RehearsalError(f"appkit does not know the driver {engine.driver!r}. For MariaDB it knows PyMySQL and "
                             "mysqlclient: name one in the URL, as in mariadb+pymysql://…")


def is_connection(connection: Any) -> bool:
    """Say whether a driver's connection is one to MariaDB."""
    return any(name in sys.modules and isinstance(connection, sys.modules[name].connections.Connection)
               for name in _DRIVERS)


def cursors_of(connection: Any) -> ModuleType:
    """Give the driver's own cursors: an app's may give rows as something else."""
    return sys.modules[type(connection).__module__.partition(".")[0]].cursors


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
