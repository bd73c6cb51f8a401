"""What a microcontroller may do wrong, over a real socket: each ends in an error that says so."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress

import pytest

from asdic.contract.errors import AsdicError, LinkError
from asdic.firmware_bridge.connect import open_link, parse_address
from asdic.firmware_bridge.link import FirmwareRefusalError, SlotState
from asdic.firmware_bridge.simulated_board import SimulatedBoard
from asdic.firmware_bridge.smp_link import SmpLink
from asdic.firmware_bridge.smp_server import WireFault
from tests.support.firmware import IMPATIENCE_S, firmware_image, served, simulated_board

_OK = WireFault.NONE


@pytest.mark.parametrize(
    "fault",
    [
        WireFault.LOST_REQUEST,
        WireFault.LOST_ANSWER,
        WireFault.LATE_ANSWER,
        WireFault.GARBAGE,
        WireFault.WRONG_TYPES,
    ],
)
@pytest.mark.parametrize("after", [0, 2, 9])
def test_one_mishap_anywhere_is_got_over(fault: WireFault, after: int) -> None:
    with served(None, *[_OK] * after, fault) as (link, server):
        digest = link.upload(firmware_image(), version="1.1.0")
        link.mark_for_test(digest)
        assert link.info().slots[1].state is SlotState.PENDING
        assert server.faults == []


def test_a_restart_in_mid_upload_begins_it_anew() -> None:
    with served(None, *[_OK] * 6, WireFault.RESET) as (link, server):
        seen: list[int] = []
        link.upload(
            firmware_image(), version="1.1.0", progress=lambda done, _total: seen.append(done)
        )
        assert server.faults == []
        assert seen != sorted(seen)
        assert link.info().slots[1].version == "1.1.0"


def test_a_lost_answer_to_a_reset_is_not_asked_for_again() -> None:
    with served(None, _OK, _OK, WireFault.LOST_ANSWER) as (link, server):
        link.info()
        server.faults = [WireFault.LOST_ANSWER]
        asked = server.requests
        with pytest.raises(LinkError, match=r"no answer.*\(to reset\)"):
            link.reset()
        assert server.requests == asked + 1
        assert link.info().version == "1.0.0"


@pytest.mark.parametrize(
    ("fault", "code"),
    [(WireFault.BUSY, "busy"), (WireFault.NO_SPACE, "no-space")],
)
def test_a_no_is_told_by_its_name_and_place(fault: WireFault, code: str) -> None:
    with served(None, _OK, _OK, fault) as (link, server):
        with pytest.raises(FirmwareRefusalError) as caught:
            link.upload(firmware_image(), version="1.1.0")
        assert caught.value.code == code
        assert server.address in str(caught.value)


def test_a_board_that_says_nothing_is_given_up() -> None:
    with served(None, WireFault.SILENT) as (link, server):
        with pytest.raises(LinkError, match=r"no answer from .* asked 3 times"):
            link.info()
        assert server.requests == 3


def test_a_board_that_falls_silent_in_mid_upload_is_given_up_and_goes_on_later() -> None:
    board = simulated_board()
    with (
        served(board, *[_OK] * 7, WireFault.SILENT) as (link, _),
        pytest.raises(LinkError, match="no answer"),
    ):
        link.upload(firmware_image(), version="1.1.0")
    with served(board) as (link, _):
        seen: list[int] = []
        link.upload(
            firmware_image(), version="1.1.0", progress=lambda done, _total: seen.append(done)
        )
        assert seen[0] > 3_000


def test_nobody_at_the_address_is_no_answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{nobody.getsockname()[1]}"
        with open_link(address, timeout_s=0.05) as link, pytest.raises(LinkError, match=address):
            link.heartbeat()


@pytest.mark.parametrize(
    ("address", "reason"),
    [("serial:///dev/asdic-none", "No such file"), ("socket://127.0.0.1:1", "refused")],
)
def test_no_such_port_is_a_link_that_cannot_be_used(address: str, reason: str) -> None:
    with open_link(address, timeout_s=0.05) as link, pytest.raises(LinkError) as caught:
        link.info()
    assert f"the link to {address} cannot be used" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
def test_garbage_only_ends_in_an_error_of_ours(seed: int) -> None:
    with (
        served(None, *[WireFault.GARBAGE] * 60, seed=seed) as (link, _),
        pytest.raises(LinkError, match=r"makes no sense|no answer"),
    ):
        link.info()


@pytest.mark.parametrize("seed", range(12))
def test_any_mixture_of_mishaps_ends_well_or_in_an_error_of_ours(seed: int) -> None:
    """And in the end the board holds the old image, or the new one whole."""
    chance = random.Random(seed)  # noqa: S311 - mishaps, not a secret
    kinds = [fault for fault in WireFault if fault is not WireFault.SILENT]
    faults = [chance.choice([_OK] * 20 + kinds) for _ in range(40)]
    board = simulated_board()
    with served(board, *faults, seed=seed) as (link, _):
        try:
            digest = link.upload(firmware_image(), version="1.1.0")
            link.mark_for_test(digest)
        except AsdicError:
            assert board.slots()[1].version in {None, "1.1.0"}
        else:
            assert board.slots()[1].version == "1.1.0"
        assert board.slots()[0].version == "1.0.0"


def test_what_a_board_calls_itself_cannot_write_on_the_screen() -> None:
    board = simulated_board()
    board.name = "mcu\x1b[2J\n" + "x" * 200
    board.claim("1.0\x1b[31m.0" + "9" * 100)
    with served(board) as (link, _):
        found = link.info()
    assert (found.board + found.version).isprintable()
    assert (len(found.board), len(found.version)) == (64, 32)


class Liar:
    """A server that answers every upload with the same offset, or with absurd ones."""

    def __init__(self, offsets: list[int]) -> None:
        self._offsets = offsets
        self.asked = 0

    def begin(self, _size: int, _key: bytes | None) -> int:
        return self._next()

    def write(self, _offset: int, _data: bytes) -> int:
        return self._next()

    def _next(self) -> int:
        self.asked += 1
        return self._offsets[self.asked % len(self._offsets)]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([700], "does not move on"),
        ([700, 1400], "does not move on"),
        ([1 << 40], "asks for byte 1099511627776"),
    ],
)
def test_a_board_that_keeps_an_upload_from_moving_on_is_given_up(
    offsets: list[int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Liar(offsets)
    board = simulated_board()
    monkeypatch.setattr(
        SimulatedBoard, "begin", lambda _self, size, key, **_: liar.begin(size, key)
    )
    monkeypatch.setattr(SimulatedBoard, "write", lambda _self, at, data: liar.write(at, data))
    with served(board) as (link, _), pytest.raises(LinkError, match=message):
        link.upload(firmware_image(), version="1.1.0")
    assert liar.asked < 30


@pytest.mark.parametrize(
    "line", [b"*** Booting Zephyr OS ***\n", b"\x06\x09broken\n"], ids=["log", "frames"]
)
def test_a_console_that_prints_without_a_pause_does_not_stop_the_clock(line: bytes) -> None:
    """SMP shares its console with what the firmware logs; here there is only the latter."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()
        thread = threading.Thread(target=chatter, args=(server, ended, line), daemon=True)
        thread.start()
        address = f"socket://127.0.0.1:{server.getsockname()[1]}"
        began_s = time.monotonic()
        with (
            SmpLink(parse_address(address), timeout_s=IMPATIENCE_S) as link,
            pytest.raises(LinkError, match=address),
        ):
            link.info()
        assert time.monotonic() - began_s < 8
        ended.set()
        socket.create_connection(server.getsockname()).close()
        thread.join(10)
        assert not thread.is_alive()


def chatter(server: socket.socket, ended: threading.Event, line: bytes) -> None:
    """Print to whoever connects, for as long as it listens."""
    while not ended.is_set():
        peer, _ = server.accept()
        with peer, suppress(OSError):
            while not ended.is_set():
                peer.sendall(line * 50)
