"""Text that can be printed as it is."""


def printable(text: str) -> str:
    """Spell out what cannot be seen: in a terminal it could move the cursor, or forge a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
