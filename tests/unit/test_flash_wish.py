"""``boxes.toml`` and the options of a flash: strict, and every refusal names the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asdic.contract.errors import ConfigError
from asdic.fleet.flash.wish import Wish, check_wish, read_boxes, serial_port

BOXES = """
[defaults]
target = "arm64-litert-int8"
release = "1.0.0"
tags = { site = "north", ward = "none" }

[[box]]
address = "admin@box7.example"
tags = { ward = "icu" }

[[box]]
address = "admin@box8.example:2222"
target = "x86-openvino-int8"
prefix = "/data/asdic"
patience_s = 600
"""


def read(tmp_path: Path, text: str) -> tuple[Wish, ...]:
    (tmp_path / "boxes.toml").write_text(text)
    return read_boxes(tmp_path / "boxes.toml")


def test_a_box_has_the_defaults_under_its_own_entries(tmp_path: Path) -> None:
    first, second = read(tmp_path, BOXES)
    assert (first.target, first.tags) == ("arm64-litert-int8", {"site": "north", "ward": "icu"})
    assert (second.target, second.release, second.prefix, second.patience_s) == (
        "x86-openvino-int8",
        "1.0.0",
        "/data/asdic",
        600.0,
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("release", "relese", r"boxes.toml: box admin@box7.example: .*unknown field `relese`"),
        ("[[box]]", "[[boxes]]", "boxes.toml: Object contains unknown field"),
        ('"/data/asdic"', '"data"', r"box8.example:2222: 'data' is not a full path"),
        ('"/data/asdic"', '"/data/../etc"', "is not a full path"),
        ("600", "-1", "patience_s"),
        ("patience_s = 600", 'without_test_boot = "refuse"', "name it with --firmware"),
        ("patience_s = 600", 'without_test_boot = "hope"', "Invalid enum value 'hope'"),
        ("arm64-litert-int8", "toaster", "unknown target 'toaster'"),
        ("admin@box8.example:2222", "admin@box7.example", "two boxes have the address"),
        ("admin@box8.example:2222", "box8; reboot", "is no address"),
        ('{ ward = "icu" }', '"icu"', "tags"),
        ("[defaults]", "[defaults", "boxes.toml"),
    ],
)
def test_an_entry_that_is_wrong_is_refused_by_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, BOXES.replace(old, new))


def test_an_inventory_without_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1000"):
        read(tmp_path, "box = []")


def test_two_boxes_do_not_get_one_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two boxes have the device 'box7'"):
        read(tmp_path, BOXES.replace("address", 'device = "box7"\naddress'))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"state": "/opt/asdic/state"}, "lies in the prefix"),
        ({"user": "root; true"}, "is not the name of a user"),
        ({"device": "Box 7"}, "is not a device id"),
        ({"accept_host_key": "MD5:00"}, "is not a fingerprint"),
        ({"simulate": True}, "has no simulator"),
        ({"tags": {"ward": ""}}, "a tag has a key and a value"),
        ({"python": "python3; true"}, "is not a full path"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_wish(Wish(address="box7", target="arm64-litert-int8", **fields))


def test_a_box_may_have_a_microcontroller(tmp_path: Path) -> None:
    beside = 'firmware = "udp://192.0.2.7"\nwithout_test_boot = "re-upload"'
    first, second = read(tmp_path, BOXES.replace("patience_s = 600", beside))
    assert (first.firmware, first.without_test_boot) == (None, None)
    assert (second.firmware, second.without_test_boot) == ("udp://192.0.2.7", "re-upload")


@pytest.mark.parametrize(
    ("firmware", "port"),
    [
        ("serial:///dev/ttyACM0", "/dev/ttyACM0"),
        ("serial:///dev/serial/by-id/usb-board?baud=921600", "/dev/serial/by-id/usb-board"),
        ("socket://127.0.0.1:4000", None),
        ("", None),
    ],
)
def test_a_serial_port_is_read_from_the_address(firmware: str, port: str | None) -> None:
    assert serial_port(firmware) == port
