"""What a revision file says of itself: what it drops on purpose, and what its author accepted."""
import ast
import tokenize
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from appkit.errors import RehearsalError


_TYPES = {"foreign key": "foreignkey", "unique": "unique", "check": "check", "primary key": "primary"}


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

    def drops(self, kind: str, name: str, table: str, *, unnamed: bool) -> bool:
        """Say whether an operation drops a constraint from a table: by its name, or by its kind when it has none."""
        if kind not in _TYPES:
            return False
        return any(call.name == "drop_constraint" and table in call.tables
                   and (name in call.texts or unnamed and _TYPES[kind] in call.texts) for call in self._calls)

    def mentions(self, word: str, table: str, column: str) -> bool:
        """Say whether an operation on a table names a keyword (on a column, when one is given)."""
        return any(word in call.keywords and table in call.tables and (not column or column in call.texts)
                   for call in self._calls)

    @cached_property
    def _upgrade(self) -> list[ast.AST]:
        tree = ast.parse(self._source)
        parts = [node for node in tree.body if getattr(node, "name", "") != "downgrade"]
        return [node for part in parts for node in ast.walk(part)]

    @cached_property
    def _calls(self) -> list["_Call"]:
        inside: dict[int, set[str]] = {}  # the tables of the batches that a node stands in
        for node in self._upgrade:
            if isinstance(node, ast.With):
                tables = {text for item in node.items for text in _texts(ast.walk(item.context_expr))}
                for part in (part for statement in node.body for part in ast.walk(statement)):
                    inside.setdefault(id(part), set()).update(tables)
        return [_read_call(node, inside.get(id(node), set())) for node in self._upgrade if isinstance(node, ast.Call)]


class _Call(NamedTuple):
    """A call: its name, the texts in its arguments, all keywords and calls within it, and the tables it may be on."""

    name: str
    texts: set[str]
    keywords: set[str]
    tables: set[str]


def _read_call(node: ast.Call, tables: set[str]) -> _Call:
    parts = list(ast.walk(node))
    texts = set(_texts(parts))
    keywords = {part.arg for part in parts if isinstance(part, ast.keyword) and part.arg}
    keywords |= {_called(part) for part in parts if isinstance(part, ast.Call)}
    return _Call(_called(node), texts, keywords, tables or texts)


def _texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))
