"""The address of a microcontroller is one of three forms, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from asdic.contract.errors import ConfigError
from asdic.firmware_bridge.connect import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("udp://192.0.2.7", Address(kind="udp", host="192.0.2.7", port=1337)),
        ("udp://mcu.local:1400", Address(kind="udp", host="mcu.local", port=1400)),
        ("udp://[2001:db8::7]:1400", Address(kind="udp", host="2001:db8::7", port=1400)),
        ("serial:///dev/ttyACM0", Address(kind="serial", device="/dev/ttyACM0")),
        (
            "serial:///dev/serial/by-id/usb-x_1-if00?baud=921600",
            Address(kind="serial", device="/dev/serial/by-id/usb-x_1-if00", baud=921_600),
        ),
        ("socket://127.0.0.1:4000", Address(kind="socket", host="127.0.0.1", port=4000)),
    ],
)
def test_an_address_is_read_and_written_the_same(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.7",
        "/dev/ttyACM0",
        "tcp://192.0.2.7:1",
        "udp://",
        "udp://host:0x10",
        "udp://host:99999",
        "udp://user@host",
        "udp://host/path",
        "udp://host?x=1",
        "udp://[2001:db8::7",
        "socket://host",
        "serial://dev/ttyACM0",
        "serial:///etc/passwd",
        "serial:///dev/../etc/passwd",
        "serial:///dev/ttyACM0?baud=fast",
        "serial:///dev/ttyACM0?baud=1",
        "serial:///dev/ttyACM0?parity=E",
        "serial:///dev/tty\nACM0",
    ],
)
def test_what_is_no_address_says_how_one_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match="udp://HOST"):
        parse_address(text)


def test_a_box_without_the_extra_is_told_its_name() -> None:
    code = (
        "import sys; sys.modules['smpclient'] = None;"
        "sys.argv[1:] = ['firmware', 'info', 'udp://127.0.0.1'];"
        "from asdic.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "asdic: smpclient is not installed; install `asdic[firmware]`\n",
    )


def test_the_link_is_not_loaded_before_it_is_opened() -> None:
    code = (
        "import sys, asdic.firmware_bridge.connect, asdic.firmware_bridge.simulator;"
        "print([one for one in ('smpclient', 'pydantic', 'imgtool', 'numpy', 'asyncio')"
        " if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
