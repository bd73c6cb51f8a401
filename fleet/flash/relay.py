"""The one question that a box may ask the manager through its SSH connection: to enrol.

The manager on loopback answers more than that, and everybody on the box can reach the forwarded
port. So the port is no door to the manager: each connection gets one request read, checked and
passed on.
"""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol

import httpx

ENROL_PATH: Final = "/api/v1/enrol"
HEAD_LIMIT_BYTES: Final = 16 << 10
BODY_LIMIT_BYTES: Final = 64 << 10
ANSWER_LIMIT_BYTES: Final = 16 << 20
TIMEOUT_S: Final = 30.0
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)


class Stream(Protocol):
    """A connection that the box has opened."""

    def recv(self, nbytes: int) -> bytes:
        """Return what has arrived; nothing at the end."""

    def sendall(self, s: bytes) -> None:
        """Send it all."""


def relay(stream: Stream, server: str) -> None:
    """Pass one enrolment on to the manager at ``server``, and its answer back."""
    with suppress(OSError, EOFError):
        status, content = _answer(stream, server)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        stream.sendall(head.encode() + content)


def _answer(stream: Stream, server: str) -> tuple[HTTPStatus, bytes]:
    body = _enrolment(stream)
    if body is None:
        return HTTPStatus.FORBIDDEN, b'{"error":"only an enrolment passes here"}'
    try:
        answer = httpx.post(
            server + ENROL_PATH,
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )
    except httpx.HTTPError:
        return HTTPStatus.BAD_GATEWAY, b'{"error":"the manager does not answer"}'
    return HTTPStatus(answer.status_code), answer.content[:ANSWER_LIMIT_BYTES]


def _enrolment(stream: Stream) -> bytes | None:
    """Return the body of an enrolment, or None where the request is anything else."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        piece = stream.recv(4096)
        if not piece or len(data) > HEAD_LIMIT_BYTES:
            return None
        data += piece
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    if not head.startswith(f"POST {ENROL_PATH} HTTP/1.".encode()) or length is None:
        return None
    wanted = int(length[1])
    while len(body) < wanted <= BODY_LIMIT_BYTES and (piece := stream.recv(4096)):
        body += piece
    return body if len(body) == wanted else None
