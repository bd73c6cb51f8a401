"""What the fleet hears and shows of a pair: why it was refused, and what runs beside the model."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from asdic.contract.messages import FirmwareFacts, Report, UpdateState
from asdic.fleet.inventory import Device
from asdic.fleet.view import DeviceView, device_view
from tests.faults.explore import Explorer
from tests.faults.scenario import OLD, PAIR, PAIR_STORIES, Scenario
from tests.faults.stage import Stage
from tests.faults.world import World
from tests.support.boards import BOARD, FIRST, digest_of_image

STORIES = {story.name: story for story in PAIR_STORIES}


def last_report(stage: Stage, scenario: Scenario) -> Report:
    """Return a device's last word, as the manager reads it."""
    worlds: list[World] = []
    explorer = Explorer(stage, scenario)
    explorer.play(*stage.begin(scenario), prepare=worlds.append)
    return msgspec.json.decode(json.dumps(worlds[-1].memory.reports[-1]), type=Report)


def shown(report: Report) -> DeviceView:
    return device_view(
        Device(
            id="box1",
            public_key="",
            target=report.target,
            simulated=True,
            tags={},
            report_number=report.number,
            report=report,
            online=True,
            seen_s=0.0,
            refused_messages=0,
        )
    )


def test_a_refusal_reaches_the_fleet_with_its_code_and_its_sentence(stage: Stage) -> None:
    alone = Scenario(
        name="alone", begin="on-1.0.0", offer=PAIR, ends=OLD, state=UpdateState.REJECTED
    )
    view = shown(last_report(stage, alone))
    assert view.state == "rejected"
    assert view.refusal is not None
    assert view.refusal.startswith("no-firmware-link: the release needs the microcontroller")


@pytest.mark.parametrize(
    ("name", "version"), [("pair", "1.1.0"), ("pair-unfit", FIRST), ("pair-dead", FIRST)]
)
def test_the_fleet_sees_the_firmware_beside_the_release(
    stage: Stage, name: str, version: str
) -> None:
    report = last_report(stage, STORIES[name])
    assert report.firmware == FirmwareFacts(
        board=BOARD, version=version, digest=digest_of_image(version)
    )
    assert shown(report).firmware == version


def test_a_release_that_asks_nothing_says_nothing_of_firmware(stage: Stage) -> None:
    plain = replace(STORIES["pair"], offer="1.1.0", begin="on-1.0.0", ends_with="")
    assert last_report(stage, plain).firmware is None
