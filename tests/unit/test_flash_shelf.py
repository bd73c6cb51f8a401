"""A shelf of boxes: each for itself, remembered, and ended together."""

from __future__ import annotations

from pathlib import Path

import pytest

from asdic.contract.errors import ConfigError, LinkError
from asdic.fleet.flash.flash import Outcome
from asdic.fleet.flash.shelf import Done, Lines, each, flash_all, one_at_a_time
from asdic.fleet.flash.wish import Wish


def wish(address: str, **fields: str) -> Wish:
    return Wish(address=address, target="arm64-litert-int8", **fields)


def outcome(address: str) -> Outcome:
    return Outcome(
        address=address,
        device=address,
        version="0.1.0-0123456789ab",
        release="1.0.0",
        report_number=3,
        done=("enrol",),
        sent_bytes=7,
        seconds=1.0,
    )


WISHES = (wish("box1"), wish("box2"), wish("box3"))


def flashed(one: Wish) -> Outcome:
    if one.address == "box2":
        raise LinkError("box2 does not answer")
    return outcome(one.address)


@pytest.mark.parametrize("parallel", [1, 3])
def test_one_that_fails_stops_no_other(tmp_path: Path, parallel: int) -> None:
    done = Done(tmp_path / "done.json")
    results = flash_all(WISHES, flashed, done=done, parallel=parallel)
    assert [one.text for one in results] == ["flashed", "box2 does not answer", "flashed"]


def test_what_is_done_is_skipped_when_it_is_resumed_and_only_then(tmp_path: Path) -> None:
    asked = []

    def work(one: Wish) -> Outcome:
        asked.append(one.address)
        return flashed(one)

    for resume in (False, True, False):
        flash_all(WISHES, work, done=Done(tmp_path / "done.json"), resume=resume)
    assert asked == ["box1", "box2", "box3", "box2", "box1", "box2", "box3"]


def test_another_wish_for_a_box_is_not_done_yet(tmp_path: Path) -> None:
    done = Done(tmp_path / "done.json")
    done.note(wish("box1"), outcome("box1"))
    assert done.outcome(wish("box1", identity="~/.ssh/other")) == outcome("box1")
    assert done.outcome(wish("box1", release="2.0.0")) is None
    done.forget("box1")
    assert Done(tmp_path / "done.json").outcome(wish("box1")) is None


def test_a_memory_that_is_damaged_is_said(tmp_path: Path) -> None:
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(ConfigError, match=r"done.json is damaged"):
        Done(tmp_path / "done.json")


def test_who_is_interrupted_hangs_up_all_lines() -> None:
    class Line:
        name, is_open = "box", True

        def close(self) -> None:
            self.is_open = False

    opened: list[Line] = []

    def open_one(_wish: Wish) -> Line:
        opened.append(Line())
        return opened[-1]

    lines = Lines(open_one)

    def work(one: Wish) -> None:
        with lines.to(one):
            lines.hang_up()
            assert not opened[-1].is_open
            raise KeyboardInterrupt

    aborted = []
    with pytest.raises(KeyboardInterrupt):
        each(WISHES[:1], work, parallel=1, abort=lambda: aborted.append(True))
    assert aborted == [True]


def test_a_wheelhouse_is_asked_once_for_each_kind_of_box() -> None:
    asked = []

    def bring(**kind: str | bool | None) -> dict[str, str | bool | None]:
        asked.append(kind)
        return kind

    once = one_at_a_time(bring)
    for python, firmware in (("3.10", False), ("3.11", False), ("3.10", True), ("3.10", False)):
        once(architecture="aarch64", python=python, runtime="litert", firmware=firmware)
    assert [(kind["python"], kind["firmware"]) for kind in asked] == [
        ("3.10", False),
        ("3.11", False),
        ("3.10", True),
    ]
