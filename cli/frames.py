"""``asdic frames``: play images into a frame ring, and look at one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from asdic.cli.console import print_json
from asdic.cli.device import stop_on_signals


@click.group()
def frames() -> None:
    """The frames between an acquisition process and the runner, in shared memory."""


@frames.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--ring", required=True, help="Name of the ring, or the path of its file.")
@click.option("--fps", default=30.0, show_default=True, help="Frames a second.")
@click.option("--height", type=int, help="Of the frames.  [default: the first image's]")
@click.option("--width", type=int, help="Of the frames.  [default: the first image's]")
@click.option("--channels", default="grey", show_default=True, help="grey or rgb.")
@click.option("--slots", default=8, show_default=True, help="How many frames the ring holds.")
@click.option("--count", type=int, help="How many frames to play.  [default: no end]")
def play(
    folder: Path,
    *,
    ring: str,
    fps: float,
    height: int | None,
    width: int | None,
    channels: str,
    slots: int,
    count: int | None,
) -> None:
    """Play the images in FOLDER into a ring, in the place of a probe.

    \b
    Examples:
      asdic frames play recordings/ --ring probe --fps 60
      asdic frames play recordings/ --ring probe --height 512 --width 512 --count 600
    """
    from asdic.firmware_bridge.frame_writer import FrameWriter
    from asdic.firmware_bridge.playback import play as played
    from asdic.firmware_bridge.playback import read_pictures

    stopped = stop_on_signals()
    form, pictures = read_pictures(folder, height=height, width=width, channels=channels)
    with FrameWriter(ring, form, slots=slots) as writer:
        done = played(writer, pictures, fps=fps, count=count, stopped=stopped)
    click.echo(f"{done} frames were played into {ring}")


@frames.command()
@click.argument("ring")
@click.option("--seconds", default=2.0, show_default=True, help="How long to look.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def show(ring: str, seconds: float, as_json: bool) -> None:
    """Say what RING carries, at what rate, how late frames are seen, and how many were lost.

    \b
    Examples:
      asdic frames show probe
      asdic frames show /run/acquisition/probe --seconds 10 --json
    """
    from asdic.firmware_bridge.survey import survey

    found = survey(ring, seconds=seconds, now=time.monotonic_ns)
    print_json(found) if as_json else click.echo(found.text())
