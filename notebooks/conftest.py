"""What strict comparison passes over: HTML may show durations, and its text form holds the same facts."""
from typing import Any


def pytest_collectstart(collector: Any) -> None:
    """Let nbval compare each output's text, and leave its HTML to tests/test_display.py."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html",)
