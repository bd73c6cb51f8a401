"""What is shown of a switch."""

from __future__ import annotations

from asdic.fleet.flash.switch import Judgement


def test_a_judgement_shows_its_score_and_what_was_remarked() -> None:
    judged = Judgement(exposure=2.2, level="OK", notes=("systemd-analyze verify: a remark",))
    assert judged.lines() == (
        "systemd-analyze security: 2.2 (OK)",
        "note: systemd-analyze verify: a remark",
    )


def test_a_judgement_without_a_score_shows_none() -> None:
    assert Judgement(notes=("it gives no score",)).lines() == ("note: it gives no score",)
