"""What a migration's statements on PostgreSQL mean: which name continues which, and what is dropped on purpose."""
import re
from collections.abc import Iterable, Iterator

from appkit.databases import fold

NAME = r'(?:"(?:[^"]|"")*"|[^\W\d][\w$]*)'
PATH = rf"{NAME}(?:\s*\.\s*{NAME})?"
TABLE = rf"(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?({PATH})(?:\s*\*)?"
_ALTER = rf"\s*ALTER\s+(?:FOREIGN\s+)?TABLE\s+{TABLE}\s*"
_RENAME = re.compile(rf"{_ALTER}RENAME\s+(?:COLUMN\s+)?({NAME})\s+TO\s+({NAME})\s*$", re.IGNORECASE)
_RENAME_TABLE = re.compile(rf"{_ALTER}RENAME\s+TO\s+({NAME})\s*$", re.IGNORECASE)
_MOVE = re.compile(rf"{_ALTER}SET\s+SCHEMA\s+({NAME})\s*$", re.IGNORECASE)
_COPY = re.compile(rf"\s*INSERT\s+INTO\s+({PATH})\s*\((.*?)\)\s*SELECT\s+(.*)\s+FROM\s+({PATH})\s*$",
                   re.IGNORECASE | re.DOTALL)
_DROP = re.compile(rf"\s*DROP\s+((?:MATERIALIZED\s+)?\w+)\s+(?:CONCURRENTLY\s+)?(?:IF\s+EXISTS\s+)?({PATH}.*)$",
                   re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(rf"\s*COMMENT\s+ON\s+(\w+)\s+({PATH})", re.IGNORECASE)
_COLUMN = re.compile(rf"(?:{PATH}\s*\.\s*)?({NAME})(?:\s+AS\s+{NAME})?", re.IGNORECASE)
_CAST = re.compile(rf"CAST\((.*) AS .*?\)(?:\s+AS\s+{NAME})?", re.IGNORECASE | re.DOTALL)
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/|[\w\s]+|.""", re.DOTALL)
_TEMPORARY = "_alembic_tmp_"

# What a DROP may name, as the catalogue calls it.
_KINDS = {
    "index": ("index",), "trigger": ("trigger",), "rule": ("rule",), "policy": ("policy",),
    "statistics": ("statistics",), "view": ("view",), "materialized view": ("materialized view",),
    "sequence": ("sequence", "sequence options"), "type": ("enum", "type", "domain"), "domain": ("domain",),
    "function": ("function",), "procedure": ("procedure",), "routine": ("function", "procedure"),
    "aggregate": ("function",),
    "collation": ("collation",), "extension": ("extension",), "schema": ("schema",),
}
# Those whose schema is that of a table: the catalogue calls them by their bare name.
_BARE = {"index", "trigger", "rule", "policy", "statistics"}


def find_renames(statements: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Give the columns that statements carried on under other names: (table, {new: old}), in order.

    Told by ALTER TABLE … RENAME COLUMN, and by the INSERT … SELECT with which a batch copies a table into its
    successor. A column that the SELECT computes is no rename.
    """
    found = []
    for text in _single(statements):
        if match := _RENAME.match(text):
            found.append((plain(match[1]), {plain(match[3]): plain(match[2])}))
        elif match := _COPY.match(text):
            new, old = split(match[2]), split(match[3])
            if _is_temporary(plain(match[1])) and len(new) == len(old):
                pairs = {plain(a): _only_column(b) for a, b in zip(new, old)}
                found.append((plain(match[4]), {a: b for a, b in pairs.items() if b and a != b}))
    return found


def find_table_renames(statements: Iterable[str]) -> dict[str, str]:
    """Give the tables that were carried on under other names, or into other schemas: {new: old}, folded."""
    now: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for text in _single(statements):
        if (match := _DROP.match(text)) and match[1].lower() == "table":
            for name in map(fold, _listed(match[2])):
                dropped[name] = now.pop(name, name)
        elif match := _RENAME_TABLE.match(text) or _MOVE.match(text):
            old, moved = fold(plain(match[1])), match.re is _MOVE
            schema, _, bare = old.rpartition(".")
            new = fold(_within(plain(match[2]), bare) if moved else _within(schema, plain(match[2])))
            # A batch's successor takes the place of the table that it was copied from, whatever that was called before.
            now[new] = dropped.get(new, new) if _is_temporary(old) else now.pop(old, old)
    return {new: old for new, old in now.items() if new != old}


def find_drops(statements: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Give what statements dropped by name, but for tables: the kinds that it may be, and the folded name."""
    found, statements = set(), list(statements)
    for match in filter(None, map(_DROP.match, _single(statements))):
        kind = " ".join(match[1].lower().split())
        for name in _listed(match[2]):
            name = name.rpartition(".")[2] if kind in _BARE else name
            found |= {(each, fold(name)) for each in _KINDS.get(kind, ())}
    for match in filter(None, map(_COMMENT.match, statements)):
        kind, name = match[1].lower(), plain(match[2]).rpartition(".")[2]
        found.add(("comment", kind if kind in ("table", "view") else f"{kind} {fold(name)}"))
    return frozenset(found)


def plain(name: str) -> str:
    """Give a name as the catalogue tells it: without quotes, folded where it has none, the default schema left out."""
    parts = [part[1:-1].replace('""', '"') if part[0] == '"' else fold(part) for part in re.findall(NAME, name)]
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] == "public" else parts)


def split(text: str) -> list[str]:
    """Split a list at its commas, outside of quotes and parentheses."""
    parts, depth = [""], 0
    for token in _TOKEN.finditer(text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if token[0] == "," and not depth:
            parts.append("")
        else:
            parts[-1] += token[0]
    return [part.strip() for part in parts]


def _single(texts: Iterable[str]) -> Iterator[str]:
    """Give the statements of texts one by one, without comments."""
    for text in texts:
        statement = ""
        for token in _TOKEN.finditer(text):
            if token[0] == ";":
                yield statement
                statement = ""
            else:
                statement += " " if token[0].startswith(("--", "/*")) else token[0]
        yield statement


def _within(schema: str, name: str) -> str:
    return name if schema in ("", "public") else f"{schema}.{name}"


def _is_temporary(name: str) -> bool:
    return name.rpartition(".")[2].startswith(_TEMPORARY)


def _listed(text: str) -> list[str]:
    """Give the names that a DROP lists: what follows each (arguments, ON a table, CASCADE) is passed over."""
    return [plain(match[0]) for match in map(re.compile(PATH).match, split(text)) if match]


def _only_column(expression: str) -> str | None:
    """Give the column that an expression of a batch's copy reads: bare, or cast to the column's new type."""
    if match := _CAST.fullmatch(expression):
        return _only_column(match[1])
    match = _COLUMN.fullmatch(expression)
    return plain(match[1]) if match else None
