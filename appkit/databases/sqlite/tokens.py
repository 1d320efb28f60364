"""SQL as SQLite stores it, taken apart token by token and spelt in one way."""
import re
from collections.abc import Sequence
from typing import NamedTuple

from appkit.databases import fold
from appkit.databases.sqlite.naming import quote


class Token(NamedTuple):
    kind: str  # word, quoted, string, number, blob or sign
    text: str  # as typed
    value: str  # what it says, without the quotes


_TOKEN = re.compile(r"""
    (?P<space>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))
  | (?P<blob>[xX]'[0-9a-fA-F]*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
  | (?P<number>0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)
  | (?P<word>[A-Za-z0-9_$\x80-\U0010ffff]+)
  | (?P<sign>->>|->|\|\||<<|<=|<>|>=|>>|==|!=|.)
""", re.DOTALL | re.VERBOSE)

LITERALS = frozenset("NULL TRUE FALSE CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP".split())

# Keywords that are never the bare name of something, or never mean it where an expression or a statement has them.
_RESERVED = frozenset("""ADD ALL ALTER AND AS AUTOINCREMENT BETWEEN CASE CAST CHECK COLLATE COMMIT CONSTRAINT CREATE
    DEFAULT DEFERRABLE DELETE DISTINCT DROP ELSE ESCAPE EXISTS FOREIGN FROM GLOB GROUP HAVING IN INDEX INSERT INTO IS
    ISNULL JOIN LIKE LIMIT MATCH NOT NOTHING NOTNULL NULL ON OR ORDER PRIMARY REFERENCES REGEXP RETURNING SELECT SET
    TABLE THEN TO TRANSACTION UNION UNIQUE UPDATE USING VALUES WHEN WHERE CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP
    """.split())
# Keywords that may be bare names too: they are when the table has a column of that name.
_KEYWORDS = _RESERVED | frozenset("""AFTER ASC BEFORE BEGIN BY CONFLICT CROSS DESC DO EACH END EXCEPT FAIL FALSE FOR
    IGNORE INNER INSTEAD INTERSECT LEFT NATURAL OF OFFSET OUTER OVER PARTITION RAISE RECURSIVE REPLACE ROLLBACK ROW
    STORED TRUE VIRTUAL WINDOW WITH""".split())

_ROWIDS = frozenset(("rowid", "oid", "_rowid_"))
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


def tokenize(sql: str) -> list[Token]:
    tokens = []
    for found in _TOKEN.finditer(sql):
        text = found.group()
        if found.lastgroup == "quoted":
            value = text[1:-1] if text[0] == "[" else text[1:-1].replace(text[0] * 2, text[0])
        else:
            value = text[1:-1].replace("''", "'") if found.lastgroup == "string" else text
        if found.lastgroup != "space":
            tokens.append(Token(found.lastgroup, text, value))
    return tokens


def as_string(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def as_name(name: str) -> str:
    """Write an identifier, in quotes only where it needs them."""
    return name if _PLAIN.fullmatch(name) and name.upper() not in _KEYWORDS else quote(name)


def without_quotes(tokens: Sequence[Token]) -> list[Token]:
    """Take away the parentheses around the whole of an expression."""
    tokens = list(tokens)
    while tokens and tokens[0].text == "(" and _closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing(tokens: Sequence[Token], start: int) -> int:
    """Give the place of the parenthesis that closes the one at `start`; the end of the text if none does."""
    depth = 0
    for at in range(start, len(tokens)):
        if tokens[at].kind == "sign" and tokens[at].text in "()":
            depth += 1 if tokens[at].text == "(" else -1
            if depth == 0:
                return at
    return len(tokens)


def render(tokens: Sequence[Token], names: dict[str, str] | None = None, *, upper: bool = False) -> str:
    """Write tokens in the one spelling; `names` are the table's columns by their folded names, where known."""
    result = ""
    before = ""
    for at, token in enumerate(tokens):
        text = _spell(tokens, at, names)
        text = text.upper() if upper and token.kind == "word" else text
        result += text if not result or _touches(before, tokens, at) else " " + text
        before = text
    return result


def _spell(tokens: Sequence[Token], at: int, names: dict[str, str] | None) -> str:
    token = tokens[at]
    if token.kind not in ("word", "quoted"):
        return token.text
    known = (names or {}).get(fold(token.value))
    word = token.value.upper()
    if token.kind == "word" and (word in _RESERVED or word in _KEYWORDS and known is None):
        return word
    if at and tokens[at - 1].kind == "word" and tokens[at - 1].text.upper() == "COLLATE":
        return collation_of(token.value)
    if token.text[0] == '"' and names is not None and known is None and not _is_name(tokens, at):
        return as_string(token.value)  # SQLite takes "x" for a string where no column is called x
    return as_name(known or token.value)


def _is_name(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether a quoted word is a name by where it stands: of a function, a type, a collation, or with a dot."""
    before = tokens[at - 1].text.upper() if at else ""
    after = tokens[at + 1].text if at + 1 < len(tokens) else ""
    return before in (".", "COLLATE", "AS") or after in (".", "(") or fold(tokens[at].value) in _ROWIDS


def _touches(before: str, tokens: Sequence[Token], at: int) -> bool:
    """Tell whether no space stands between a token and the one before it."""
    text, last = tokens[at].text, tokens[at - 1]
    if tokens[at].kind == "sign" and text in ",).;" or last.kind == "sign" and last.text in "(.~":
        return True
    if text == "(" and tokens[at].kind == "sign":
        return last.kind in ("word", "quoted") and before not in _KEYWORDS
    signed = last.kind == "sign" and last.text in "+-" and tokens[at].kind != "sign"
    return signed and (at == 1 or tokens[at - 2].kind == "sign" and tokens[at - 2].text != ")"
                       or tokens[at - 2].kind == "word" and tokens[at - 2].value.upper() in _RESERVED)


class Words:
    """The tokens of a statement, read from left to right."""

    def __init__(self, sql: str | Sequence[Token]) -> None:
        self.tokens = tokenize(sql) if isinstance(sql, str) else list(sql)
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.tokens)

    def peek(self, ahead: int = 0) -> str:
        """Give a coming keyword or sign; nothing for whatever is in quotes."""
        at = self.at + ahead
        return self.tokens[at].text.upper() if at < len(self.tokens) and self.tokens[at].text[0] not in "'\"`[" else ""

    def skip(self, *words: str) -> bool:
        """Pass these words if they come next."""
        found = all(self.peek(ahead) == word for ahead, word in enumerate(words))
        self.at += len(words) if found else 0
        return found

    def any_of(self, *words: str) -> str:
        """Pass one of these words if it comes next, and give it."""
        word = self.peek()
        return word if word in words and self.skip(word) else ""

    def name(self) -> str:
        """Pass a name and give it without its quotes."""
        self.at += 1
        return self.tokens[self.at - 1].value if self.at <= len(self.tokens) else ""

    def group(self) -> list[Token]:
        """Pass a group in parentheses and give what is in it; nothing when none comes next."""
        if self.peek() != "(":
            return []
        start, self.at = self.at + 1, _closing(self.tokens, self.at) + 1
        return self.tokens[start:self.at - 1]

    def rest(self) -> list[Token]:
        """Give all that is left."""
        start, self.at = self.at, len(self.tokens)
        return self.tokens[start:]

    def pass_head(self) -> None:
        """Pass CREATE, what is created, and its name."""
        while self and not self.any_of("TABLE", "INDEX", "TRIGGER", "VIEW"):
            self.at += 1
        self.skip("IF", "NOT", "EXISTS")
        self.name()
        if self.skip("."):
            self.name()


def collation_of(name: str) -> str:
    return name.upper() if name.upper() in ("BINARY", "NOCASE", "RTRIM") else as_name(name)
