"""Files spoiled as a whole: the first line, the packing, the encoding. They are described and cut
into lines, which has to end in the right lines or in an error with a message, and in no other way.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from pathlib import Path

import mutations
from readers import Format, joined

from mbrec.data_prep.lines import LineReader
from mbrec.errors import MbrecError

_PACKERS = (gzip.compress, bz2.compress, lzma.compress)
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1")


def spoiled(form: Format, rng: random.Random) -> bytes:
    """A short log that is mutated anywhere, and sometimes packed and then damaged."""
    lines = [form.make(rng) for _ in range(rng.randrange(4))]
    content = joined(form, lines, rng)
    for _ in range(rng.randrange(4)):
        content = mutations.mutated(content, rng)
    if rng.random() < 0.3:
        content = rng.choice(_PACKERS)(content)
        if rng.random() < 0.7:
            content = mutations.mutated(content, rng)
    if rng.random() < 0.05:
        content = rng.choice((*_MAGIC, b"\xff\xfe", b"")) + content
    return content


def outcome(form: Format, content: bytes, folder: Path) -> list[str]:
    """What is wrong with how mbrec takes a file, empty if nothing."""
    path = folder / form.file
    path.write_bytes(content)
    try:
        layout = form.describe(path).layouts[0]
        reader = LineReader(layout)
        found = [row for batch in reader.batches() for row in batch.to_pylist()]
    except MbrecError as error:
        return [] if str(error) and "\n" not in str(error) else [f"{form.name}: {error!r}"]
    except Exception as error:
        return [f"{form.name}: {content!r} ends in {error!r}"]
    if content[:2] in {magic[:2] for magic in _MAGIC}:
        return []  # packed, and not so damaged that it could not be unpacked
    text = content.removeprefix(b"\xef\xbb\xbf")
    expected = text.count(b"\n") + (not text.endswith(b"\n")) - layout.header
    numbers = [row["line"] for row in found]
    first = 1 + layout.header
    if numbers != list(range(first, first + max(expected, 0))) or reader.rows != len(found):
        return [f"{form.name}: {content!r} has {expected} rows, not {len(found)}"]
    return []
