"""``asdic-agent bench``: how fast the current release is on this box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asdic.cli.bench import measuring_options
from asdic.cli.device import state_folder, state_option


@click.command()
@state_option
@measuring_options
@click.option("--order", hidden=True)
@click.option("--parent", type=int, hidden=True)
def bench(
    *,
    state: Path,
    frames: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    order: str | None,
    parent: int | None,
    **measuring: Any,
) -> None:
    """Measure the current release on this box, beside the runner if that is running.

    With --json the result is signed by the device's key.

    \b
    Examples:
      asdic-agent bench --state box1
      asdic-agent bench --state box1 --fps 30 --minutes 10 --html out.html
      asdic-agent bench --state box1 --seconds 30 --json out.json
    """
    from asdic.cli.bench import frames_in, hand_over, say_phase
    from asdic.contract.trust import public_hex
    from asdic.device.bench.settings import Settings
    from asdic.device.config import read_config
    from asdic.device.identity import read_key
    from asdic.device.measurement import answering, measure_current, signed
    from asdic.device.process import end_with_parent

    if parent is not None:
        end_with_parent(parent)
    here = state_folder(state)
    with answering(here, order, json_path):
        settings = Settings(simulate=read_config(here).simulated, **measuring)
        report = measure_current(
            here, settings, frames=frames_in(frames), order=order, on_phase=say_phase(settings)
        )
        click.echo(f"signed by {public_hex(read_key(here))}", err=True)
        hand_over(
            report, lambda result: signed(here, result), json_path=json_path, html_path=html_path
        )
