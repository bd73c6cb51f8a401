"""``asdic pack``: variants become one release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asdic.cli.console import print_json
from asdic.cli.firmware_image import Frames
from asdic.contract.errors import ConfigError

if TYPE_CHECKING:
    from asdic.contract.variant import FrameFormat
    from asdic.fleet.needs import FirmwareFile


@click.command()
@click.argument("variants", type=click.Path(path_type=Path))
@click.option("--version", required=True, help="The release's version, like 1.2.0.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("releases"),
    show_default=True,
    help="Release folder; made if there is none.",
)
@click.option(
    "--security-counter",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Raise it to forbid every release with a lower one for good.",
)
@click.option("--needs-firmware", help="Firmware versions it works with, like '>=1.4.0,<2.0.0'.")
@click.option("--needs-board", help="The microcontroller's name, as `asdic firmware info` has it.")
@click.option("--needs-frames", type=Frames(), help="Frames that must come, 512x512:uint8:grey.")
@click.option(
    "--firmware",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Firmware image (MCUboot) that goes live together with the model.",
)
@click.option("--board", help="The board of --firmware, where the image does not say itself.")
@click.option("--target", "targets", multiple=True, help="Only this target; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def pack(
    *,
    variants: Path,
    version: str,
    out: Path,
    security_counter: int,
    needs_firmware: str | None,
    needs_board: str | None,
    needs_frames: FrameFormat | None,
    firmware: Path | None,
    board: str | None,
    targets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Pack the variants below VARIANTS as one release (an OCI image layout).

    The same variants under the same version are no change; other ones are refused. What a release
    needs of a box is asked there before anything is downloaded; `[requires]` in a model.toml says
    the same for good.

    \b
    Examples:
      asdic pack variants/ --version 1.0.0 --out releases/
      asdic pack variants/ --version 1.0.1 --target x86-litert-int8 --target x86-openvino-int8
      asdic pack variants/ --version 1.1.0 --needs-firmware '>=1.4.0,<2.0.0' \\
          --needs-frames 512x512:uint8:grey
      asdic pack variants/ --version 2.0.0 --firmware firmware-1.5.0.bin
    """
    from asdic.contract.release import Layout, check_version
    from asdic.contract.variant import Requirements
    from asdic.fleet.needs import with_needs
    from asdic.fleet.releases import describe_release, variant_folders

    check_version(version)
    if board is not None and firmware is None:
        raise ConfigError("--board says what --firmware is for; --needs-board is a need")
    image = _firmware(firmware, board) if firmware is not None else None
    needs = Requirements(firmware=needs_firmware, board=needs_board, frames=needs_frames)
    with with_needs(variant_folders(variants, targets), needs, image) as folders:
        layout = Layout.create(out)
        layout.add_release(version, folders, security_counter=security_counter)
    view = describe_release(layout, version)
    if as_json:
        print_json(view)
        return
    names = ", ".join(variant.target for variant in view.variants)
    click.echo(f"packed release {version} with {len(view.variants)} variants: {names}")
    if image is not None:
        click.echo(f"with firmware {image.version} for {image.board}")
    if not view.signed:
        click.echo(f"sign it with: asdic sign {out}")


def _firmware(path: Path, board: str | None) -> FirmwareFile:
    """Return what the image in ``path`` says of itself.

    Raises:
        FirmwareImageError: It is no whole MCUboot image, no program, or for another board.
        ConfigError: Nobody says for which board it is.
    """
    from asdic.contract.files import read_bounded
    from asdic.contract.variant import FIRMWARE_LIMIT_BYTES
    from asdic.firmware_bridge.image import FirmwareImageError, parse_image
    from asdic.fleet.needs import FirmwareFile

    found = parse_image(read_bounded(path, FIRMWARE_LIMIT_BYTES), what=str(path))
    if not found.is_bootable:
        raise FirmwareImageError(f"{path} is data, such as a model, and no firmware")
    if board not in {None, found.board} and found.board is not None:
        raise FirmwareImageError(f"{path} is for the board {found.board!r}, not {board!r}")
    name = found.board or board
    if name is None:
        raise ConfigError(f"{path} does not say for which board it is; use --board NAME")
    return FirmwareFile(path=path, board=name, version=found.version, digest=found.digest)
