"""Names in SQLite's SQL."""


def quote(name: str) -> str:
    """Quote an identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'
