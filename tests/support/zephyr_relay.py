"""Run a server in a network of its own, and carry datagrams between it and a socket from outside.

``unshare -rn python zephyr_relay.py FD SERVER [ARGUMENT...]``: a socket belongs to the network in
which it was made, so ``FD``, made outside, is the way out. It needs nothing but Python.
"""

from __future__ import annotations

import fcntl
import select
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress

PORT = 1337
DATAGRAM_LIMIT_BYTES = 1 << 16
_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP


def main() -> None:
    """Relay until SIGTERM, or until the server ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    outer = socket.socket(fileno=int(sys.argv[1]))
    inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(inner, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
    inner.connect(("127.0.0.1", PORT))
    server = subprocess.Popen(sys.argv[2:])
    try:
        relay(outer, inner, server)
    finally:
        server.kill()


def relay(outer: socket.socket, inner: socket.socket, server: subprocess.Popen[bytes]) -> None:
    """Carry what comes in to the server, and its answers to whoever asked last."""
    peer = None
    while server.poll() is None:
        for ready in select.select([outer, inner], [], [], 0.5)[0]:
            with suppress(ConnectionRefusedError):  # it does not listen yet
                if ready is outer:
                    data, peer = outer.recvfrom(DATAGRAM_LIMIT_BYTES)
                    inner.send(data)
                elif (data := inner.recv(DATAGRAM_LIMIT_BYTES)) and peer is not None:
                    outer.sendto(data, peer)


if __name__ == "__main__":
    main()
