"""Take everything off a box that a flash has brought."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from asdic.contract.errors import ConfigError
from asdic.fleet.flash.box import ServiceFile, activation, look
from asdic.fleet.flash.facts import Facts, Installed
from asdic.fleet.flash.plan import places_of
from asdic.fleet.flash.preflight import exam_problem
from asdic.fleet.flash.remote import Remote
from asdic.fleet.flash.session import Session
from asdic.fleet.flash.wish import Site


class Unflash:
    """One box, before and after its installation is removed.

    Args:
        session: The connection to it.
        site: Where the installation is: prefix, state folder, and place of the service.
    """

    def __init__(self, session: Session, site: Site) -> None:
        self._session = session
        self._site = site

    def examine(self) -> tuple[str, ...]:
        """Return what would be removed, a line each; none where there is nothing.

        Raises:
            LinkError: The box does not answer.
        """
        self._remote, self._facts = look(self._session, self._site, broker=None, service=None)
        installed, site = self._facts.installed, self._site
        return (
            *(f"{path} (service)" for path in sorted(installed.service_files)),
            *(f"{site.prefix}/{name}" for name in installed.folders),
            *([f"{site.prefix}/incoming (wheels)"] if installed.incoming else []),
            *([f"{site.state}, {_owner(installed)}"] if installed.is_device else []),
        )

    def carry_out(self, *, keep_identity: bool, say: Callable[[str], None]) -> tuple[str, ...]:
        """Remove it, and return the folders and files that are gone.

        Args:
            keep_identity: Leave the device's key, whom it trusts and how far its reports went, so
                that it comes back as the same device.
            say: Is told what is being done.

        Raises:
            ConfigError: We may not, or an agent runs that nobody but its starter can stop.
            InstallError: The box fails to.
            LinkError: The connection broke; run it again.
        """
        _check(self._site, self._facts)
        site, facts = self._site, self._facts
        if facts.installed.service_files:
            say("stops the agent")
            kind, files = _service(facts)
            layout = msgspec.structs.replace(places_of(site), version="-")
            scan = site.runit_scan or facts.runit_scan
            arguments = activation(layout, kind, files, scan=scan, now=site.now)
            self._remote.call("activate", {**arguments, "step": "remove"})
        say("removes what was installed")
        return tuple(_remove(self._remote, site, keep_identity=keep_identity))


def _owner(installed: Installed) -> str:
    """Return whose state it is."""
    agent = installed.agent
    return f"the state of {agent.device}" if agent else "the identity of a device"


def _remove(remote: Remote, site: Site, *, keep_identity: bool) -> list[str]:
    gone: list[str] = remote.call(
        "stage",
        {
            "step": "remove",
            "prefix": site.prefix,
            "state": site.state,
            "keep_identity": keep_identity,
        },
        timeout_s=600.0,
    )
    return gone


def _check(site: Site, facts: Facts) -> None:
    installed = facts.installed
    if facts.needs_root and facts.sudo != "yes":
        raise ConfigError(
            f"{site.address}: {facts.user} may not remove {site.prefix}, and sudo does not help "
            f"({facts.sudo})"
        )
    if installed.activating:
        raise ConfigError(f"{site.address}: a switch is under way; try again when it is over")
    for problem in exam_problem(installed, now=site.now):
        raise ConfigError(f"{site.address}: {problem}")
    if installed.agent_runs and not installed.service_files:
        raise ConfigError(
            f"{site.address}: an agent runs that no service of ours has started; stop it first"
        )


def _service(facts: Facts) -> tuple[str, list[ServiceFile]]:
    files = [(path, text, 0o644) for path, text in facts.installed.service_files.items()]
    return facts.installed.service, files
