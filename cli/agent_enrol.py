"""``asdic-agent enrol``: join a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TextIO, get_args

import click

from asdic.cli.device import state_folder, state_option
from asdic.contract.firmware import TestBootPolicy

TOKEN_LIMIT: Final = 1024


@click.command()
@click.option("--server", required=True, metavar="URL", help="The fleet manager's address.")
@click.option("--token", metavar="ID.SECRET", help="From `asdic token`.")
@click.option(
    "--token-file",
    type=click.File(lazy=False),
    help="Read the token here; - is stdin.  Unlike --token, no process list shows it.",
)
@state_option
@click.option("--device", metavar="ID", help="Name of this device.  [default: the host name]")
@click.option("--target", metavar="NAME", help="What this device is.  [default: found out]")
@click.option("--simulate", is_flag=True, help="Stand in for the target, and say so in reports.")
@click.option(
    "--firmware",
    metavar="ADDRESS",
    help="The microcontroller beside it, as serial:///dev/ttyACM0.  [default: as before]",
)
@click.option(
    "--without-test-boot",
    type=click.Choice(get_args(TestBootPolicy)),
    help="Firmware where it cannot boot on trial.  [default: as before, or refuse]",
)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
def enrol(
    *,
    server: str,
    token: str | None,
    token_file: TextIO | None,
    state: Path,
    device: str | None,
    target: str | None,
    simulate: bool,
    firmware: str | None,
    without_test_boot: TestBootPolicy | None,
    tags: tuple[str, ...],
) -> None:
    """Join a fleet: make this device's key, prove the token, store whom to trust.

    Doing it again keeps the key, what the device has learnt about versions, and what you have
    set in agent.toml.

    \b
    Examples:
      asdic-agent enrol --server http://127.0.0.1:8470 --token 1f2e.9b0c --state box1
      asdic token | asdic-agent enrol --server http://127.0.0.1:8470 --token-file - --state box1
      asdic-agent enrol --server http://127.0.0.1:8470 --token 1f2e.9b0c --state box2 \\
        --device box2 --target jetson-orin-int8 --simulate --tag site=north
      asdic-agent enrol --server http://127.0.0.1:8470 --token 1f2e.9b0c \\
        --firmware serial:///dev/ttyACM0 --without-test-boot re-upload
    """
    from asdic.contract.errors import ConfigError
    from asdic.device.enrolment import enrol as enrol_device
    from asdic.device.enrolment import guess_device_id, guess_target
    from asdic.device.update.storage import Storage

    if (token is None) == (token_file is None):
        raise click.UsageError("give the token with --token or with --token-file")
    pairs = [tag.partition("=") for tag in tags]
    if not all(key and value for key, _, value in pairs):
        raise ConfigError("a tag looks like KEY=VALUE")
    folder = state_folder(state)
    config = enrol_device(
        folder,
        server=server,
        token=token or (token_file.read(TOKEN_LIMIT).strip() if token_file else ""),
        device=device or guess_device_id(),
        target=target or guess_target(),
        simulated=simulate,
        tags={key: value for key, _, value in pairs},
        storage=Storage(),
        firmware=firmware,
        without_test_boot=without_test_boot,
    )
    click.echo(
        f"enrolled {config.device} as {config.target}; "
        f"run it with `asdic-agent run --state {state}`"
    )
