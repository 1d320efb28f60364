"""Private copies of a PostgreSQL database: how one is made, kept as it stands, and put back."""
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.pool import NullPool

from appkit.databases.keepers import ROOM, Keeper, adopt, drop_copies, drop_copy, keeper_of, notes_of, place_asked
from appkit.databases.keepers import sweep as sweep_server
from appkit.databases.postgresql.dumps import back_up, copy_by_dump
from appkit.databases.postgresql.naming import quote
from appkit.databases.postgresql.servers import Run, Server, is_connection, place_behind, place_of, server_of
from appkit.errors import RehearsalError, reason_of
from appkit.progress import announce

__all__ = ["ROOM", "adopt_copy", "back_up", "copy_database", "drop_copies", "drop_copy", "empty_database",
           "is_connection", "notes_of", "place_asked", "place_behind", "place_of", "restore_copy",
           "save_copy", "size_of", "sweep"]

# While a server copies a database by itself, nobody can connect to that: done only where it takes a moment.
_MOMENT = 2**30  # bytes
_LEAVING = 0.5  # seconds that a session which was closed takes to be gone
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_LISTS = {"search_path", "session_preload_libraries", "shared_preload_libraries", "local_preload_libraries",
          "temp_tablespaces", "unix_socket_directories"}  # settings that are stored as several quoted values
_EFFECTIVE = ["TimeZone", "DateStyle", "IntervalStyle", "search_path", "default_text_search_config", "lc_monetary",
              "lc_numeric", "lc_time", "default_transaction_isolation"]

_DATABASE = "SELECT to_jsonb(d) || jsonb_build_object('name', datname, 'owner', pg_get_userbyid(datdba), 'letters', " \
            "pg_encoding_to_char(encoding)) FROM pg_catalog.pg_database AS d WHERE datname = %s"
_SETTINGS = "SELECT r.rolname, each FROM pg_catalog.pg_db_role_setting JOIN pg_catalog.pg_database AS d " \
            "ON d.oid = setdatabase LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = setrole, unnest(setconfig) AS each " \
            "WHERE datname = %s AND (setrole = 0 OR r.rolname IS NOT NULL) ORDER BY 1, 2"
_GRANTS = "SELECT coalesce(r.rolname, ''), privilege_type, is_grantable FROM pg_catalog.pg_database, " \
          "aclexplode(coalesce(datacl, acldefault('d', datdba))) LEFT JOIN pg_catalog.pg_roles AS r " \
          "ON r.oid = grantee WHERE datname = %s AND (grantee = 0 OR r.rolname IS NOT NULL)"
# The roles that own, or may use, something in a database; the server's first one is in no such list.
_ROLES = "SELECT DISTINCT r.rolname FROM pg_catalog.pg_shdepend AS s JOIN pg_catalog.pg_database AS d " \
         "ON d.oid IN (s.dbid, CASE WHEN s.classid = 'pg_catalog.pg_database'::regclass THEN s.objid END) " \
         "JOIN pg_catalog.pg_roles AS r ON r.oid = s.refobjid " \
         "WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND d.datname = %s"
_ACTABLE = "SELECT rolname FROM pg_catalog.pg_roles WHERE pg_has_role(oid, 'MEMBER')"
_EXTENSIONS = "SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY 1"
# What every new database has, and no dump takes away.
_BORN = (("SCHEMA", "public", "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s"),
         ("EXTENSION", "plpgsql", "SELECT 1 FROM pg_catalog.pg_extension WHERE extname = %s"))
_SESSIONS = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = %s"


def copy_database(engine: Engine, folder: Path, to: URL | None = None) -> URL:
    """Write a private copy of an engine's database, as committed at one moment, beside it or on another server.

    The source is only read. What of it the copy cannot have is told by `notes_of`.

    Raises
    ------
    RehearsalError
        When it cannot be read or written, with what to do.
    """
    source = server_of(engine)
    target = _server_at(to) if to is not None else source
    with _told("Cannot copy the database", target):
        sweep_server(target)
        keeper = Keeper(target)
        try:
            with announce("copying the database"):
                _copy(source, keeper, folder, elsewhere=_started(source) != _started(target))
        except BaseException:
            keeper.end()
            raise
    return _called(engine.url if to is None else to, keeper.name("copy"))


def _copy(source: Server, keeper: Keeper, folder: Path, *, elsewhere: bool) -> None:
    name, copy = source.parameters["dbname"], keeper.name("copy")
    with source.connect() as ask, keeper.server.connect() as run:
        _refuse_standby(keeper.server, run)
        if elsewhere or not _copy_by_server(run, name, copy):
            facts = ask(_DATABASE, name)[0][0]
            _create(run, copy, "template0", facts)
            _fill(source, keeper, folder, _strangers(ask, run, keeper, name))
        _dress(ask, run, name, keeper, copy)
        if elsewhere:
            _settle(source, keeper, run, copy)


def _copy_by_server(run: Run, name: str, copy: str) -> bool:
    """Let the server copy a database by itself, where that harms nobody; say whether it did."""
    allowed = "SELECT pg_database_size(oid) < %s AND pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database " \
              "WHERE datname = %s"
    if not run(allowed, _MOMENT, name)[0][0]:
        return False
    deadline = time.monotonic() + _LEAVING
    while run(_SESSIONS, name)[0][0]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    try:
        _create(run, copy, name)
    except Exception as reason:
        if getattr(reason, "sqlstate", getattr(reason, "pgcode", None)) == "55006":  # somebody came meanwhile
            return False
        raise
    return True


def _refuse_standby(server: Server, run: Run) -> None:
    if run("SELECT pg_catalog.pg_is_in_recovery()")[0][0]:
        raise RehearsalError(f"the server {server.place} is a standby, on which nothing can be made. Name another "
                             "server by copy_to=, or the URL of a copy by on=")


def _fill(source: Server, keeper: Keeper, folder: Path, options: list[str]) -> None:
    """Fill an empty copy by the database's own programs."""
    copy, target = keeper.name("copy"), keeper.server
    with source.connect(source.parameters["dbname"]) as ask, target.connect(copy) as run:
        for kind, name, there in _BORN:
            if not ask(there, name):
                run(f"DROP {kind} {name}")
    copy_by_dump(source, target, copy, folder, options)
    with source.connect(source.parameters["dbname"]) as ask, target.connect(copy) as run:
        made = dict(run(_EXTENSIONS))
        keeper.notes += [f"extension {name} is of version {version} at the source, {made.get(name)} in the copy"
                         for name, version in ask(_EXTENSIONS) if made.get(name) != version]


def save_copy(url: URL, folder: Path, name: str) -> URL:
    """Keep the present state of a private copy that nobody is connected to, under a name beside it."""
    keeper = keeper_of(url)
    saved = keeper.name(name)
    with _told("Cannot keep the copy", keeper.server), keeper.server.connect() as run:
        run(f"DROP DATABASE IF EXISTS {quote(saved)} WITH (FORCE)")
        _create(run, saved, url.database)
        _dress(run, run, url.database, keeper, saved)
    return url.set(database=saved)


def restore_copy(url: URL, saved: URL) -> None:
    """Put a private copy back to a state that was kept; what was kept is used up."""
    server = keeper_of(url).server
    with _told("Cannot put the copy back", server), server.connect() as run:
        run(f"DROP DATABASE IF EXISTS {quote(url.database)} WITH (FORCE)")
        run(f"ALTER DATABASE {quote(saved.database)} RENAME TO {quote(url.database)}")


def empty_database(folder: Path, like: URL) -> URL:
    """Give the URL of a database with nothing in it, of the letters and settings of a private copy."""
    keeper = keeper_of(like)
    name = keeper.name("empty")
    with _told("Cannot make an empty database", keeper.server), keeper.server.connect() as run:
        run(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")
        _create(run, name, "template0", run(_DATABASE, like.database)[0][0])
        _dress(run, run, like.database, keeper, name)
    return like.set(database=name)


def size_of(engine: Engine) -> int:
    """Give the bytes of an engine's database."""
    server = server_of(engine)
    with server.connect() as ask:
        return ask("SELECT pg_catalog.pg_database_size(%s::name)", server.parameters["dbname"])[0][0]


def adopt_copy(engine: Engine) -> URL:
    """Take a database that is there for the copy: it is changed, and stays."""
    server = server_of(engine)
    with _told("Cannot rehearse there", server), server.connect() as run:
        _refuse_standby(server, run)
    sweep_server(server)
    return adopt(engine.url, server)


def sweep(engine: Engine) -> None:
    """Drop the copies that killed processes left on an engine's server."""
    sweep_server(server_of(engine))


# ---- what a database has beside its contents

def _create(run: Run, name: str, template: str, facts: dict[str, Any] | None = None) -> None:
    """Make a database; without facts of another one it has those of its template."""
    options = [f"TEMPLATE = {quote(template)}"]
    if run("SELECT pg_catalog.current_setting('server_version_num')::int >= 150000")[0][0]:
        options.append("STRATEGY = file_copy")  # a third of the time of wal_log, and of a large one no log to ship
    if facts:
        options += [f"ENCODING = {_literal(facts['letters'])}", f"LC_COLLATE = {_literal(facts['datcollate'])}",
                    f"LC_CTYPE = {_literal(facts['datctype'])}"]
        provider = facts.get("datlocprovider", "c")
        if provider != "c":
            locale = facts.get("datlocale") or facts.get("daticulocale")
            options += [f"LOCALE_PROVIDER = {_PROVIDERS[provider]}",
                        f"{'ICU' if provider == 'i' else 'BUILTIN'}_LOCALE = {_literal(locale)}"]
        if facts.get("daticurules"):
            options.append(f"ICU_RULES = {_literal(facts['daticurules'])}")
    run(f"CREATE DATABASE {quote(name)} {' '.join(options)}")
    run(f"REVOKE ALL ON DATABASE {quote(name)} FROM PUBLIC")  # until it is known who may see it


def _dress(ask: Run, run: Run, source: str, keeper: Keeper, name: str) -> None:
    """Give a database the settings, the privileges and the owner of another one: no copy has them by itself."""
    missing: list[str] = []
    owner = ask(_DATABASE, source)[0][0]["owner"]
    for statement in [*_settings(ask(_SETTINGS, source), name), *_grants(ask(_GRANTS, source), name),
                      f"ALTER DATABASE {quote(name)} OWNER TO {quote(owner)}"]:
        try:
            run(statement)
        except keeper.server.Error as reason:
            missing.append(f"{statement.replace(quote(name), 'the copy')}: {reason_of(reason)}")
    keeper.notes += [note for note in missing if note not in keeper.notes]


def _settings(found: list[tuple], name: str) -> Iterator[str]:
    for role, each in found:
        setting, _, value = each.partition("=")
        whose = f"ROLE {quote(role)} IN DATABASE" if role else "DATABASE"
        yield f"ALTER {whose} {quote(name)} SET {_parameter(setting)} = {_value(setting, value)}"


def _parameter(setting: str) -> str:
    return ".".join(map(quote, setting.split(".")))


def _value(setting: str, value: str) -> str:
    if setting not in _LISTS:
        return _literal(value)
    parts = re.findall(r'"((?:[^"]|"")*)"|([^",\s]+)', value)
    return ", ".join(_literal(quoted.replace('""', '"') or plain) for quoted, plain in parts) or "''"


def _grants(found: list[tuple], name: str) -> Iterator[str]:
    for role, privilege, grantable in found:
        option = " WITH GRANT OPTION" if grantable else ""
        yield f"GRANT {privilege} ON DATABASE {quote(name)} TO {quote(role) if role else 'PUBLIC'}{option}"


def _strangers(ask: Run, run: Run, keeper: Keeper, name: str) -> list[str]:
    """Give the options of pg_restore for roles that are not there, or in whose name nothing can be done."""
    roles = {role for role, in ask(_ROLES, name)}
    there = {role for role, in run("SELECT rolname FROM pg_catalog.pg_roles")}
    missing, closed = roles - there, roles & there - {role for role, in run(_ACTABLE)}
    if missing:
        keeper.notes.append(f"owners and privileges: the server has no role {', '.join(sorted(missing))}")
        return ["--no-owner", "--no-privileges"]
    if closed:
        keeper.notes.append(f"owners: this role is no member of {', '.join(sorted(closed))}")
    return ["--no-owner"] if closed else []


def _settle(source: Server, keeper: Keeper, run: Run, copy: str) -> None:
    """Have sessions of a copy on another server begin as those of the source do: results depend on it."""
    shown = "SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings WHERE name = ANY (%s)"
    # Not by connect(): that one sets what is to be seen here.
    found = [dict(_ask(server, name, shown, _EFFECTIVE))
             for server, name in ((source, source.parameters["dbname"]), (keeper.server, copy))]
    for setting, value in found[0].items():
        if found[1].get(setting) != value:
            try:
                run(f"ALTER DATABASE {quote(copy)} SET {_parameter(setting)} = {_value(setting, value)}")
            except keeper.server.Error as reason:
                keeper.notes.append(f"{setting} is {value!r} at the source: {reason_of(reason)}")


def _ask(server: Server, database: str, statement: str, *values: Any) -> list[tuple]:
    connection = server.open(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()
    finally:
        connection.close()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# ---- servers and errors

def _server_at(url: URL) -> Server:
    engine = create_engine(url, poolclass=NullPool)
    return server_of(engine)


def _started(server: Server) -> Any:
    with server.connect() as ask:
        return ask("SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time())")[0][0]


def _called(url: URL, name: str) -> URL:
    return url.set(database=name).difference_update_query(["dbname"])


_ADVICE = (
    ("permission denied to create database", "Let its role make databases (ALTER ROLE … CREATEDB), name a server where "
     "it may by copy_to=, or the URL of a copy by on=."),
    ("permission denied", "Use a role that may read, and make, all of it."),
    ("No space left on device", "The disk is full: make room, or name another server by copy_to=."),
    ("statement timeout", "Somebody holds a lock on a table, as a running migration does: try again when it is over."),
    ("being accessed by other users", "Somebody stays connected to the copy: the migration, or a pooler in front of "
     "the server. Then use the server's own URL."),
    ("connection", "Is the server still running?"))


@contextmanager
def _told(what: str, server: Server) -> Iterator[None]:
    """Turn an error of the driver or of a program into one that says what to do."""
    try:
        yield
    except (server.Error, RehearsalError, OSError) as reason:
        told = str(reason) if isinstance(reason, RehearsalError) else reason_of(reason)
        advice = next((advice for text, advice in _ADVICE if text in told), "")
        raise RehearsalError(f"{what}: {told.rstrip('.')}. {advice}".rstrip()) from reason
