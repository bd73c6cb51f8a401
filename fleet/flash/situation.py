"""All that a plan is made from: what is wanted, what was found, and what the fleet knows."""

from __future__ import annotations

import re

import msgspec

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError
from asdic.contract.messages import check_device_id
from asdic.fleet.flash.cargo import ReleaseCargo, Version
from asdic.fleet.flash.facts import Facts, FirmwareFacts
from asdic.fleet.flash.wish import Wish
from asdic.fleet.view import DeviceView


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """One box, before anything is done to it.

    Attributes:
        wish: How it shall be.
        facts: How it is.
        version: The version of asdic for it.
        release: The release that it shall run, or None.
        known: What the manager knows of a device of its name, or None.
        broker: The fleet's broker.
        now_s: The time here.
    """

    wish: Wish
    facts: Facts
    version: Version
    release: ReleaseCargo | None
    known: DeviceView | None
    broker: BrokerAddress
    now_s: float

    @property
    def device(self) -> str:
        """The box's name in the fleet; see ``device_of``."""
        return device_of(self.wish, self.facts)

    @property
    def runs_release(self) -> bool:
        """Whether the box has signed that it runs the wanted release, if one is wanted."""
        if self.release is None:
            return True
        known = self.known
        return (
            known is not None
            and known.state == "committed"
            and known.manifest == self.release.manifest
        )

    @property
    def is_enrolled(self) -> bool:
        """Whether the agent has its tags, its microcontroller, the broker and its authority."""
        agent = self.facts.installed.agent
        return (
            agent is not None
            and agent.tags == self.tags
            and self._has_firmware(agent.firmware)
            and msgspec.structs.asdict(agent.broker) == msgspec.structs.asdict(self.broker)
        )

    def _has_firmware(self, found: FirmwareFacts) -> bool:
        """Return whether the agent has what is wished of its microcontroller, if anything is."""
        link, policy = self.wish.firmware, self.wish.without_test_boot
        return link in {None, found.link} and policy in {None, found.without_test_boot}

    @property
    def tags(self) -> dict[str, str]:
        """The tags that the box shall have: those that it has, under the wanted ones."""
        agent = self.facts.installed.agent
        return {**(agent.tags if agent else {}), **self.wish.tags}


def device_of(wish: Wish, facts: Facts) -> str:
    """Return the box's name in the fleet: wished for, already given, or its host name.

    Raises:
        ConfigError: The host name cannot be one.
    """
    if wish.device is not None:
        return wish.device
    agent = facts.installed.agent
    if agent is not None:
        return agent.device
    name = re.sub(r"[^a-z0-9]+", "-", facts.host.lower()).strip("-")[:63]
    try:
        return check_device_id(name)
    except ConfigError as error:
        raise ConfigError(f"{wish.address}: name the box with --device: {error}") from error


def firmware_of(wish: Wish, facts: Facts) -> str:
    """Return the address of the box's microcontroller: wished for, or given; empty for none."""
    if wish.firmware is not None:
        return wish.firmware
    agent = facts.installed.agent
    return agent.firmware.link if agent is not None else ""
