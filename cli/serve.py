"""``asdic serve``: the fleet manager with its broker and its page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asdic.contract.errors import MissingPackageError

if TYPE_CHECKING:
    from asdic.contract.broker import BrokerAddress


@click.command()
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("fleet"),
    envvar="ASDIC_FLEET",
    show_default=True,
    help="State folder: database, director's keys, access token.",
)
@click.option(
    "--releases",
    type=click.Path(path_type=Path),
    default=Path("releases"),
    show_default=True,
    help="Release folder, as `asdic pack` and `asdic sign` make it.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8470,
    show_default=True,
    help="Port of the page on 127.0.0.1; 0 takes a free one.",
)
@click.option("--broker", metavar="HOST:PORT", help="Use this MQTT broker, not an embedded one.")
@click.option(
    "--broker-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Certificate (PEM) of the authority that vouches for the broker: speak TLS, also on the "
    "devices, which get it when they enrol.",
)
@click.option("--accept-simulated", is_flag=True, help="Take devices that simulate their target.")
@click.option("--verbose", is_flag=True, help="Log every decision on stderr, not only warnings.")
def serve(
    *,
    state: Path,
    releases: Path,
    port: int,
    broker: str | None,
    broker_ca: Path | None,
    accept_simulated: bool,
    verbose: bool,
) -> None:
    """Run the fleet manager until it is interrupted.

    Everything that matters is in the state folder: stop it, start it again, and it goes on.

    \b
    Examples:
      asdic serve --state fleet/ --releases releases/
      asdic serve --state fleet/ --broker broker.example:8883 --broker-ca ca.pem
    """
    try:
        from asdic.fleet.manager import FleetConfig
        from asdic.fleet.server import running, stop_on_signals, wait_for_end
    except ImportError as error:
        raise MissingPackageError(error.name or "a package of the server", "fleet") from error

    log_format = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=log_format)
    external = _external(broker, broker_ca)
    config = FleetConfig(state=state, releases=releases, accept_simulated=accept_simulated)
    stopped = stop_on_signals()
    with running(config, port=port, external=external) as (serving, fleet):
        click.echo(f"fleet page   {serving.url}/")
        click.echo(f"MQTT broker  {serving.broker}")
        click.echo(f"enrol a box  asdic token --fleet {state}, then on the box: asdic-agent enrol")
        wait_for_end(fleet, stopped)
    click.echo("stopped")


def _external(broker: str | None, broker_ca: Path | None) -> BrokerAddress | None:
    """Return the broker that somebody else runs, if one is named."""
    from asdic.contract.broker import parse_broker
    from asdic.contract.mqtt import read_ca

    if broker is None and broker_ca is not None:
        raise click.UsageError("--broker-ca is of no use without --broker")
    ca = read_ca(broker_ca) if broker_ca else ""
    return parse_broker(broker, ca=ca) if broker else None
