"""A PostgreSQL server as its administrator meets it: reached as an engine reaches it, one connection per task."""
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

from appkit.databases.connecting import own_connection
from appkit.databases.postgresql.naming import quote
from appkit.errors import RehearsalError, reason_of

Run = Callable[..., list[tuple]]

# When its server was started, to the microsecond, tells a server from every other one; a clone or a replica keeps the
# identifier. The name as a digest: what a connection makes of its letters depends on its encoding.
_PLACE = ("SELECT pg_catalog.concat_ws('/', extract(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text,"
          " pg_catalog.md5(pg_catalog.current_database()::pg_catalog.text))")
_CALM = ("SET standard_conforming_strings = on; SET search_path = ''; SET default_transaction_read_only = off; "
         "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN "
         "('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout', "
         "'idle_in_transaction_session_timeout')")
UNKNOWN = ("appkit does not know the driver {!r}. For PostgreSQL it knows psycopg and psycopg2: name one in the URL, "
           "as in postgresql+psycopg://…")
_DOORS = ("postgres", "template1")  # databases that are there on nearly every server; nobody's data is in them
# What the programs are not told: what is secret, and what libpq knows only since 16, while theirs may be an older one.
_UNTOLD = {"password", "sslpassword", "sslcertmode", "require_auth", "load_balance_hosts", "gssdelegation",
           "sslnegotiation", "min_protocol_version", "max_protocol_version", "servicefile", "sslkeylogfile",
           "scram_client_key", "scram_server_key", "oauth_issuer", "oauth_client_id", "oauth_client_secret",
           "oauth_scope"}
_places: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Server:
    """A server, and how an engine reaches its database there."""

    dbapi: ModuleType
    parameters: dict[str, Any]  # libpq's, the password among them

    @property
    def Error(self) -> type[Exception]:
        """The root of the driver's errors."""
        return self.dbapi.Error

    @contextmanager
    def connect(self, database: str | None = None, **more: str) -> Iterator[Run]:
        """Give a function that runs statements, each committed by itself, in a database, or beside them all."""
        with closing(self.open(database or self._door, **more)) as connection:
            def run(statement: str, *values: Any) -> list[tuple]:
                with connection.cursor() as cursor:
                    cursor.execute(statement, values or None)
                    return cursor.fetchall() if cursor.description else []
            run(_CALM)
            yield run

    def open(self, database: str, **more: str) -> Any:
        """Open a connection to a database."""
        try:
            connection = self.dbapi.connect(**self.parameters | {"dbname": database, "client_encoding": "utf8"} | more)
        except self.Error as reason:
            raise RehearsalError(f"Cannot reach the database {database!r} on {self.place}: {reason_of(reason)}."
                                 ) from reason
        connection.autocommit = True
        return connection

    @property
    def place(self) -> str:
        """Where the server is, for a message."""
        return f"{self.parameters.get('host', 'localhost')}:{self.parameters.get('port', 5432)}"

    @cached_property
    def _door(self) -> str:
        """The database from which others are made and dropped: not the source, which nobody must be connected to."""
        for name in _DOORS:
            try:
                self.open(name).close()
                return name
            except RehearsalError:
                continue
        return self.parameters["dbname"]

    @property
    def conninfo(self) -> str:
        """The parameters as the programs read them, without what is secret."""
        told = {name: str(value).replace("\\", "\\\\").replace("'", "\\'")
                for name, value in self.parameters.items() if name not in _UNTOLD}
        return " ".join(f"{name}='{value}'" for name, value in told.items())

    # ---- what a keeper asks

    def hold(self, token: str) -> Any:
        """Open a connection that tells everybody on the server, as long as it lives, that a token is in use."""
        connection = self.open(self._door, application_name=token)
        with connection.cursor() as cursor:
            cursor.execute(_CALM)
        return connection

    def names(self) -> list[str]:
        """Name the databases."""
        with self.connect() as run:
            return [name for name, in run("SELECT datname FROM pg_catalog.pg_database")]

    def held(self, token: str) -> bool:
        """Say whether somebody holds a token."""
        with self.connect() as run:
            return bool(run("SELECT 1 FROM pg_catalog.pg_stat_activity WHERE application_name = %s", token))

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        with self.connect() as run:
            run(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")


def server_of(engine: Engine) -> Server:
    """Give the server of an engine, reached as the engine reaches it, whatever options it was made with.

    Raises
    ------
    RehearsalError
        When it cannot be reached, or by a driver that is not known here, or by a pooler.
    """
    with own_connection(engine) as connection:
        _check_driver(engine, connection)
        if is_shared(connection):
            raise RehearsalError("Between appkit and the server stands a pooler, such as PgBouncer, that lends one "
                                 "session to many by turns: what is set for a copy would reach the app. Use the "
                                 "server's own URL here.")
        info = connection.info
        psycopg = hasattr(connection, "pgconn")
        parameters = dict(info.get_parameters() if psycopg else info.dsn_parameters)
        # Of several hosts, the one that answered: the next connection must not go to another.
        parameters |= {"host": info.host, "port": str(info.port), "dbname": info.dbname, "user": info.user}
        parameters = {name: value for name, value in parameters.items()
                      if value and not (name == "hostaddr" and "," in value)}
        return Server(engine.dialect.loaded_dbapi, parameters | ({"password": info.password} if info.password else {}))


def place_of(engine: Engine) -> str:
    """Give what tells an engine's database from every other one: its server's start and its name, asked once."""
    if engine not in _places:
        with own_connection(engine) as connection:
            _check_driver(engine, connection)
            _places[engine] = place_behind(connection)
    return _places[engine]


def place_behind(connection: Any) -> str:
    """Give the same for an open driver connection, and leave that as it was."""
    return _told(connection, _PLACE)


def _told(connection: Any, statement: str) -> str:
    """Ask an open driver connection for one value, and leave the connection as it was."""
    if hasattr(connection, "pgconn"):  # psycopg: past it, so that it begins no transaction
        result = connection.pgconn.exec_(statement.encode())
        if result.ntuples != 1:
            raise RehearsalError(f"Cannot tell which database this is: {result.error_message.decode(errors='replace')}")
        return result.get_value(0, 0).decode()
    idle = connection.info.transaction_status == 0
    with connection.cursor(cursor_factory=sys.modules["psycopg2"].extensions.cursor) as cursor:
        cursor.execute(statement)
        value = str(cursor.fetchone()[0])
    if idle and not connection.autocommit:
        connection.rollback()
    return value


def pid_behind(connection: Any) -> int:
    """Give the server's process that an open driver connection is in, whatever a pooler tells of it."""
    return int(_told(connection, "SELECT pg_catalog.pg_backend_pid()"))


def is_shared(connection: Any) -> bool:
    """Say whether a connection is lent a session of the server for one transaction at a time, as PgBouncer may do.

    A pooler tells of another process than the server's own. So does a proxy that keeps to one session for each
    connection: there, two connections at a time are never in the same one.
    """
    if pid_behind(connection) == connection.info.backend_pid:
        return False
    try:
        with closing(connect_alike(connection)) as second:
            asked = [(pid_behind(connection), pid_behind(second)) for _ in range(5)]
    except Exception:  # whatever the driver calls it: no second one is to be had, so it cannot be told
        return True
    return len({first for first, _ in asked}) > 1 or any(first == other for first, other in asked)


def module_of(connection: Any) -> ModuleType:
    """Give the driver of an open connection."""
    return import_module(type(connection).__module__.partition(".")[0])


def connect_alike(connection: Any) -> Any:
    """Open a second connection to where a first one is, by the same driver; each statement is committed by itself."""
    info = connection.info
    parameters = info.get_parameters() if hasattr(info, "get_parameters") else dict(info.dsn_parameters)
    second = module_of(connection).connect(**{**parameters, "password": info.password, "dbname": info.dbname})
    second.autocommit = True
    return second


def _check_driver(engine: Engine, connection: Any) -> None:
    if not is_connection(connection):
        raise RehearsalError(UNKNOWN.format(engine.driver))


def is_connection(connection: Any) -> bool:
    """Say whether a driver's connection is one to PostgreSQL."""
    kinds = (("psycopg", "Connection"), ("psycopg2.extensions", "connection"))
    return any(name in sys.modules and isinstance(connection, getattr(sys.modules[name], kind)) for name, kind in kinds)
