"""Private copies of a MariaDB database: how one is made, kept as it stands, and put back."""
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.pool import NullPool

from appkit.databases.keepers import ROOM, Keeper, adopt, drop_copies, drop_copy, keeper_of, notes_of, place_asked
from appkit.databases.keepers import sweep as sweep_server
from appkit.databases.mariadb.dumps import EVERYTHING, back_up, copy_by_dump, dump_text, load
from appkit.databases.mariadb.naming import quote
from appkit.databases.mariadb.servers import Run, Server, is_connection, place_behind, place_of, server_of
from appkit.errors import RehearsalError, reason_of
from appkit.progress import announce

__all__ = ["ROOM", "adopt_copy", "back_up", "copy_database", "drop_copies", "drop_copy", "empty_database",
           "is_connection", "notes_of",
           "place_asked", "place_behind", "place_of", "restore_copy", "save_copy", "size_of", "sweep"]

_LETTERS = "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata " \
           "WHERE schema_name = %s"
_TABLES = "SELECT table_name, table_type, engine FROM information_schema.tables WHERE table_schema = %s ORDER BY 1"
_COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s AND " \
           "coalesce(generation_expression, '') = '' ORDER BY table_name, ordinal_position"
_FLOATS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s AND " \
          "data_type = 'float' ORDER BY 1, 2"
_SCRIPTS = "SELECT 'trigger', trigger_name, action_statement FROM information_schema.triggers " \
           "WHERE trigger_schema = %s UNION ALL SELECT lower(routine_type), routine_name, routine_definition " \
           "FROM information_schema.routines WHERE routine_schema = %s ORDER BY 1, 2"
_VIEWS = "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = %s ORDER BY 1"
_EVENTS = "SELECT event_name, definer, time_zone, event_definition, event_type, execute_at, interval_value, " \
          "interval_field, sql_mode, starts, ends, on_completion, event_comment FROM information_schema.events " \
          "WHERE event_schema = %s ORDER BY 1"
_AS_IT_IS = "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', foreign_key_checks = 0, unique_checks = 0"
_UNCHECKED = "SET SESSION check_constraint_checks = 0"  # MySQL has no such setting
_STORED = ("BASE TABLE", "SYSTEM VERSIONED")
_SESSION = "SELECT @@global.sql_mode, @@global.time_zone, @@system_time_zone"
_PATIENCE = 10  # seconds


def copy_database(engine: Engine, folder: Path, to: URL | None = None) -> URL:
    """Write a private copy of an engine's database, as committed at one moment, beside it or on another server.

    The source is only read. What of it the copy does not have is told by `notes_of`. Its events are there, disabled.

    Raises
    ------
    RehearsalError
        When it cannot be read or written, with what to do.
    """
    source = server_of(engine)
    target = server_of(create_engine(to, poolclass=NullPool)) if to is not None else source
    with _told("Cannot copy the database", target):
        sweep_server(target)
        keeper = Keeper(target)
        try:
            with announce("copying the database"):
                _copy(source, keeper)
        except BaseException:
            keeper.end()
            raise
    return (engine.url if to is None else to).set(database=keeper.name("copy"))


def _copy(source: Server, keeper: Keeper) -> None:
    name, copy = source.database, keeper.name("copy")
    with source.connect(name) as ask, keeper.server.connect() as run:
        _refuse_scripts(name, [each for each in ask(_SCRIPTS, name, name) if _names(name, each[2] or "")])
        keeper.notes += _unsure(ask, name)
        _create(run, copy, ask(_LETTERS, name)[0])
        _check_free(ask, name)
        copy_by_dump(source, keeper.server, copy, EVERYTHING)
        # What a view reads is always told with its database: here the copy, unless it was written otherwise.
        _refuse_scripts(name, [("view", view) for view, text in run(_VIEWS, copy) if _names(name, text)])
        load(keeper.server, copy, _events(ask, name))
        there, here = ask(_SESSION)[0], run(_SESSION)[0]
    if there != here:
        keeper.notes.append(f"sql_mode and time zone are {there} at the source, {here} at the copy")


def _check_free(ask: Run, name: str) -> None:
    """Fail where somebody holds a table: the dump tool would wait as long as the server lets it, which is a day."""
    ask(f"SET SESSION lock_wait_timeout = {_PATIENCE}")
    for table, kind, _ in ask(_TABLES, name):
        if kind in _STORED:
            ask(f"SELECT 1 FROM {quote(table)} LIMIT 0")


def _unsure(ask: Run, name: str) -> list[str]:
    """Say what of a database its dump tool does not write as it is."""
    tables = ask(_TABLES, name)
    others = [table for table, kind, engine in tables if kind in _STORED and engine != "InnoDB"]
    versioned = [table for table, kind, _ in tables if kind == "SYSTEM VERSIONED"]
    floats = [f"{table}.{column}" for table, column in ask(_FLOATS, name)]
    told = (("not of InnoDB, so perhaps not of the same moment as the rest", others),
            ("without the rows of earlier times", versioned),
            ("FLOAT, of which the dump tool writes six digits", floats))
    return [f"{', '.join(found)}: {what}" for what, found in told if found]


def _names(name: str, text: str) -> bool:
    """Say whether a stored program names a database: on a copy it would reach for the real one all the same."""
    quoted = rf"(?<![\w`$.])(?:{re.escape(quote(name))}|{re.escape(name)})\s*\.\s*"
    words = r"\b(?:from|join|into|update|insert|replace|ignore|table|truncate|call|delayed|low_priority)[\s(]+"
    return bool(re.search(rf"{words}{quoted}|{quoted}(?:`[^`]+`|[\w$]+)\s*(?:\(|\.)", text, re.IGNORECASE))


def _refuse_scripts(name: str, found: list[tuple]) -> None:
    if found:
        which = ", ".join(f"{each[0]} {each[1]}" for each in found)
        raise RehearsalError(f"{which}: written with the name of the database {name!r}, so that on a copy they would "
                             "reach for the real one. Leave the name out there, or pass the URL of a copy on another "
                             "server by on=")


def save_copy(url: URL, folder: Path, name: str) -> URL:
    """Keep the present state of a private copy that nobody is connected to, under a name beside it."""
    keeper = keeper_of(url)
    saved, server = keeper.name(name), keeper.server
    with _told("Cannot keep the copy", server), server.connect() as run:
        tables = run(_TABLES, url.database)
        views = [table for table, kind, _ in tables if kind == "VIEW"]
        run(f"DROP DATABASE IF EXISTS {quote(saved)}")
        _create(run, saved, run(_LETTERS, url.database)[0])
        hidden = [f"--ignore-table={url.database}.{view}" for view in views]
        load(server, saved, dump_text(server, url.database, ["--no-data", "--skip-triggers", *hidden]))
        _copy_rows(run, url.database, saved, [table for table, kind, _ in tables if kind in _STORED])
        keeper.texts[saved] = keeper.texts.get(url.database) or _programs(server, run, url.database, tables)
    return url.set(database=saved)


def _copy_rows(run: Run, source: str, target: str, tables: list[str]) -> None:
    """Copy rows inside of the server: exact, where a dump writes six digits of a FLOAT."""
    columns: dict[str, list[str]] = {}
    for table, column in run(_COLUMNS, source):
        columns.setdefault(table, []).append(quote(column))
    run(_AS_IT_IS)
    if run("SHOW VARIABLES LIKE 'check_constraint_checks'"):
        run(_UNCHECKED)
    for table in tables:
        names = ", ".join(columns[table])
        run(f"INSERT INTO {quote(target)}.{quote(table)} ({names}) SELECT {names} FROM {quote(source)}.{quote(table)}")


def _programs(server: Server, run: Run, name: str, tables: list[tuple]) -> bytes:
    """Give what a database holds beside tables, in an order in which it can be made."""
    stored = [f"--ignore-table={name}.{table}" for table, kind, _ in tables if kind != "VIEW"]
    text = dump_text(server, name, ["--no-data", "--routines", "--skip-triggers", *stored])
    return text + dump_text(server, name, ["--no-data", "--no-create-info", "--triggers"]) + _events(run, name)


def restore_copy(url: URL, saved: URL) -> None:
    """Put a private copy back to a state that was kept; what was kept is used up."""
    keeper = keeper_of(url)
    server, name, kept = keeper.server, url.database, saved.database
    with _told("Cannot put the copy back", server), server.connect() as run:
        letters = run(_LETTERS, kept)[0]
        run(f"DROP DATABASE IF EXISTS {quote(name)}")
        _create(run, name, letters)
        moves = ", ".join(f"{quote(kept)}.{quote(table)} TO {quote(name)}.{quote(table)}"
                          for table, _, _ in run(_TABLES, kept))
        if moves:
            run(_AS_IT_IS)
            run(f"RENAME TABLE {moves}")
        load(server, name, keeper.texts.pop(kept))
        run(f"DROP DATABASE {quote(kept)}")


def empty_database(folder: Path, like: URL) -> URL:
    """Give the URL of a database with nothing in it, of the letters of a private copy."""
    keeper = keeper_of(like)
    name = keeper.name("empty")
    with _told("Cannot make an empty database", keeper.server), keeper.server.connect() as run:
        run(f"DROP DATABASE IF EXISTS {quote(name)}")
        _create(run, name, run(_LETTERS, like.database)[0])
    return like.set(database=name)


def size_of(engine: Engine) -> int:
    """Give the bytes of an engine's database, as the server last counted them."""
    server = server_of(engine)
    with server.connect() as ask:
        return int(ask("SELECT coalesce(sum(data_length + index_length), 0) FROM information_schema.tables "
                       "WHERE table_schema = %s", server.database)[0][0])


def adopt_copy(engine: Engine) -> URL:
    """Take a database that is there for the copy: it is changed, and stays."""
    sweep(engine)
    return adopt(engine.url, server_of(engine))


def sweep(engine: Engine) -> None:
    """Drop the copies that killed processes left on an engine's server."""
    sweep_server(server_of(engine))


def _create(run: Run, name: str, letters: tuple[str, str]) -> None:
    run(f"CREATE DATABASE {quote(name)} CHARACTER SET {letters[0]} COLLATE {letters[1]}")


def _events(ask: Run, name: str) -> bytes:
    """Write a database's events, disabled from the start: in a copy they must not run, not even once."""
    end = secrets.token_hex(6)  # the client takes 15 letters
    parts = []
    for event in ask(_EVENTS, name):
        (called, definer, zone, body, kind, at, amount, unit, mode, starts, ends, completion, comment) = event
        who, _, host = definer.rpartition("@")
        when = f"AT '{at}'" if kind == "ONE TIME" else f"EVERY '{amount}' {unit}" + "".join(
            f" {word} '{moment}'" for word, moment in (("STARTS", starts), ("ENDS", ends)) if moment)
        parts += [f"SET SESSION sql_mode = '{mode}', time_zone = '{zone}'",
                  f"CREATE DEFINER = {quote(who)}@{quote(host)} EVENT {quote(called)} ON SCHEDULE {when} "
                  f"ON COMPLETION {completion} DISABLE COMMENT {_literal(comment)} DO {body}"]
    return f"DELIMITER {end}\n{''.join(f'{part}{end}{chr(10)}' for part in parts)}DELIMITER ;\n".encode()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_ADVICE = (
    ("1044", "Let its user make databases (GRANT ALL ON `appkit\\_%`.* TO …), name a server where it may by copy_to=, "
             "or the URL of a copy by on=."),
    ("Access denied", "Use a user that may read, and make, all of it: definers take SET USER, or SUPER."),
    ("1205", "Somebody holds a lock on a table, as a migration that runs does: try again when that is over."),
    *((text, "The disk is full: make room, or name another server by copy_to=.") for text in
      ("No space left", "is full", "Temp file write failure")),
    ("from storage engine", "Is the disk full? Then make room, or name another server by copy_to=."),
    ("onnect", "Is the server still running?"), ("Lost connection", "Is the server still running?"))


@contextmanager
def _told(what: str, server: Server) -> Iterator[None]:
    """Turn an error of the driver or of a program into one that says what to do."""
    try:
        yield
    except (server.Error, RehearsalError, OSError) as reason:
        told = str(reason) if isinstance(reason, RehearsalError) else reason_of(reason)
        advice = next((advice for text, advice in _ADVICE if text in told), "")
        raise RehearsalError(f"{what}: {told.rstrip('.')}. {advice}".rstrip()) from reason
