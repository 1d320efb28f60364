"""Large values, each kept once in a file of its own, and the short stand-ins that are compared in their place.

DuckDB reads 2048 values of a column at once: of blobs of 16 MB that is more than there is of memory, whatever a query
asks for.
"""
import hashlib
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from appkit.batches import Batch

# Bytes; a stand-in is longer than any value that stands for itself, and shorter than what DuckDB keeps apart (4096).
_SHORT = 4000
_DIGITS = 64  # at the end of a stand-in
_BYTES = 64 * 2**20  # of a batch, about
_KINDS = ("t", "b", "x")


class LargeValues:
    """The large texts and blobs of all revisions, in a file of a private folder."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "large", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._places: dict[bytes, tuple[int, int]] = {}  # where in the file, and how many bytes, by digest
        self.close = weakref.finalize(self, os.close, self._file)

    def put(self, kind: str, part: Any) -> Any:
        """Keep the large values of an array in the file; give the array with their stand-ins.

        Two values of any kinds have the same stand-in where their bytes are the same, and only there: it is their first
        bytes, which sort it where the value belongs, and their digest.
        """
        if kind not in _KINDS or not (large := _large(part)):
            return part
        values = _bytes(part, large)
        digests = [hashlib.sha256(value) for value in values]
        self._write({digest.digest(): value for digest, value in zip(digests, values)
                     if digest.digest() not in self._places})
        stand_ins = [_stand_in(value, kind == "t") + digest.hexdigest().encode()
                     for digest, value in zip(digests, values)]
        return _replaced(part, large, stand_ins)

    def _write(self, values: dict[bytes, bytes]) -> None:
        """Write values at the end of the file, and only then take note of them: what is interrupted is not there."""
        place, left = os.lseek(self._file, 0, os.SEEK_END), memoryview(b"".join(values.values()))
        while left:
            left = left[os.write(self._file, left):]
        for digest, value in values.items():
            self._places[digest] = place, len(value)
            place += len(value)

    def restore(self, value: Any) -> Any:
        """Give the value that a kept one stands for."""
        if not self._places or not isinstance(value, (str, bytes)) or 4 * len(value) <= _SHORT:
            return value
        if isinstance(value, str):
            held = value.encode()
            return self._get(held).decode() if len(held) > _SHORT else value
        return self._get(value) if len(value) > _SHORT else value

    def restore_rows(self, rows: list[tuple]) -> list[tuple]:
        """Give rows with the values that theirs stand for."""
        return [tuple(map(self.restore, row)) for row in rows] if self._places else rows

    def restore_batch(self, batch: Batch) -> Iterator[Batch]:
        """Give rows with the values that theirs stand for, in several batches where these are large."""
        sizes = self._sizes(batch)
        if not any(sizes):
            yield batch
            return
        for start, end in _runs(sizes):
            yield Batch(end - start, [{kind: self._restore(kind, part[start:end]) for kind, part in parts.items()}
                                      for parts in batch.columns])

    def _restore(self, kind: str, part: Any) -> Any:
        if kind not in _KINDS or not (large := _large(part)):
            return part
        return _replaced(part, large, map(self._get, _bytes(part, large)))

    def _sizes(self, batch: Batch) -> list[int]:
        """Give how many bytes of large values each row has."""
        sizes = [0] * batch.rows
        for parts in batch.columns if self._places else ():
            for part in (part for kind, part in parts.items() if kind in _KINDS):
                if large := _large(part):
                    for row, value in zip(pc.indices_nonzero(large).to_pylist(), _bytes(part, large)):
                        sizes[row] += self._place(value)[1]
        return sizes

    def _place(self, stand_in: bytes) -> tuple[int, int]:
        return self._places[bytes.fromhex(stand_in[-_DIGITS:].decode())]

    def _get(self, stand_in: bytes) -> bytes:
        place, size = self._place(stand_in)
        return os.pread(self._file, size, place)


def _large(part: Any) -> Any:
    """Give which values of an array are large; None where none is."""
    lengths = pc.binary_length(part)
    return pc.greater(lengths, _SHORT) if (pc.max(lengths).as_py() or 0) > _SHORT else None


def _bytes(part: Any, chosen: Any) -> list[bytes]:
    return part.filter(chosen).cast(pa.binary()).to_pylist()


def _replaced(part: Any, chosen: Any, values: Iterable[bytes]) -> Any:
    return pc.replace_with_mask(part, chosen, pa.array(values, pa.binary()).cast(part.type))


def _stand_in(value: bytes, is_text: bool) -> bytes:
    """Give how a large value's stand-in begins: text where it is text, and none where it is none."""
    end = _SHORT
    while value[end] & 0xC0 == 0x80 and end > _SHORT - 3:  # amid a character
        end -= 1
    return value[:end] + (b"#" if is_text or _is_text(value) else b"\xff")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _runs(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of not too many bytes, or of one row."""
    start, held = 0, 0
    for row, size in enumerate(sizes):
        if held and held + size > _BYTES:
            yield start, row
            start, held = row, 0
        held += size
    yield start, len(sizes)
