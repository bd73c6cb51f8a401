"""``asdic firmware``: the microcontroller beside the box, and the images for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from asdic.cli.console import LazyGroup, print_json
from asdic.contract.errors import ConfigError

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from asdic.firmware_bridge.image import FirmwareImage
    from asdic.firmware_bridge.link import FirmwareInfo, FirmwareLink

_F = TypeVar("_F", bound=Callable[..., Any])
IMAGE_VERBS: Final = MappingProxyType(
    {
        "key": "asdic.cli.firmware_image:key",
        "image": "asdic.cli.firmware_image:image",
        "model-image": "asdic.cli.firmware_image:model_image",
        "inspect": "asdic.cli.firmware_image:inspect",
        "export-c": "asdic.cli.firmware_image:export_c",
        "simulate": "asdic.cli.firmware_image:simulate",
    }
)


def link_options(command: _F) -> _F:
    """Add ADDRESS, ``--timeout`` and ``--json`` to a verb."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
        click.option(
            "--timeout",
            type=click.FloatRange(0.05, 600),
            default=2.5,
            show_default=True,
            help="Seconds to wait for one answer; most questions are asked three times.",
        ),
        click.argument("address"),
    ):
        command = option(command)
    return command


@click.group(cls=LazyGroup, verbs=IMAGE_VERBS)
def firmware() -> None:
    """Look at the microcontroller beside the box, update it, and make images for it.

    ADDRESS is udp://HOST[:PORT], serial:///dev/ttyACM0[?baud=N] or socket://HOST:PORT.

    \b
    The way of an image:
      asdic firmware key --out ~/keys/firmware.pem
      asdic firmware image zephyr.bin --version 1.5.0 --board nucleo_h743zi/stm32h743xx \\
          --slot-bytes 786432 --key ~/keys/firmware.pem --out firmware-1.5.0.bin
      asdic firmware info serial:///dev/ttyACM0
      asdic firmware upload serial:///dev/ttyACM0 firmware-1.5.0.bin --test
      asdic firmware reset serial:///dev/ttyACM0
      asdic firmware confirm serial:///dev/ttyACM0
    """


@firmware.command()
@link_options
def info(address: str, *, timeout: float, as_json: bool) -> None:
    """Say what runs at ADDRESS, what its slots hold, and what its bootloader can do.

    \b
    Examples:
      asdic firmware info udp://192.0.2.7
      asdic firmware info serial:///dev/ttyACM0 --json
    """
    with _opened(address, timeout) as link:
        found = link.info()
    print_json(found) if as_json else _print_info(found)


@firmware.command()
@link_options
@click.argument("image", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--board", help="The board that IMAGE is for, where it does not say itself.")
@click.option("--any-board", is_flag=True, help="Do not compare boards.")
@click.option(
    "--number",
    type=click.IntRange(0, 7),
    default=0,
    show_default=True,
    help="Which image of the board; 0 is its firmware, a model's partition is 1 or more.",
)
@click.option("--test", "mark", is_flag=True, help="Also mark it: the next reset tries it once.")
@click.option("--from-start", is_flag=True, help="Do not go on where an earlier try stopped.")
def upload(
    address: str,
    *,
    image: Path,
    board: str | None,
    any_board: bool,
    number: int,
    mark: bool,
    from_start: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Write IMAGE to the slot at ADDRESS that is not running, and look that it is there.

    What runs stays as it is until a reset. An upload that was interrupted goes on.

    \b
    Examples:
      asdic firmware upload serial:///dev/ttyACM0 firmware-1.5.0.bin --test
      asdic firmware upload udp://192.0.2.7 zephyr.signed.bin --board mps2/an385
      asdic firmware upload udp://192.0.2.7 model-3.0.0.bin --number 1 --test
    """
    from asdic.firmware_bridge.image_gate import check_fits

    data, parsed = _read_image(image)
    with _opened(address, timeout) as link:
        before = link.info()
        check_fits(parsed, before, number=number, board=board, any_board=any_board)
        was_there = not from_start and any(slot.digest == parsed.digest for slot in before.slots)
        with _progress(f"{image.name} to {before.board or address}", len(data)) as progress:
            link.upload(
                data,
                version=parsed.version,
                progress=progress,
                resume=not from_start,
                number=number,
            )
        if mark:
            _mark(link, parsed.digest)
        after = link.info()
    if as_json:
        print_json({"digest": parsed.digest, "was_there": was_there, "info": after})
        return
    verb = "held it already" if was_there else "holds it now"
    click.echo(f"{after.board or address} {verb}: {parsed.version} ({parsed.digest[:12]})")


@firmware.command()
@link_options
@click.argument("image", type=click.Path(path_type=Path, dir_okay=False))
def test(address: str, *, image: Path, timeout: float, as_json: bool) -> None:
    """Mark IMAGE, which was uploaded, so that the next reset at ADDRESS boots it once.

    Unless it is confirmed then, the reset after that goes back. A bootloader that never goes back
    refuses this (not-supported): there, a reset boots the higher version for good.

    \b
    Examples:
      asdic firmware test serial:///dev/ttyACM0 firmware-1.5.0.bin
    """
    _, parsed = _read_image(image)
    with _opened(address, timeout) as link:
        _mark(link, parsed.digest)
        found = link.info()
    print_json(found) if as_json else _print_info(found)


@firmware.command()
@link_options
def confirm(address: str, *, timeout: float, as_json: bool) -> None:
    """Keep the image that runs at ADDRESS over the next reset.

    \b
    Examples:
      asdic firmware confirm serial:///dev/ttyACM0
    """
    from asdic.firmware_bridge.link import SlotState

    with _opened(address, timeout) as link:
        before = link.info()
        on_trial = any(slot.state is SlotState.TESTING for slot in before.slots)
        if on_trial or not before.slots:
            link.confirm()
        found = link.info()
    if as_json:
        print_json(found)
        return
    verb = "is confirmed now" if on_trial else "was confirmed already"
    click.echo(f"{found.version} on {found.board or address} {verb}")


@firmware.command()
@link_options
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=60.0,
    show_default=True,
    help="Seconds to wait until it is back.",
)
def reset(address: str, *, wait: float, timeout: float, as_json: bool) -> None:
    """Restart the microcontroller at ADDRESS, and say what runs then.

    \b
    Examples:
      asdic firmware reset serial:///dev/ttyACM0
      asdic firmware reset udp://192.0.2.7 --wait 120
    """
    from asdic.firmware_bridge.restart import restart

    with _opened(address, timeout) as link:
        found = restart(link, clock=time.monotonic, sleep=time.sleep, patience_s=wait)
    print_json(found) if as_json else _print_info(found)


@contextmanager
def _opened(address: str, timeout_s: float) -> Iterator[FirmwareLink]:
    from asdic.firmware_bridge.connect import open_link

    with open_link(address, timeout_s=timeout_s) as link:
        yield link


def _read_image(path: Path) -> tuple[bytes, FirmwareImage]:
    from asdic.contract.files import read_bounded
    from asdic.contract.variant import FIRMWARE_LIMIT_BYTES
    from asdic.firmware_bridge.image import parse_image

    data = read_bounded(path, FIRMWARE_LIMIT_BYTES)
    return data, parse_image(data, what=str(path))


def _mark(link: FirmwareLink, digest: str) -> None:
    """Mark an image for test, unless it is marked or runs.

    Raises:
        ConfigError: The bootloader boots nothing on trial.
    """
    from asdic.firmware_bridge.link import FirmwareRefusalError, SlotState

    done = {SlotState.PENDING, SlotState.TESTING, SlotState.CONFIRMED}
    if any(slot.digest == digest and slot.state in done for slot in link.info().slots):
        return
    try:
        link.mark_for_test(digest)
    except FirmwareRefusalError as error:
        if error.code != "not-supported":
            raise
        raise ConfigError(
            "the image is there, and this bootloader cannot boot it on trial (not-supported): "
            "`asdic firmware reset` boots it for good if its version is the higher one"
        ) from error


@contextmanager
def _progress(label: str, size: int) -> Iterator[Callable[[int, int], None]]:
    """Yield what takes bytes done and bytes in all, and draws a bar where a person looks on."""
    bar: ProgressBar[int]
    with click.progressbar(length=size, label=label, file=sys.stderr, show_pos=True) as bar:
        yield lambda done, _total: bar.update(done - bar.pos)


def _print_info(found: FirmwareInfo) -> None:
    trial = "yes" if found.can_test_boot else "no: a reset boots for good"
    if found.can_test_boot and found.boot_mode is None:
        trial = "not said; `asdic firmware test` shows it"
    for name, value in (
        ("board", found.board or "not said"),
        ("version", found.version or "not said"),
        ("boot mode", found.boot_mode or "not said"),
        ("boots on trial", trial if found.slots else "no image slots"),
        ("answers to", ", ".join(found.capabilities) or "not said"),
    ):
        click.echo(f"{name:<16}{value}")
    if found.slots:
        click.echo(f"\n{'slot':<6}{'state':<11}{'version':<16}{'kind':<6}image")
    for slot in found.slots:
        click.echo(
            f"{slot.number:<6}{slot.state.value:<11}{slot.version or '':<16}"
            f"{'code' if slot.bootable else 'data':<6}{(slot.digest or '')[:16]}"
        )
