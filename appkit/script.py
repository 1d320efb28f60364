"""What a revision file says of itself: what it drops on purpose, and what its author accepted."""
import ast
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from appkit.errors import RehearsalError


class Script:
    """A revision file, read and not run.

    A revision accepts findings in a dictionary of its own, so that a review sees it:
    `accepted = {"values-lost user.nickname": "nobody has used it since 2024"}`.
    """

    def __init__(self, path: Path, module: Any) -> None:
        with tokenize.open(path) as file:  # in the encoding that it declares
            self._source = file.read()
        accepted = getattr(module, "accepted", {})
        if not isinstance(accepted, dict):
            raise RehearsalError(f"{path.name}: accepted is a {type(accepted).__name__}. Write a dictionary, from what "
                                 "is accepted to why: accepted = {'values-lost user.nickname': 'the reason'}.")
        self._accepted = accepted

    def accepts(self, finding: str, where: str) -> str | None:
        """Give the reason for which the file accepts a finding, None when it does not."""
        return self._accepted.get(f"{finding} {where}".strip())

    @property
    def accepted(self) -> set[str]:
        """What the file accepts: findings with where they are."""
        return set(self._accepted)

    def drops(self, name: str) -> bool:
        """Say whether the upgrade drops something of this name: by a drop_ operation, or by DROP in SQL."""
        if any(call.startswith("drop_") and name in strings for call, strings, _ in self._calls):
            return True
        sql = re.compile(rf"\bDROP\s+\w+\s+(?:IF\s+EXISTS\s+)?[\"`\[]?{re.escape(name)}(?!\w)", re.IGNORECASE)
        return any(sql.search(text) for text in self._strings)

    def mentions(self, word: str, column: str) -> bool:
        """Say whether an operation of the upgrade names a keyword (on a column, when one is given)."""
        return any(word in keywords and (not column or column in strings) for _, strings, keywords in self._calls)

    @cached_property
    def _upgrade(self) -> list[ast.AST]:
        tree = ast.parse(self._source)
        parts = [node for node in tree.body if getattr(node, "name", "") != "downgrade"]
        return [node for part in parts for node in ast.walk(part)]

    @cached_property
    def _strings(self) -> list[str]:
        return list(_texts(self._upgrade))

    @cached_property
    def _calls(self) -> list[tuple[str, set[str], set[str]]]:
        """Every call: its name, the texts and names in its arguments, and all keywords and calls within it."""
        found = []
        for node in self._upgrade:
            if isinstance(node, ast.Call):
                inside = list(ast.walk(node))
                strings = set(_texts(inside))
                keywords = {part.arg for part in inside if isinstance(part, ast.keyword) and part.arg}
                keywords |= {_called(part) for part in inside if isinstance(part, ast.Call)}
                found.append((_called(node), strings, keywords))
        return found


def _texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))
