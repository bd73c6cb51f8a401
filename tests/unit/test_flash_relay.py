"""What a box may say through its SSH connection: one enrolment, and nothing else."""

from __future__ import annotations

import pytest

from asdic.device.enrolment import ENROL_PATH as DEVICES_PATH
from asdic.fleet.flash import relay

NOBODY = "http://127.0.0.1:9"


class Wire:
    """A connection that holds what the box sends, in pieces as they come."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.answer = b""

    def recv(self, _limit_bytes: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def sendall(self, data: bytes) -> None:
        self.answer += data


def status(*pieces: bytes) -> int:
    wire = Wire(*pieces)
    relay.relay(wire, NOBODY)
    return int(wire.answer.split(b" ")[1])


def test_device_and_relay_mean_the_same_path() -> None:
    assert relay.ENROL_PATH == DEVICES_PATH


def test_an_enrolment_passes_in_whatever_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    request = b"POST /api/v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    pieces = [request[n : n + 1] for n in range(len(request))]
    assert relay._enrolment(Wire(*pieces)) == b"{}"
    assert relay._enrolment(Wire(request)) == b"{}"


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"GET /api/v1/overview HTTP/1.1\r\n\r\n",
        b"POST /api/v1/tokens HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /api/v1/enrol/../tokens HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /api/v1/enrol HTTP/1.1\r\n\r\n",
        b"POST /api/v1/enrol HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n{}",
        b"POST /api/v1/enrol HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /api/v1/enrol HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET /api/v1/overview",
        b"x" * 100_000,
    ],
)
def test_nothing_else_does(request_: bytes) -> None:
    assert status(request_) == 403
