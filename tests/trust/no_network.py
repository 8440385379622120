"""As `sitecustomize` of a process: whoever asks for the network ends it.

On Linux (x86-64) the kernel does it, for libraries in any language; elsewhere, and where the kernel
is not allowed to, Python's own sockets are watched.
"""

import ctypes
import os
import socket
import struct
import sys

_SOCKET, _UNIX = 41, 1  # number of the call socket(2) on x86-64; AF_UNIX
_X86_64 = 0xC000003E
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06


def _kernel() -> bool:
    """Let the kernel end a process that makes a socket of another family than AF_UNIX."""
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        return False
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 0, 4, _X86_64),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_EQUAL, 0, 2, _SOCKET),
        (_LOAD, 0, 0, 16),  # its first argument
        (_EQUAL, 0, 1, _UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _KILL),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    return bool(libc.prctl(22, 2, ctypes.create_string_buffer(header), 0, 0) == 0)


def _python() -> None:
    def watch(event: str, arguments: object) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
            os.write(2, f"asked for the network: {event} {arguments!r}\n".encode())
            os._exit(99)

    sys.addaudithook(watch)


# On its import, urllib3 asks this machine, and no other, whether it knows IPv6; DGL imports it.
socket.has_ipv6 = False
_python()
os.environ["NO_NETWORK"] = "kernel" if _kernel() else "python"
