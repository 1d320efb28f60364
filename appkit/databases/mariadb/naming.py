"""Names in MariaDB's SQL."""
import re

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


def quote(name: str) -> str:
    """Quote an identifier for a statement."""
    return "`" + name.replace("`", "``") + "`"


def as_name(name: str) -> str:
    """Write an identifier for a definition, in double quotes only where it needs them: so all databases' read alike."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def as_text(value: str) -> str:
    """Write a text as a literal, whatever the session's sql_mode says of backslashes."""
    return f"_utf8mb4 0x{value.encode().hex()}" if value else "''"
