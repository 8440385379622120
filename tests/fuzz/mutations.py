"""Sound lines of every format, and ways to break them: seeded, so that every run is the same."""

from __future__ import annotations

import random
from collections.abc import Callable

TOKENS: tuple[bytes, ...] = (
    *(bytes([byte]) for byte in b",;|\t \"'.-+_:/\\eETZ0123456789\r\x00\x0b\x0c\x1a\x1f\x7f\x80"),
    *(b"", b".0", b".00", b"00", b"-0", b"1e5", b"0x1f", b"1_0", b"NaN", b"inf", b"null", b"None"),
    *(b'""', b'"a,b"', b'"a""b"', b'"\r"', b",,", b"\r\r", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3"),
    *(b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xd6\xd0", b"\x81\x30\x81\x30"),
    *("é中\u00a0\u2028\u3000٣１😀\u0301".encode(), "٣".encode(), "\u00a0".encode(), "中".encode()),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"99999999999"),
    *(b"100000000000", b"18446744073709551616", b"1" * 40, b"1511544000000", b"9007199254740993"),
    *(b"0000-01-01", b"0001-01-01 00:00:00", b"9999-12-31 23:59:59", b"2019-02-29", b"24:00:00"),
    *(b"2020-02-29 23:59:60", b"10000-01-01", b"2018-02-04T08:28:15Z", b"2018-02-04 08:28:15.999"),
    *(b"2018-02-04 08:28:15+08:00", b"+14:00", b"-0330", b"+99:99", b" UTC", b" GMT", b"epoch"),
    *(b"pv", b"buy", b"click", b"train", b"test", b"=1+1", b"\x1b[31m", b"$(x)", b"%s", b"'; --"),
)
"""What has broken readers before: separators, quotes, limits of numbers and times, encodings."""


def ub_line(rng: random.Random) -> bytes:
    behavior = rng.choice(("pv", "fav", "cart", "buy"))
    row = (
        _number(rng),
        _number(rng),
        _number(rng),
        behavior,
        str(1511544000 + rng.randrange(10**6)),
    )
    return ",".join(row).encode()


def jd_2019_line(rng: random.Random) -> bytes:
    row = (_number(rng), _number(rng), _iso(rng), _number(rng), str(rng.randint(1, 5)))
    return ",".join(row).encode()


def jd_2016_line(rng: random.Random) -> bytes:
    kind, cate = str(rng.randint(1, 6)), str(rng.randint(1, 9))
    row = (f"{_number(rng)}.0", _number(rng), _iso(rng), rng.choice(("", "27")), kind, cate, "885")
    return ",".join(row).encode()


def csv_line(rng: random.Random) -> bytes:
    user = rng.choice(
        (_number(rng), f'"u{_number(rng)}"', '"a,b"', '"say ""hi"""', " x ", ' "y", "z" ')
    )
    kind = rng.choice(("view", "cart", "buy", "wish", '"buy"'))
    time = _iso(rng) + rng.choice(("", "", " UTC", "Z", ".25", "+02:00", "-0330", ".5 +02"))
    row = (user, kind, time, f"i{_number(rng)}", rng.choice(("train", "valid", "test")))
    return ",".join(row).encode()


def tsv_line(rng: random.Random) -> bytes:
    return f"{_number(rng)}\t{_number(rng)}\t{1511544000000 + rng.randrange(10**9)}".encode()


def given_line(rng: random.Random) -> bytes:
    between = rng.choice((" ", "\t", ",", "  ", " , "))
    return f"{_number(rng)}{between}{_number(rng)}".encode()


Make = Callable[[random.Random], bytes]


def mutated(line: bytes, rng: random.Random) -> bytes:
    """`line` after one to four random edits; one in ten stays as it is."""
    if rng.random() < 0.1:
        return line
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        line = _edit(line, rng)
    return line


def _edit(line: bytes, rng: random.Random) -> bytes:
    """One edit: a byte, a stretch, a token or a field."""
    size = len(line)
    first, second = sorted((rng.randint(0, size), rng.randint(0, size)))
    kind = rng.randrange(8)
    if kind == 0 and size:
        place = min(first, size - 1)
        return line[:place] + bytes([line[place] ^ (1 << rng.randrange(8))]) + line[place + 1 :]
    if kind == 1:
        return line[:first] + line[min(second, first + rng.randint(1, 4)) :]
    if kind == 2:
        return line[:first] + bytes([rng.randrange(256)]) + line[first:]
    if kind == 3:
        return line[:second] + line[first:second] + line[second:]
    if kind == 4:
        return line[: rng.randint(0, size)]
    if kind in (5, 6):
        token = rng.choice(TOKENS)
        return line[:first] + token + line[first if kind == 5 else second :]
    fields = line.split(b",")
    fields[rng.randrange(len(fields))] = rng.choice((*fields, rng.choice(TOKENS)))
    return b",".join(fields)


def _number(rng: random.Random) -> str:
    return str(rng.randrange(10 ** rng.randint(1, 7)))


def _iso(rng: random.Random) -> str:
    date = f"{rng.randint(2016, 2019)}-{rng.randint(1, 12):02}-{rng.randint(1, 30):02}"
    clock = f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
    return f"{date} {clock}"
