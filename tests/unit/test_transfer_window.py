"""The carousel's promises, held against simulated devices."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdic.fleet.window import Window

SIZE = 8


class Receiver:
    """A device at the end of a slow, orderly, lossless line."""

    def __init__(self, name: str, held: set[int], chunks: int) -> None:
        self.name, self.held, self.chunks = name, set(held), chunks
        self.line: deque[int] = deque()

    @property
    def first_missing(self) -> int:
        return next((n for n in range(self.chunks) if n not in self.held), self.chunks)

    @property
    def is_complete(self) -> bool:
        return len(self.held) == self.chunks

    def report(self, window: Window, now: float) -> None:
        window.progress(self.name, have=len(self.held), first_missing=self.first_missing, now=now)


def drain(window: Window, now: float) -> list[int]:
    taken = []
    while (number := window.take(now)) is not None:
        taken.append(number)
    return taken


@given(chunks=st.integers(1, 60), count=st.integers(1, 5), data=st.data())
def test_devices_that_join_together_get_each_chunk_once(
    chunks: int, count: int, data: st.DataObject
) -> None:
    window = Window(chunks, size=SIZE, gather_s=0)
    receivers = [Receiver(str(n), set(), chunks) for n in range(count)]
    for receiver in receivers:
        receiver.report(window, 0.0)
    sent: Counter[int] = Counter()
    for _ in range(chunks * count * 4):
        for number in drain(window, 0.0):
            sent[number] += 1
            for receiver in receivers:
                receiver.line.append(number)
        busy = [one for one in receivers if one.line]
        if not busy:
            break
        receiver = data.draw(st.sampled_from(busy))
        receiver.held.add(receiver.line.popleft())
        receiver.report(window, 0.0)
        assert all(len(one.line) <= SIZE for one in receivers)
    assert all(one.is_complete for one in receivers)
    assert sent == Counter(range(chunks))


@given(chunks=st.integers(1, 40), joins=st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_whenever_a_device_joins_it_gets_everything(chunks: int, joins: list[int]) -> None:
    window = Window(chunks, size=SIZE, gather_s=0)
    receivers = [Receiver(str(n), set(), chunks) for n in range(len(joins))]
    sent: Counter[int] = Counter()
    for turn in range(max(joins) + chunks * len(joins) + 5):
        for receiver, join in zip(receivers, joins, strict=True):
            if join == turn:
                receiver.report(window, 0.0)
        for number in drain(window, 0.0):
            sent[number] += 1
            for receiver, join in zip(receivers, joins, strict=True):
                if join <= turn:
                    receiver.held.add(number)
                    receiver.report(window, 0.0)
    assert all(one.is_complete for one in receivers)
    assert max(sent.values()) <= len(joins)


@given(chunks=st.integers(1, 40), held=st.integers(0, 39))
def test_a_restarted_device_gets_only_what_it_lacks(chunks: int, held: int) -> None:
    held = min(held, chunks - 1)
    window = Window(chunks, size=chunks, gather_s=0)
    Receiver("box", set(range(held)), chunks).report(window, 0.0)
    assert drain(window, 0.0) == list(range(held, chunks))


def test_at_most_a_window_is_under_way() -> None:
    window = Window(20, size=SIZE, gather_s=0)
    window.progress("slow", have=0, first_missing=0, now=0.0)
    window.progress("fast", have=0, first_missing=0, now=0.0)
    assert len(drain(window, 0.0)) == SIZE
    window.progress("fast", have=8, first_missing=8, now=1.0)
    assert drain(window, 1.0) == []
    window.progress("slow", have=3, first_missing=3, now=1.0)
    assert drain(window, 1.0) == [8, 9, 10]


def test_devices_that_come_within_a_moment_share_the_first_chunk() -> None:
    window = Window(3, gather_s=1.0)
    window.progress("a", have=0, first_missing=0, now=0.0)
    assert drain(window, 0.9) == []
    window.progress("b", have=0, first_missing=0, now=0.9)
    assert drain(window, 1.0) == [0, 1, 2]
    assert drain(window, 5.0) == []


def test_a_laggard_is_ejected_for_no_progress_of_its_own_and_nobody_waits() -> None:
    window = Window(20, size=SIZE, laggard_s=30, gather_s=0)
    window.progress("dead", have=0, first_missing=0, now=0.0)
    window.progress("good", have=0, first_missing=0, now=0.0)
    drain(window, 0.0)
    window.progress("dead", have=0, first_missing=0, now=20.0)
    window.progress("good", have=8, first_missing=8, now=20.0)
    assert window.eject(30.0) == ()
    assert window.eject(30.1) == ("dead",)
    assert drain(window, 30.1) == list(range(8, 16))


def test_a_slow_device_is_not_ejected_for_being_behind() -> None:
    window = Window(20, size=SIZE, laggard_s=30, gather_s=0)
    window.progress("slow", have=0, first_missing=0, now=0.0)
    for turn in range(1, 12):
        drain(window, turn * 25.0)
        window.progress("slow", have=turn, first_missing=turn, now=turn * 25.0)
        assert window.eject(turn * 25.0) == ()


def test_a_device_without_anything_under_way_is_never_a_laggard() -> None:
    window = Window(3, laggard_s=1, gather_s=0)
    window.progress("box", have=0, first_missing=0, now=0.0)
    assert window.eject(100.0) == ()
    assert drain(window, 100.0) == [0, 1, 2]
    assert window.eject(100.5) == ()


def test_an_ejected_device_comes_back_with_its_next_progress() -> None:
    window = Window(4, laggard_s=1, gather_s=0)
    window.progress("box", have=0, first_missing=0, now=0.0)
    drain(window, 0.0)
    assert window.eject(2.0) == ("box",)
    window.progress("box", have=2, first_missing=2, now=3.0)
    assert drain(window, 3.0) == [2, 3]


def test_what_a_device_asks_for_by_name_is_no_longer_broadcast_for_it() -> None:
    window = Window(20, size=2, gather_s=0)
    window.progress("box", have=10, first_missing=0, now=0.0)
    assert drain(window, 0.0) == [0, 1]
    window.missing("box", [0, 1, 15], now=5.0)
    assert drain(window, 5.0) == [15]


@pytest.mark.parametrize("chunks", [0, 1])
def test_a_device_that_has_everything_is_not_waited_for(chunks: int) -> None:
    window = Window(chunks, gather_s=0)
    window.progress("box", have=chunks, first_missing=chunks, now=0.0)
    assert window.receivers == ()
    assert drain(window, 0.0) == []
