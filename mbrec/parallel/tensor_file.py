"""safetensors files of whole tensors, of which every rank has some columns only.

They are written by rank 0, a chunk of rows at a time, while the others send theirs; and each rank
reads its own columns. No process ever holds a whole table, and the files do not tell how many ranks
there were. (The library's writer takes whole tensors only; the format is a length, a JSON header
and the bytes: https://github.com/huggingface/safetensors#format.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from mbrec.parallel.columns import Columns

_CHUNK = 1 << 22  # elements of a whole table that are in memory at a time
_TYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_NAMES = {code: str(kind) for kind, code in _TYPES.items()}
_UNKNOWN = "0" * 64  # where the digest will stand

Divided = Mapping[str, Columns]
"""Tensor → which of its columns the ranks have; tensors that are not named, all have as a whole."""


def write(
    path: Path | None,
    tensors: Mapping[str, Tensor],
    divided: Divided,
    metadata: Mapping[str, str] | None = None,
    digest: str = "",
) -> None:
    """Write whole tensors; all ranks have to call it.

    Args:
        path: The file, for rank 0; None for the others.
        tensors: Of the same names on all ranks.
        divided: Those of which each rank gives its own columns, (N, d / R).
        metadata: Texts that the file holds.
        digest: If given, the metadata also hold `content_digest` under this name.
    """
    shapes = {name: _shape(tensor, divided.get(name)) for name, tensor in tensors.items()}
    # Larger types first, as the library does it, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    if path is None:
        for name in order:
            for _ in _whole(tensors[name], divided.get(name)):
                pass
        return
    texts = {**(metadata or {}), **({digest: _UNKNOWN} if digest else {})}
    header = _header(tensors, shapes, order, texts)
    with path.open("wb") as stream:
        stream.write(header)
        for name in order:
            for chunk in _whole(tensors[name], divided.get(name)):
                stream.write(chunk.numpy().data)
    if digest:
        found = content_digest(path, digest)
        with path.open("r+b") as stream:
            stream.write(header.replace(_UNKNOWN.encode(), found.encode(), 1))


def read(path: Path, divided: Divided) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU, but only own columns of those that are divided.

    Raises:
        OSError, SafetensorError: It is missing or damaged.
        ValueError: A tensor has not as many columns as there should be.
    """
    found = {}
    with safe_open(path, framework="pt") as stream:
        for name in stream.keys():  # noqa: SIM118 (it is no mapping)
            columns = divided.get(name)
            if columns is None:
                found[name] = stream.get_tensor(name)
                continue
            part = stream.get_slice(name)
            if part.get_shape()[1:] != [columns.size]:
                raise ValueError(f"{name} has the shape {part.get_shape()}")
            found[name] = part[:, columns.own].contiguous()
    return found


def text_digest(texts: Mapping[str, str]) -> hashlib._Hash:
    """SHA-256 of the metadata of a file, to be gone on with over its tensors."""
    return hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode() + b"\n")


def content_digest(path: Path, digest: str) -> str:
    """SHA-256 over the metadata, and name, type, shape and bytes of every tensor, by name.

    Args:
        path: Of the file; it is read in bounded memory.
        digest: The name in the metadata that is left out.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        texts = header.pop("__metadata__", {})
        found = text_digest({name: text for name, text in texts.items() if name != digest})
        for name, entry in sorted(header.items()):
            line = f"{name} {_NAMES[entry['dtype']]} {tuple(entry['shape'])}\n"
            found.update(line.encode())
            for block in _blocks(stream, 8 + length, *entry["data_offsets"]):
                found.update(block)
    return found.hexdigest()


def _blocks(stream: BinaryIO, origin: int, start: int, stop: int) -> Iterator[bytes]:
    stream.seek(origin + start)
    left = stop - start
    while left:
        block = stream.read(min(left, _CHUNK))
        if not block:
            raise ValueError("it ends too early")
        yield block
        left -= len(block)


def _shape(tensor: Tensor, columns: Columns | None) -> list[int]:
    return list(tensor.shape) if columns is None else [len(tensor), columns.size]


def _header(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, list[int]],
    order: list[str],
    texts: Mapping[str, str],
) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(texts)} if texts else {}
    start = 0
    for name in order:
        stop = start + tensors[name].element_size() * int(torch.Size(shapes[name]).numel())
        entries[name] = {
            "dtype": _TYPES[tensors[name].dtype],
            "shape": shapes[name],
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _whole(tensor: Tensor, columns: Columns | None) -> Iterator[Tensor]:
    """The tensor on the CPU, by chunks of whole rows; for rank 0, if it is divided."""
    if columns is None:
        yield tensor.detach().cpu().contiguous()
        return
    step = max(_CHUNK // columns.size, 1)
    for start in range(0, len(tensor), step):
        chunk = columns.joined(tensor[start : start + step], first_only=True)
        if chunk is not None:
            yield chunk.cpu().contiguous()
