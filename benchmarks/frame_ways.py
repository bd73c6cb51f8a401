"""The ways that ``benchmarks/frames.py`` compares: a ring, a queue, a pipe, a UNIX socket."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.frames import RingReader

FRAMES: Final = FrameFormat(height=512, width=512)
BYTES: Final = 512 * 512
PATIENCE_S: Final = 10.0
SPAWN: Final = multiprocessing.get_context("spawn")

Pixels = NDArray[np.uint8]


class Sender(Protocol):
    """The writing end of a way; it is pickled to the writer's process."""

    def open(self) -> Callable[[Pixels], object]:
        """Return what hands a frame over."""

    def close_here(self) -> None:
        """Let go of it in the process that only reads."""


class Receiver(Protocol):
    """The reading end of a way."""

    def receive(self) -> tuple[int, Pixels] | None:
        """Return a frame's number and its pixels; None where none comes any more."""


@dataclass(frozen=True)
class RingSender:
    """Writes to a ring."""

    path: Path

    def open(self) -> Callable[[Pixels], object]:
        """Return what hands a frame over."""
        return FrameWriter(self.path, FRAMES).write

    def close_here(self) -> None:
        """Let go of it in the process that only reads."""


class RingReceiver:
    """Reads the newest frame of a ring, as a view of it."""

    def __init__(self, path: Path) -> None:
        FrameWriter(path, FRAMES).close()
        self._reader = RingReader.open(path)

    def receive(self) -> tuple[int, Pixels] | None:
        """Return a frame's number and its pixels; None where none comes any more."""
        frame = self._reader.wait(PATIENCE_S)
        return None if frame is None else (frame.number, frame.pixels)


@dataclass(frozen=True)
class QueueSender:
    """Puts arrays into a ``multiprocessing.Queue``."""

    queue: Any

    def open(self) -> Callable[[Pixels], object]:
        """Return what hands a frame over."""
        put: Callable[[Pixels], object] = self.queue.put
        return put

    def close_here(self) -> None:
        """Let go of it in the process that only reads."""


class Counted:
    """Numbers frames of a way that loses none."""

    def __init__(self, receive: Callable[[], Pixels]) -> None:
        self._receive = receive
        self._numbers = itertools.count()

    def receive(self) -> tuple[int, Pixels] | None:
        """Return a frame's number and its pixels."""
        pixels = self._receive()
        return next(self._numbers), pixels


@dataclass(frozen=True)
class PipeSender:
    """Sends bytes through a ``multiprocessing.Pipe``."""

    end: Connection

    def open(self) -> Callable[[Pixels], object]:
        """Return what hands a frame over."""
        send = self.end.send_bytes
        return lambda pixels: send(pixels.reshape(-1))

    def close_here(self) -> None:
        """Let go of it in the process that only reads."""
        self.end.close()


def pipe_receiver(end: Connection) -> Counted:
    """Return what reads a pipe into memory that is made once."""
    pixels = np.empty((512, 512), np.uint8)
    flat = memoryview(pixels).cast("B")

    def receive() -> Pixels:
        end.recv_bytes_into(flat)
        return pixels

    return Counted(receive)


@dataclass(frozen=True)
class SocketSender:
    """Sends bytes through a UNIX socket."""

    end: socket.socket

    def open(self) -> Callable[[Pixels], object]:
        """Return what hands a frame over."""
        send = self.end.sendall
        return lambda pixels: send(pixels.reshape(-1))

    def close_here(self) -> None:
        """Let go of it in the process that only reads."""
        self.end.close()


def socket_receiver(end: socket.socket) -> Counted:
    """Return what reads a socket into memory that is made once."""
    pixels = np.empty((512, 512), np.uint8)
    view = memoryview(pixels).cast("B")

    def receive() -> Pixels:
        done = 0
        while done < BYTES:
            if (got := end.recv_into(view[done:])) == 0:
                raise EOFError("the writer ended")
            done += got
        return pixels

    return Counted(receive)


def ring_way(folder: Path) -> tuple[Sender, Receiver]:
    """Return both ends of a ring."""
    path = folder / f"ring-{time.monotonic_ns()}"
    receiver = RingReceiver(path)
    return RingSender(path), receiver


def queue_way(_: Path) -> tuple[Sender, Receiver]:
    """Return both ends of a queue."""
    queue = SPAWN.Queue()
    return QueueSender(queue), Counted(lambda: queue.get(timeout=PATIENCE_S))


def pipe_way(_: Path) -> tuple[Sender, Receiver]:
    """Return both ends of a pipe."""
    reading, writing = SPAWN.Pipe(duplex=False)
    return PipeSender(writing), pipe_receiver(reading)


def socket_way(_: Path) -> tuple[Sender, Receiver]:
    """Return both ends of a UNIX socket, with buffers for a few frames."""
    reading, writing = socket.socketpair()
    for end in (reading, writing):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BYTES)
    return SocketSender(writing), socket_receiver(reading)


WAYS: Final = {
    "ring": ring_way,
    "multiprocessing.Queue": queue_way,
    "pipe": pipe_way,
    "UNIX socket": socket_way,
}
# Of a frame's bytes: into the ring; to the kernel and back; to a pickle and back besides.
COPIES: Final = {"ring": 1, "multiprocessing.Queue": 4, "pipe": 2, "UNIX socket": 2}
