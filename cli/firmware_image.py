"""``asdic firmware``: keys and images, made and looked at; a model as C; a board to try it on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from asdic.cli.console import print_json
from asdic.cli.device import stop_on_signals
from asdic.contract.errors import ConfigError

if TYPE_CHECKING:
    from asdic.contract.variant import FrameFormat

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)


class Number(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A number as firmware people write it: 786432, 0xC0000."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        try:
            return value if isinstance(value, int) else int(str(value), 0)
        except ValueError:
            self.fail(f"{value!r} is not a number such as 786432 or 0xC0000", param, ctx)


class Frames(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Frames, ``512x640:uint8:grey``, perhaps with ``:SCALE``."""

    name = "HxW:DTYPE:CHANNELS[:SCALE]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> FrameFormat:
        """Return the format."""
        from asdic.contract.variant import FrameFormat
        from asdic.firmware_bridge.ring_layout import check_format

        if isinstance(value, FrameFormat):
            return value
        try:
            size, dtype, channels, *scale = str(value).split(":")
            height, width = size.split("x")
            (factor,) = scale or ["1"]
            frames = FrameFormat(
                height=int(height),
                width=int(width),
                dtype=dtype,
                channels=channels,
                scale=float(factor),
            )
        except ValueError:
            self.fail(f"{value!r} is not a frame format such as 512x640:uint8:grey", param, ctx)
        check_format(frames)
        return frames


def image_options(command: _F) -> _F:
    """Add what firmware and model images have in common to a verb."""
    for option in (
        click.option("--out", type=_FILE, required=True, help="The image file to write."),
        click.option("--key", type=_FILE, help="File of the private key.  [default: unsigned]"),
        click.option(
            "--header-bytes",
            type=Number(),
            default=32,
            show_default=True,
            help="Where the content begins (Zephyr: CONFIG_ROM_START_OFFSET).",
        ),
        click.option(
            "--align",
            type=Number(),
            default=8,
            show_default=True,
            help="The bytes that the flash writes at once.",
        ),
        click.option("--overwrite-only", is_flag=True, help="The bootloader swaps nothing."),
        click.option("--security-counter", type=Number(), help="It never falls on the board."),
        click.option("--board", required=True, help="The board's name, as `info` prints it."),
        click.option(
            "--slot-bytes", type=Number(), required=True, help="The size of the board's slot."
        ),
        click.option("--version", required=True, help="Like 1.5.0 or 1.5.0+7."),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--out", type=_FILE, required=True, help="File of the private key to make.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["ed25519", "ecdsa-p256"]),
    default="ed25519",
    show_default=True,
    help="What the bootloader was built for.",
)
def key(*, out: Path, kind: str) -> None:
    """Make a key that signs images; its public half goes beside it, and into the bootloader.

    \b
    Examples:
      asdic firmware key --out ~/keys/firmware.pem
      asdic firmware key --out ~/keys/firmware.pem --type ecdsa-p256
    """
    from asdic.firmware_bridge.image_keys import KeyKind, make_key

    public = make_key(out, KeyKind(kind))
    click.echo(f"{out} is the private key; it stays here. {public} is for the bootloader.")


@click.command()
@click.argument("program", type=_FILE)
@image_options
@click.option("--load-address", type=Number(), help="Where a board that runs from RAM copies it.")
def image(*, program: Path, out: Path, key: Path | None, **facts: Any) -> None:
    """Make a signed MCUboot image of PROGRAM, the .bin that the compiler made.

    \b
    Examples:
      asdic firmware image build/zephyr/zephyr.bin --version 1.5.0 --header-bytes 0x200 \\
          --board nucleo_h743zi/stm32h743xx --slot-bytes 786432 \\
          --key ~/keys/firmware.pem --out firmware-1.5.0.bin
    """
    from asdic.firmware_bridge.image_making import ImageSpec, make_image

    _write(out, make_image(_read(program), ImageSpec(**facts), key=key))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@image_options
@click.option("--frames", type=Frames(), help="The frames that the model was made for.")
@click.option("--needs-firmware", help="The oldest firmware that can run it, like 1.4.0.")
def model_image(
    *,
    model: Path,
    out: Path,
    key: Path | None,
    frames: FrameFormat | None,
    needs_firmware: str | None,
    **facts: Any,
) -> None:
    """Make a signed image of MODEL, a .tflite or a variant with one: data, which never boots.

    Of a variant it takes the frames that it requires.

    \b
    Examples:
      asdic firmware model-image variants/arm64-litert-int8 --version 3.0.0 \\
          --board nucleo_h743zi/stm32h743xx --slot-bytes 0x80000 --needs-firmware 1.4.0 \\
          --key ~/keys/firmware.pem --out model-3.0.0.bin
      asdic firmware model-image model.tflite --frames 96x96:uint8:grey --version 3.0.0 \\
          --board mps2/an385 --slot-bytes 0x80000 --out model-3.0.0.bin
    """
    from asdic.firmware_bridge.image import Dependency
    from asdic.firmware_bridge.image_making import ImageSpec, make_model_image

    file, required = _model_of(model)
    needed = (Dependency(image=0, version=needs_firmware),) if needs_firmware else ()
    spec = ImageSpec(**facts, frames=frames or required, dependencies=needed)
    _write(out, make_model_image(_read(file), spec, key=key))


@click.command()
@click.argument("image_file", metavar="IMAGE", type=_FILE)
@click.option("--key", type=_FILE, help="File of the public key that it must be signed with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def inspect(*, image_file: Path, key: Path | None, as_json: bool) -> None:
    """Say what IMAGE says of itself, and check its digest and signature.

    \b
    Examples:
      asdic firmware inspect firmware-1.5.0.bin
      asdic firmware inspect model-3.0.0.bin --key firmware.pub.pem --json
    """
    from asdic.firmware_bridge.image import parse_image
    from asdic.firmware_bridge.image_keys import check_signature, read_public_key
    from asdic.firmware_bridge.ring_layout import format_text

    data = _read(image_file)
    found = parse_image(data, what=str(image_file))
    if key is not None:
        check_signature(data, read_public_key(key), what=str(image_file))
    if as_json:
        print_json(found)
        return
    checked = "checked" if key else "not checked; give --key"
    needed = [f"image {one.image} from {one.version} on" for one in found.dependencies]
    for name, value in (
        ("version", found.version),
        ("digest", found.digest),
        ("content", f"{found.payload_bytes} bytes, {'code' if found.is_bootable else 'data'}"),
        ("board", found.board or "not said"),
        ("frames", format_text(found.frames) if found.frames else "not said"),
        ("needs", ", ".join(needed) or "nothing"),
        ("counter", "none" if found.security_counter is None else found.security_counter),
        ("signature", f"{found.signature} ({checked})" if found.signature else "none"),
    ):
        click.echo(f"{name:<11}{value}")


@click.command("export-c")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder."
)
@click.option("--name", default="asdic_model", show_default=True, help="Of the array, and files.")
@click.option("--frames", type=Frames(), help="The frames that the model was made for.")
def export_c(*, model: Path, out: Path, name: str, frames: FrameFormat | None) -> None:
    """Write MODEL, a .tflite or a variant with one, as NAME.c and NAME.h with the same bytes.

    \b
    Examples:
      asdic firmware export-c variants/arm64-litert-int8 --out firmware/src
      asdic firmware export-c model.tflite --out firmware/src --name vessel_model
    """
    from asdic.firmware_bridge.c_array import c_source, write_c_source

    file, required = _model_of(model)
    written = write_c_source(out, c_source(_read(file), name, frames=frames or required))
    click.echo(f"{file} is in {' and '.join(map(str, written))}")


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=1337, show_default=True)
@click.option("--board", default="simulated", show_default=True, help="What it calls itself.")
@click.option("--version", default="1.0.0", show_default=True, help="What it runs.")
@click.option("--slot-bytes", type=Number(), default=1 << 20, show_default=True)
@click.option(
    "--boots",
    type=click.Choice(["swap", "overwrite", "highest-version"]),
    default="swap",
    show_default=True,
    help="What its bootloader does.",
)
@click.option(
    "--partitions",
    type=click.IntRange(0, 7),
    default=0,
    show_default=True,
    help="Images of data that it has beside its firmware.",
)
def simulate(
    *, port: int, board: str, version: str, slot_bytes: int, boots: str, partitions: int
) -> None:
    """Be a board on loopback that answers to SMP as MCUboot and Zephyr do, until Ctrl-C.

    \b
    Examples:
      asdic firmware simulate --board mps2/an385 --version 1.4.0
      asdic firmware info udp://127.0.0.1
    """
    from asdic.firmware_bridge.simulated_board import Boots, SimulatedBoard
    from asdic.firmware_bridge.smp_server import SmpServer

    stopped = stop_on_signals()
    simulated = SimulatedBoard(
        name=board,
        version=version,
        slot_bytes=slot_bytes,
        boots=Boots(boots),
        clock=time.monotonic,
        partitions=partitions,
    )
    with SmpServer(simulated, port=port) as server:
        click.echo(f"{board} runs {version} at {server.address}")
        while not stopped():
            time.sleep(0.1)


def _read(path: Path) -> bytes:
    from asdic.contract.files import read_bounded
    from asdic.contract.variant import FIRMWARE_LIMIT_BYTES

    return read_bounded(path, FIRMWARE_LIMIT_BYTES)


def _write(path: Path, data: bytes) -> None:
    from asdic.contract.files import write_file
    from asdic.firmware_bridge.image import parse_image

    write_file(path, data)
    made = parse_image(data)
    signed = f"signed ({made.signature})" if made.signature else "not signed"
    click.echo(
        f"{path}: {made.version} for {made.board}, {len(data)} bytes, {signed}, {made.digest[:12]}"
    )


def _model_of(path: Path) -> tuple[Path, FrameFormat | None]:
    """Return the .tflite in a variant's folder and the frames that it requires, or the file."""
    from asdic.contract.target import Runtime
    from asdic.contract.variant import read_variant

    if not path.is_dir():
        return path, None
    variant = read_variant(path)
    if variant.runtime is not Runtime.LITERT:
        raise ConfigError(
            f"{path} is for {variant.runtime.value}; firmware runs TFLite, of a litert target"
        )
    return path / variant.files[0].name, variant.requires.frames
