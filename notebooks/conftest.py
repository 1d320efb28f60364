"""What strict comparison passes over, and which notebook needs a server that this machine may not have."""
import shutil
from typing import Any

import pytest


def pytest_collectstart(collector: Any) -> None:
    """Let nbval compare each output's text, and leave its HTML to tests/test_display.py."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html",)
        if collector.path.name == "07-three-databases.ipynb" and not shutil.which("mariadb-install-db"):
            pytest.skip("07-three-databases: MariaDB's server is not installed", allow_module_level=True)
