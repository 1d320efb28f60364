"""What PostgreSQL's own texts say of an object, without the names that stand beside them in the catalogue."""
import re

NAME = r'(?:"(?:[^"]|"")*"|[^\s"().,]+)'
_PATH = rf"{NAME}(?:\.{NAME})?"
_INDEX = re.compile(rf"CREATE (UNIQUE )?INDEX {NAME} ON (?:ONLY )?{_PATH} USING ({NAME}) (.*)", re.DOTALL)
_KEY = re.compile(rf"FOREIGN KEY (\((?:PERIOD |, |{NAME})+\) REFERENCES ){_PATH}(.*)", re.DOTALL)
_HEAD = re.compile(r"(?:PRIMARY KEY|UNIQUE|CHECK|EXCLUDE) ")
_NULLS = re.compile(rf"NULLS NOT DISTINCT (\((?:, |{NAME})+\))")
_MADE = re.compile(rf"CREATE (CONSTRAINT )?(?:TRIGGER|STATISTICS|RULE) {_PATH} (?:AS\s+)?(.*)", re.DOTALL)
_FUNCTION = re.compile(rf"CREATE OR REPLACE (FUNCTION|PROCEDURE) {_PATH}(.*)", re.DOTALL)


def as_name(name: str) -> str:
    """Write a name so that it reads as one."""
    return name if re.fullmatch(r"[\w.$]+", name) else '"' + name.replace('"', '""') + '"'


def constraint(text: str, parent: str) -> str:
    """Give a constraint's columns or expression, and what follows; its parent as the catalogue names it."""
    if match := _KEY.fullmatch(text):
        return match[1] + as_name(parent) + match[2]
    return _NULLS.sub(r"\1 NULLS NOT DISTINCT", _HEAD.sub("", text, count=1), count=1)


def index(text: str) -> str:
    """Give what an index is on."""
    unique, method, rest = _INDEX.fullmatch(text).groups(default="")
    return unique + ("" if method == "btree" else f"USING {method} ") + rest


def made(text: str) -> str:
    """Give what CREATE TRIGGER, STATISTICS or RULE says behind the name."""
    return "".join(_MADE.fullmatch(text).groups(default=""))


def function(text: str) -> str:
    """Give a function but for its name."""
    match = _FUNCTION.fullmatch(text)
    return match[1] + match[2].rstrip("\n") if match else text
