"""``asdic-agent bench``: how fast the current release is on this box."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.device import state_folder, state_option


@click.command()
@state_option
@click.option("--seconds", default=10.0, show_default=True, help="How long to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bench(state: Path, seconds: float, as_json: bool) -> None:
    """Measure the current release on this box, beside the runner if that is running.

    \b
    Examples:
      asdic-agent bench --state box1
      asdic-agent bench --state box1 --seconds 30 --json
    """
    from asdic.cli.bench import show_result
    from asdic.contract.errors import ConfigError
    from asdic.device.bench.bench import bench_folder
    from asdic.device.config import read_config
    from asdic.device.status import read_status

    folder = state_folder(state)
    if read_status(folder).current is None:
        raise ConfigError(f"{state} has no current release yet")
    current = (folder.path / "current").resolve()
    simulate = read_config(folder).simulated
    show_result(bench_folder(current, seconds=seconds, simulate=simulate), as_json=as_json)
