"""The operator's side of a flash: the manager, the releases and the folder of what was pinned."""

from __future__ import annotations

from pathlib import Path

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError
from asdic.fleet.client import FleetClient
from asdic.fleet.flash.host_keys import KnownHosts
from asdic.fleet.releases import Exported
from asdic.fleet.view import DeviceView, Overview


class Shore:
    """A running manager and the folders beside it.

    Args:
        fleet: The manager's state folder.
        releases: The folder of the releases that it serves.
    """

    def __init__(self, fleet: Path, releases: Path) -> None:
        self.client = FleetClient(fleet)
        self.releases = releases
        self.folder = fleet / "flash"
        self.hosts = KnownHosts(self.folder / "known_hosts")

    def broker(self) -> BrokerAddress:
        """Return the fleet's broker.

        Raises:
            LinkError: The manager does not answer.
        """
        return self.client.get("broker", BrokerAddress)

    def device(self, name: str) -> DeviceView | None:
        """Return what the manager knows of a device, or None.

        Raises:
            LinkError: The manager does not answer.
        """
        devices = self.client.get("overview", Overview).devices
        return next((one for one in devices if one.id == name), None)

    def token(self) -> str:
        """Return a new claim for one device."""
        return self.client.post("tokens", {}, dict[str, str])["token"]

    def offers(self, version: str, device: str) -> dict[str, str]:
        """Return a signed offer of a release for one device, by its name.

        Raises:
            ConfigError: The manager has other releases than we, or refuses.
        """
        wish = {"version": version, "selection": device}
        exported = self.client.post("exports", wish, Exported)
        if Path(exported.releases) != self.releases.resolve():
            raise ConfigError(
                f"the manager serves {exported.releases}, not {self.releases}; "
                "name its folder with --releases"
            )
        return exported.offers
