"""What the verbs of flashing refuse before they ask anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from asdic.cli.agent_enrol import enrol
from asdic.cli.flash import flash
from asdic.cli.unflash import unflash
from asdic.contract.errors import ConfigError, LinkError

BOX = ("admin@box7.example", "--target", "arm64-litert-int8")
MANAGER = ("--server", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name one box as USER@HOST, or several with --inventory"),
        ((BOX[0], "--inventory", "boxes.toml"), "name one box as USER@HOST, or several"),
        (("--inventory", "boxes.toml", "--device", "box7"), "write what boxes shall be into"),
        ((BOX[0],), "say what the box is with --target"),
    ],
)
def test_a_flash_that_cannot_be_meant_is_a_mistake_of_usage(
    words: tuple[str, ...], message: str
) -> None:
    done = CliRunner().invoke(flash, words)
    assert (done.exit_code, message in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*BOX, "--tag", "icu"), "a tag looks like KEY=VALUE"),
        ((*BOX, "--prefix", "here"), "is not a full path"),
        ((*BOX, "--accept-host-key", "MD5:00"), "is not a fingerprint"),
        ((BOX[0], "--target", "toaster"), "unknown target 'toaster'"),
        ((*BOX, "--firmware", "ttyACM0"), f"{BOX[0]}: 'ttyACM0' is not the address of a microc"),
        ((*BOX, "--without-test-boot", "refuse"), "name it with --firmware"),
        (("--inventory", "nowhere.toml"), "cannot read nowhere.toml"),
    ],
)
def test_a_wrong_option_is_said_before_the_box_is_asked(
    words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(flash, words, catch_exceptions=False)


def test_a_flash_without_a_manager_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="start one with `asdic serve"):
        CliRunner().invoke(flash, (*BOX, "--fleet", str(tmp_path)), catch_exceptions=False)


def test_unflash_refuses_a_path_that_could_be_anything() -> None:
    with pytest.raises(ConfigError, match="is not a full path"):
        CliRunner().invoke(unflash, (BOX[0], "--state", "~"), catch_exceptions=False)


@pytest.mark.parametrize("words", [(), ("--token", "a.b", "--token-file", "-")])
def test_an_agent_takes_its_claim_in_one_way(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(enrol, (*MANAGER, *words), input="a.b")
    assert (done.exit_code, "--token or with --token-file" in done.stderr) == (2, True)


def test_an_agent_reads_its_claim_from_stdin(tmp_path: Path) -> None:
    words = (*MANAGER, "--token-file", "-", "--state", str(tmp_path / "box"), "--device", "box7")
    with pytest.raises(ConfigError, match="that is not a token"):
        CliRunner().invoke(enrol, words, input="nothing", catch_exceptions=False)


def test_a_wrong_microcontroller_of_a_shelf_is_said_by_its_box(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.toml"
    boxes.write_text(
        '[defaults]\ntarget = "arm64-litert-int8"\n[[box]]\naddress = "box7"\n'
        '[[box]]\naddress = "box8"\nfirmware = "serial:///etc/passwd"\n'
    )
    with pytest.raises(ConfigError, match="box8: 'serial:///etc/passwd' is not the address"):
        CliRunner().invoke(flash, ("--inventory", str(boxes)), catch_exceptions=False)
