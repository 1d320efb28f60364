"""What a migration's statements on MariaDB mean: what continues what under another name, and what was dropped."""
import re
from collections.abc import Iterable, Iterator

from appkit.databases import fold

NAME = r"(?:`(?:[^`]|``)*`|\"(?:[^\"]|\"\")*\"|[^\s`\"(),;.'=]+)"
PATH = rf"{NAME}(?:\s*\.\s*{NAME})?"
# A literal, a name, a comment or any other character; white space and comments fall away.
_TOKENS = re.compile(rf"/\*.*?\*/|--\s[^\n]*|#[^\n]*|'(?:[^'\\]|\\.|'')*'|{NAME}|\s+|.", re.DOTALL)
_ALTER = re.compile(rf"\s*ALTER\s+(?:ONLINE\s+)?(?:IGNORE\s+)?TABLE\s+(?:IF\s+EXISTS\s+)?({PATH})\s+(?:(?:NO)?WAIT\s+"
                    r"(?:\d+\s+)?)?(.*)", re.IGNORECASE | re.DOTALL)
_CHANGE = re.compile(rf"CHANGE\s+(?:COLUMN\s+)?(?:IF\s+EXISTS\s+)?({NAME})\s+({NAME})\s", re.IGNORECASE)
_RENAME_COLUMN = re.compile(rf"RENAME\s+COLUMN\s+(?:IF\s+EXISTS\s+)?({NAME})\s+TO\s+({NAME})\s*$", re.IGNORECASE)
_RENAME = re.compile(rf"RENAME\s+(?:(?:TO|AS|=)\s+)?(?!COLUMN\s|INDEX\s|KEY\s)({PATH})\s*$", re.IGNORECASE)
_RENAME_TABLES = re.compile(r"\s*RENAME\s+TABLES?\s+(?:IF\s+EXISTS\s+)?(.*)", re.IGNORECASE | re.DOTALL)
_PAIR = re.compile(rf"({PATH})\s+(?:(?:NO)?WAIT\s+(?:\d+\s+)?)?TO\s+({PATH})\s*$", re.IGNORECASE)
_DROP = re.compile(r"\s*DROP\s+(INDEX|TRIGGER|VIEW|SEQUENCE|FUNCTION|PROCEDURE|EVENT)\s+(?:IF\s+EXISTS\s+)?(.*)",
                   re.IGNORECASE | re.DOTALL)
_DROP_TABLE = re.compile(r"\s*DROP\s+TABLES?\s+(?:IF\s+EXISTS\s+)?(.*)", re.IGNORECASE | re.DOTALL)
_DROP_CLAUSE = re.compile(rf"DROP\s+(INDEX|KEY|CONSTRAINT|FOREIGN\s+KEY|CHECK|PRIMARY\s+KEY)\s*"
                          rf"(?:IF\s+EXISTS\s+)?({NAME})?\s*$", re.IGNORECASE)
# What goes with the object that is called so: a unique index is a constraint to SQL, and an index to this server.
_MEANT = {"INDEX": ("index", "unique"), "KEY": ("index", "unique"), "FOREIGN KEY": ("foreign key",),
          "CHECK": ("check",), "CONSTRAINT": ("foreign key", "check", "unique", "index")}


def find_renames(statements: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Give the columns that statements carried on under other names: (table, {new: old}), in order."""
    found = []
    for text in statements:
        table, clauses = clauses_of(text)
        renames = {}
        for clause in clauses:
            if match := _CHANGE.match(clause) or _RENAME_COLUMN.match(clause):
                old, new = map(plain, match.groups())
                if old != new:
                    renames[new] = old
        if renames:
            found.append((table, renames))
    return found


def find_table_renames(statements: Iterable[str]) -> dict[str, str]:
    """Give the tables that statements carried on under other names: {new: old}, in lower case."""
    now: dict[str, str] = {}
    for text in statements:
        if match := _DROP_TABLE.match(text):
            for name in filter(None, map(re.compile(PATH).match, split(match[1]))):
                now.pop(fold(plain(name[0])), None)
        for old, new in _table_renames(text):
            now[fold(new)] = now.pop(fold(old), fold(old))
    return {new: old for new, old in now.items() if new != old}


def _table_renames(text: str) -> Iterator[tuple[str, str]]:
    if match := _RENAME_TABLES.match(_bare(text)):
        pairs = (_PAIR.match(part) for part in split(match[1]))
        yield from ((plain(pair[1]), plain(pair[2])) for pair in pairs if pair)
    table, clauses = clauses_of(text)
    for clause in clauses:
        if match := _RENAME.match(clause):
            yield table, plain(match[1])


def find_drops(statements: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Give the indexes, constraints, triggers, views and the like that statements dropped: kind and folded name."""
    found = set()
    for text in statements:
        if match := _DROP.match(_bare(text)):
            kind = match[1].lower()
            names = [re.match(PATH, part) for part in split(match[2])]
            kinds = _MEANT["INDEX"] if kind == "index" else (kind,)
            found |= {(each, fold(plain(name[0]))) for name in names if name for each in kinds}
        for clause in clauses_of(text)[1]:
            if match := _DROP_CLAUSE.match(clause):
                what = " ".join(match[1].upper().split())
                found |= {("primary key", "primary")} if what == "PRIMARY KEY" else {
                    (kind, fold(plain(match[2] or ""))) for kind in _MEANT[what]}
    return frozenset(found)


def clauses_of(text: str) -> tuple[str, list[str]]:
    """Give the table of an ALTER TABLE and its clauses; none of another statement."""
    match = _ALTER.match(_bare(text))
    return (plain(match[1]), split(match[2])) if match else ("", [])


def _bare(text: str) -> str:
    """Take the comments and the semicolon at the end off a statement."""
    words = [" " if token.startswith(("/*", "--", "#")) and len(token) > 1 else token
             for token in _TOKENS.findall(text)]
    return "".join(words).strip().rstrip(";").strip()


def plain(name: str) -> str:
    """Take the quotes off an identifier, and a database off its front."""
    parts = re.findall(NAME, name)
    name = parts[-1] if parts else name
    return name[1:-1].replace(name[0] * 2, name[0]) if name[:1] in "`\"" and name else name


def split(text: str) -> list[str]:
    """Split a list at its commas, outside of quotes and parentheses."""
    parts, depth = [""], 0
    for token in _TOKENS.findall(text):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "," and not depth:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]
