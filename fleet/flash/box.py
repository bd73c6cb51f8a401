"""A box as it is found, and what it has to know to start and stop an installation."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from asdic.contract.broker import BrokerAddress
from asdic.fleet.flash.facts import Facts, parse_facts
from asdic.fleet.flash.layout import Layout
from asdic.fleet.flash.plan import places_of
from asdic.fleet.flash.remote import Remote, find_python
from asdic.fleet.flash.session import Session
from asdic.fleet.flash.units import runit_files, systemd_unit
from asdic.fleet.flash.wish import Site

ServiceFile = tuple[str, str, int]
"""Path, content and mode."""

RUNIT_FILES: Final = ("run", "finish", "log/run")


def look(
    session: Session,
    site: Site,
    *,
    broker: BrokerAddress | None,
    service: str | None,
    serial: str | None = None,
) -> tuple[Remote, Facts]:
    """Return how to work on a box, and what was found there; nothing is changed.

    Args:
        session: The connection.
        site: Where on the box an installation is, or shall be.
        broker: The broker that the box has to reach; None for none.
        service: What shall start the agent (``auto``: what there is); None for what does now.
        serial: Device file of the serial port that the agent shall use, if any.

    Raises:
        ConfigError: It has no fitting Python.
        LinkError: It does not answer.
    """
    remote = Remote(session, find_python(session, site.python).path)
    layout = places_of(site)
    arguments = {
        "prefix": site.prefix,
        "state": site.state,
        "broker": None if broker is None else msgspec.structs.asdict(broker),
        "serial": serial,
        "service_files": [
            str(layout.systemd_unit),
            *(str(layout.runit_service / name) for name in RUNIT_FILES),
        ],
        "service_folders": {
            "systemd": str(layout.systemd_unit.parent),
            "runit": str(layout.runit_service.parent),
        },
    }
    facts = parse_facts(remote.call("probe", arguments), site.address)
    facts = msgspec.structs.replace(facts, service=_service(facts, service))
    if facts.needs_root and facts.sudo == "yes":
        root = remote.as_root()
        seen = parse_facts(root.call("probe", arguments), site.address)
        facts = msgspec.structs.replace(facts, installed=seen.installed)
        remote = root
    return remote, facts


def _service(facts: Facts, wanted: str | None) -> str:
    if wanted is None:
        return facts.installed.service
    return facts.service_manager if wanted == "auto" else wanted


def service_files(service: str, layout: Layout) -> list[ServiceFile]:
    """Return path, content and mode of a service's files."""
    match service:
        case "systemd":
            return [(str(layout.systemd_unit), systemd_unit(layout), 0o644)]
        case "runit":
            folder = layout.runit_service
            texts = runit_files(layout).items()
            return [(str(folder / name), text, 0o755) for name, text in texts]
        case _:
            return []


def activation(
    layout: Layout, service: str, files: list[ServiceFile], *, scan: str, now: bool
) -> dict[str, Any]:
    """Return what the box has to know of an installation to start and stop it.

    Args:
        layout: Where everything is.
        service: What starts the agent.
        files: The service's files.
        scan: Where runsvdir looks.
        now: Also while an exam is in progress.
    """
    return {
        "prefix": str(layout.prefix),
        "version": layout.version,
        "state": str(layout.state),
        "user": layout.user,
        "groups": list(layout.groups),
        "service": {"kind": service, "files": files, "scan": scan},
        "run": list(layout.run_command),
        "install": None,
        "now": now,
    }
