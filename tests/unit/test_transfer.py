"""Blobs as they leave: which bytes on which topics, and what never leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.contract.errors import DigestError
from asdic.contract.messages import CHUNK_BYTES, Missing, Progress, chunk_topic, repair_topic
from asdic.contract.release import digest_of, hex_of
from asdic.fleet.transfer import Transfer, TransferLimits

DATA = bytes(range(251)) * (5 * CHUNK_BYTES // 251) + b"the last, short chunk"
DIGEST = digest_of(DATA)
CHUNKS = 5


class Wire:
    """Takes what is published and acknowledges it when told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.acknowledged = 0
        self.acknowledges = True

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert not retain
        self.sent.append((topic, payload))

    def backlog(self) -> int:
        return 0 if self.acknowledges else len(self.sent) - self.acknowledged


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def transfer(tmp_path: Path, wire: Wire) -> Iterator[Transfer]:
    (tmp_path / hex_of(DIGEST)).write_bytes(DATA)
    limits = TransferLimits(gather_s=0, backlog=3)
    transfer = Transfer(lambda digest: tmp_path / hex_of(digest), wire, limits)
    yield transfer
    transfer.close()


def progress(have: int = 0, *, blob: str = hex_of(DIGEST), chunks: int = CHUNKS) -> Progress:
    return Progress(blob=blob, chunks=chunks, have=have, first_missing=have)


def test_a_blob_leaves_as_its_chunks_in_order(transfer: Transfer, wire: Wire) -> None:
    transfer.on_progress("box", progress(), 0.0)
    assert transfer.pump(0.0) == CHUNKS
    assert [topic for topic, _ in wire.sent] == [
        chunk_topic(hex_of(DIGEST), number) for number in range(CHUNKS)
    ]
    assert b"".join(data for _, data in wire.sent) == DATA


def test_nothing_leaves_before_a_device_asks(transfer: Transfer) -> None:
    assert transfer.pump(0.0) == 0


def test_a_broker_that_does_not_acknowledge_gets_no_more(transfer: Transfer, wire: Wire) -> None:
    wire.acknowledges = False
    transfer.on_progress("box", progress(), 0.0)
    assert transfer.pump(0.0) == 3
    assert transfer.pump(0.0) == 0
    wire.acknowledged = 3
    assert transfer.pump(0.0) == 2


def test_what_a_device_misses_goes_to_its_own_topic(transfer: Transfer, wire: Wire) -> None:
    transfer.on_progress("box", progress(4), 0.0)
    transfer.pump(0.0)
    wire.sent.clear()
    transfer.on_missing("box", Missing(blob=hex_of(DIGEST), ranges=((1, 2), (4, 99))), 1.0)
    transfer.pump(1.0)
    assert [topic for topic, _ in wire.sent] == [
        repair_topic("box", hex_of(DIGEST), number) for number in (1, 2, 4)
    ]
    assert transfer.repaired_chunks == 3


def test_a_chunk_that_is_still_due_is_not_sent_to_the_asking_device_as_well(
    tmp_path: Path, wire: Wire
) -> None:
    (tmp_path / hex_of(DIGEST)).write_bytes(DATA)
    limits = TransferLimits(window=2, gather_s=0)
    transfer = Transfer(lambda digest: tmp_path / hex_of(digest), wire, limits)
    transfer.on_progress("box", progress(), 0.0)
    transfer.pump(0.0)
    wire.sent.clear()
    transfer.on_missing("box", Missing(blob=hex_of(DIGEST), ranges=((0, CHUNKS - 1),)), 1.0)
    transfer.pump(1.0)
    assert [topic for topic, _ in wire.sent] == [
        *(repair_topic("box", hex_of(DIGEST), number) for number in (0, 1)),
        *(chunk_topic(hex_of(DIGEST), number) for number in (2, 3)),
    ]
    transfer.close()


def test_odd_ranges_are_clipped_to_the_blob(transfer: Transfer, wire: Wire) -> None:
    transfer.on_missing(
        "box", Missing(blob=hex_of(DIGEST), ranges=((-9, 0), (3, 1), (7, 1 << 60))), 0.0
    )
    transfer.pump(0.0)
    assert [topic for topic, _ in wire.sent] == [repair_topic("box", hex_of(DIGEST), 0)]


def test_a_device_that_left_is_sent_nothing(transfer: Transfer, wire: Wire) -> None:
    transfer.on_progress("box", progress(), 0.0)
    transfer.on_missing("box", Missing(blob=hex_of(DIGEST), ranges=((0, 1),)), 0.0)
    transfer.leave("box")
    assert transfer.pump(0.0) == 0


def test_no_chunk_of_a_damaged_blob_leaves(tmp_path: Path, transfer: Transfer, wire: Wire) -> None:
    (tmp_path / hex_of(DIGEST)).write_bytes(DATA[:-1] + b"X")
    with pytest.raises(DigestError, match="has digest"):
        transfer.on_progress("box", progress(), 0.0)
    transfer.pump(0.0)
    assert wire.sent == []


def test_a_blob_that_is_not_there_is_refused(transfer: Transfer) -> None:
    absent = digest_of(b"absent")
    with pytest.raises(DigestError, match=f"blob {absent} is missing"):
        transfer.on_progress("box", progress(blob=hex_of(absent)), 0.0)


@pytest.mark.parametrize("blob", ["../../etc/passwd", "", "0" * 63, f"sha256:{'0' * 64}"])
def test_a_blob_that_is_no_digest_is_refused(transfer: Transfer, blob: str) -> None:
    with pytest.raises(DigestError, match="is not a digest"):
        transfer.on_progress("box", progress(blob=blob), 0.0)


def test_a_device_that_counts_other_chunks_is_refused(transfer: Transfer) -> None:
    with pytest.raises(DigestError, match="has 5 chunks, not 6"):
        transfer.on_progress("box", progress(chunks=6), 0.0)
