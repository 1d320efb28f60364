"""MariaDB's own programs: run with a file of options that only its owner can read, the password in it."""
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine

from appkit.databases.mariadb.servers import Server, server_of
from appkit.databases.programs import ProgramError, run, write_whole
from appkit.errors import RehearsalError

# By these names, and by those of MySQL.
_PROGRAMS = {"mariadb-dump": "mysqldump", "mariadb": "mysql"}
_DUMP = ("--single-transaction", "--quick", "--hex-blob", "--skip-lock-tables", "--skip-add-locks", "--skip-comments",
         "--no-tablespaces", "--default-character-set=utf8mb4", "--max-allowed-packet=1G")
EVERYTHING = ("--routines", "--triggers")
# What is in the source is taken as it is, though it would be refused today.
_LOAD = ("--binary-mode", "--default-character-set=utf8mb4", "--max-allowed-packet=1G",
         "--init-command=SET SESSION check_constraint_checks = 0, SESSION lock_wait_timeout = 60")


def copy_by_dump(source: Server, target: Server, name: str, options: Sequence[str]) -> None:
    """Fill an empty database with what another one holds, as committed at one moment."""
    with _options(source) as reading, _options(target) as writing:
        run([_program("mariadb-dump"), reading, *_DUMP, *options, "--", source.database],
            into=[_program("mariadb"), writing, *_LOAD, name])


def dump_text(server: Server, name: str, options: Sequence[str]) -> bytes:
    """Give a dump of what is no row."""
    with _options(server) as reading:
        return run([_program("mariadb-dump"), reading, *_DUMP, *options, "--", name])


def load(server: Server, name: str, text: bytes) -> None:
    """Run a dump in a database."""
    with _options(server) as writing:
        run([_program("mariadb"), writing, *_LOAD, name], text=text)


def back_up(engine: Engine, revision: str, folder: Path) -> Path:
    """Write a dump of an engine's database into a folder, for the mariadb client; give its path.

    Raises
    ------
    RehearsalError
        When it cannot be written; then nothing stays of it.
    """
    server = server_of(engine)
    name = server.database.replace("/", "_")
    try:
        with _options(server) as reading:
            return write_whole(folder / f"{name}.before-{revision}.sql", lambda path: run(
                [_program("mariadb-dump"), reading, *_DUMP, *EVERYTHING, "--events", f"--result-file={path}", "--",
                 server.database]))
    except (OSError, ProgramError) as reason:
        raise RehearsalError(f"Cannot back up the database: {reason}.") from reason


@contextmanager
def _options(server: Server) -> Iterator[str]:
    """Give the option that names a file with a server's address and password, there for the block."""
    told = server.parameters
    options = {"host": told.get("host"), "port": told.get("port"), "user": told.get("user"),
               "password": told.get("password", told.get("passwd")), "socket": told.get("unix_socket")}
    secure = told.get("ssl") or {}
    options |= {f"ssl-{each}": secure.get(each) for each in ("ca", "cert", "key")} if isinstance(secure, dict) else {}
    lines = [f"{name}={_option(str(value))}" for name, value in options.items() if value]
    with TemporaryDirectory(prefix="appkit-") as folder:  # 0700
        path = Path(folder, "options.cnf")
        path.touch(mode=0o600)
        path.write_text("\n".join(["[client]", *lines, ""]), encoding="utf8")
        yield f"--defaults-file={path}"


def _option(value: str) -> str:
    """Write a value as an option file takes it.

    Source: https://mariadb.com/kb/en/configuring-mariadb-with-option-files/#option-file-syntax
    """
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        value = value.replace(plain, escaped)
    return f'"{value}"'


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(_PROGRAMS[name])
    if not found:
        raise RehearsalError(f"To copy a database of MariaDB takes {name}, or {_PROGRAMS[name]}; neither is in PATH. "
                             "Install mariadb-client.")
    return found
