"""Names in PostgreSQL's SQL."""


def quote(name: str) -> str:
    """Quote an identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'
