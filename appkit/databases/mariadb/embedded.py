"""A private MariaDB server: for demos, from the programs that this machine has."""
import secrets
import shutil
from functools import cache

from sqlalchemy import URL

from appkit.databases import embedding, with_driver
from appkit.errors import AppkitError

# The same on every machine, whatever is configured there, and nothing waits for a disk: the data goes with the process.
_MAKE = ("--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal")
_RUN = ("--no-defaults", "--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=128M",
        "--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci",
        "--default-time-zone=+00:00")


def start() -> URL:
    """Give the URL of a fresh, empty database on a server that ends with this process, and its data with it.

    The server is started by the first call, and is the same for all.

    Raises
    ------
    AppkitError
        When MariaDB's server is not installed, or does not start.
    """
    return embedding.new_database(_start())


@cache
def _start() -> URL:
    install, server = map(find_program, ("mariadb-install-db", "mariadbd"))
    folder, password = embedding.private_folder(), secrets.token_hex(16)
    data, socket, first = (folder / name for name in ("data", "socket", "first.sql"))
    own = [f"--datadir={data}", f"--tmpdir={folder}"]  # in /tmp one that starts removes what another one works with
    return embedding.start(embedding.Server(
        "MariaDB", folder, {first.name: f"ALTER USER root@localhost IDENTIFIED BY '{password}';\n"},
        make=[install, *_MAKE, *own],
        run=[server, *_RUN, *own, f"--socket={socket}", f"--init-file={first}"],
        stop="KILL",  # it would take its time to keep what is deleted then
        ready="ready for connections", failed="[ERROR] Aborting",
        url=URL.create(with_driver("mariadb://").drivername, "root", password, "localhost",
                       query={"unix_socket": str(socket)}, database="mysql")))


def find_program(name: str) -> str:
    """Find one of the server's programs: where it is not in PATH, where Debian has it.

    Raises
    ------
    AppkitError
        When it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise AppkitError(f"MariaDB's server is not installed: there is no {name}. Install it (on Debian and Ubuntu: "
                          "apt-get install mariadb-server; with Homebrew: brew install mariadb), or pass the URL of an "
                          "empty database.")
    return found
