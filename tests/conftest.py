"""What several test files need."""
from collections.abc import Iterator
from pathlib import Path

import pytest

from appkit.snapshots import Snapshots


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[Snapshots]:
    opened = Snapshots(tmp_path)
    yield opened
    opened.close()
