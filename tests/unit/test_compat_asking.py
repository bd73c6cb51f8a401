"""Asking a microcontroller in a thread: one question at a time, and no old answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from asdic.contract.errors import AsdicError, LinkError
from asdic.device.update.microcontroller import AskedInThread, Look, asked_over
from asdic.device.update.refusal import RefusedInstallError, RefusedReleaseError, refusal_for
from asdic.firmware_bridge.link import FirmwareLink, FirmwareRefusalError, WrongFirmwareError
from tests.support.boards import BOARD, Board

PATIENCE_S = 10.0


@contextmanager
def opened() -> Iterator[FirmwareLink]:
    yield Board()


@dataclass(frozen=True)
class Waits:
    """A question that is answered when the test says so."""

    name: str
    answered: threading.Event
    asked: list[str]

    def __call__(self, _link: FirmwareLink, is_stopped: Callable[[], bool]) -> str:
        self.asked.append(self.name)
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.answered.wait(0.01) and time.monotonic() < deadline_s:
            if is_stopped():
                raise LinkError("stopped")
        return f"{self.name} {len(self.asked)}"


def until(ask: Callable[[], object]) -> object:
    deadline_s = time.monotonic() + PATIENCE_S
    while (answer := ask()) is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    return answer


@pytest.fixture
def asker() -> AskedInThread:
    return AskedInThread(opened, pause_s=0.0)


def test_an_answer_comes_once_it_is_there(asker: AskedInThread) -> None:
    asked: list[str] = []
    answered = threading.Event()
    question = Waits("first", answered, asked)
    assert asker.ask(question) is None
    assert asker.ask(question) is None
    answered.set()
    assert until(lambda: asker.ask(question)) == "first 1"
    assert asked == ["first"]


def test_another_question_ends_the_one_in_hand(asker: AskedInThread) -> None:
    never, now, asked = threading.Event(), threading.Event(), list[str]()
    now.set()
    assert asker.ask(Waits("first", never, asked)) is None
    assert until(lambda: asker.ask(Waits("second", now, asked))) == "second 2"


def test_an_answer_that_nobody_waited_for_is_not_given_later(asker: AskedInThread) -> None:
    answered, asked = threading.Event(), list[str]()
    question = Waits("first", answered, asked)
    answered.set()
    asker.ask(question)
    asker.leave()
    asked.append("time goes by")
    assert until(lambda: asker.ask(question)) != "first 1"


def test_what_went_wrong_is_raised_where_the_answer_is_taken() -> None:
    @contextmanager
    def broken() -> Iterator[FirmwareLink]:
        raise LinkError("no such port")
        yield Board()

    asker = AskedInThread(broken, pause_s=0.0)
    with pytest.raises(LinkError, match="no such port"):
        until(lambda: asker.ask(Look()))


def test_two_questions_have_a_pause_between_them() -> None:
    asker = AskedInThread(opened, pause_s=0.2)
    until(lambda: asker.ask(Look()))
    begun_s = time.monotonic()
    until(lambda: asker.ask(Look()))
    assert time.monotonic() - begun_s >= 0.2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FirmwareRefusalError("busy", "try again"), "link"),
        (FirmwareRefusalError("no-space", "full"), "firmware-too-large"),
        (FirmwareRefusalError("bad-state", "no"), "firmware-refused"),
        (WrongFirmwareError("it holds another"), "wrong-firmware"),
        (LinkError("nothing"), "link"),
    ],
)
def test_a_no_of_the_microcontroller_has_a_code(error: AsdicError, code: str) -> None:
    def question(_link: FirmwareLink, _is_stopped: Callable[[], bool]) -> str:
        raise error

    with pytest.raises((LinkError, RefusedInstallError, RefusedReleaseError)) as caught:
        asked_over(opened, question)
    assert refusal_for(caught.value).code == code


def test_a_look_changes_nothing() -> None:
    board = Board()

    @contextmanager
    def same() -> Iterator[FirmwareLink]:
        yield board

    before = board.key()
    assert asked_over(same, Look()).info.board == BOARD
    assert board.key() == before
