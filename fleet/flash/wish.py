"""What the operator wants of a box: one command's options, or one entry of ``boxes.toml``.

``boxes.toml`` is a table ``[defaults]`` and one ``[[box]]`` an entry, with the same keys; what it
does not know is an error.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded
from asdic.contract.firmware import TestBootPolicy
from asdic.contract.messages import check_device_id
from asdic.contract.target import Target, target_named

INVENTORY_LIMIT_BYTES: Final = 1 << 20
BOXES_LIMIT: Final = 1000
_PATH: Final = re.compile(r"(/[A-Za-z0-9._+-]+)+")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_ADDRESS: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9\[][A-Za-z0-9.:\[\]_-]*")

_SERIAL: Final = "serial://"

ServiceKind = Literal["auto", "systemd", "runit", "none"]


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a box is, and where on it an installation is.

    Attributes:
        address: ``user@host`` or ``user@host:port``, as ssh_config knows it.
        prefix: Where asdic is installed.
        state: Where the device keeps what it must not lose.
        service_folder: Where the service is put, if not in the usual place.
        runit_scan: Where runsvdir looks, if not in the usual place.
        python: The interpreter to use; None finds one.
        accept_host_key: The fingerprint of a new host key that was compared at the box.
        identity: File of the private key to log in with.
        now: Also while an exam is in progress, because a person says so.
    """

    address: str
    prefix: str = "/opt/asdic"
    state: str = "/var/lib/asdic"
    service_folder: str | None = None
    runit_scan: str | None = None
    python: str | None = None
    accept_host_key: str | None = None
    identity: str | None = None
    now: bool = False


class Wish(Site, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one box shall be.

    Attributes:
        target: What the box is.
        release: The release that it shall run; None leaves it to the fleet.
        device: Its name in the fleet; None takes its host name.
        tags: Its tags in the fleet, beside those that it has.
        user: Who runs the agent; None makes the user ``asdic`` where we may, and else takes the
            user who logs in.
        service: What starts the agent.
        firmware: Address of the microcontroller as the box sees it; None leaves what the box has.
        without_test_boot: What to do with firmware where it cannot boot on trial; None leaves it.
        server: The manager's address as the box sees it; None goes through the SSH connection.
        simulate: The box stands in for its target.
        run_options: Further words for ``asdic-agent run``.
        patience_s: How long the new agent may take until its signed report is here.
    """

    target: str
    release: str | None = None
    device: str | None = None
    tags: dict[str, str] = {}
    user: str | None = None
    service: ServiceKind = "auto"
    firmware: str | None = None
    without_test_boot: TestBootPolicy | None = None
    server: str | None = None
    simulate: bool = False
    run_options: tuple[str, ...] = ()
    patience_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 180.0

    @property
    def kind(self) -> Target:
        """The row of the target's table."""
        return target_named(self.target)


class _Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tables of ``boxes.toml``; the entries are read once the defaults are under them."""

    box: list[dict[str, Any]]
    defaults: dict[str, Any] = {}


def check_site(site: Site) -> None:
    """Check what a box is called, and the paths on it.

    Raises:
        ConfigError: A name, path or fingerprint is not what it should be.
    """
    from asdic.fleet.flash.host_keys import check_fingerprint

    if not _ADDRESS.fullmatch(site.address):
        raise ConfigError(f"{site.address!r} is no address; write user@host or user@host:port")
    for path in (site.prefix, site.state, site.service_folder, site.runit_scan, site.python):
        if path is not None and (not _PATH.fullmatch(path) or ".." in PurePosixPath(path).parts):
            raise ConfigError(f"{path!r} is not a full path of letters, digits and . _ + -")
    state = PurePosixPath(site.state)
    if PurePosixPath(site.prefix) in (state, *state.parents):
        raise ConfigError(
            f"the state folder {site.state} lies in the prefix {site.prefix}; keep them apart, "
            "so that a version can be removed without it"
        )
    if site.accept_host_key is not None:
        check_fingerprint(site.accept_host_key)


def check_wish(wish: Wish) -> Wish:
    """Return ``wish`` if it can be meant.

    Raises:
        ConfigError: A name, path or fingerprint is not what it should be.
    """
    check_site(wish)
    target = target_named(wish.target)
    if wish.simulate and target.simulator is None:
        raise ConfigError(f"target {wish.target} has no simulator; leave --simulate out")
    if wish.user is not None and not _USER.fullmatch(wish.user):
        raise ConfigError(f"{wish.user!r} is not the name of a user")
    if wish.device is not None:
        check_device_id(wish.device)
    if not all(key and value for key, value in wish.tags.items()):
        raise ConfigError("a tag has a key and a value")
    if wish.without_test_boot is not None and wish.firmware is None:
        raise ConfigError("--without-test-boot is about a microcontroller; name it with --firmware")
    return wish


def serial_port(firmware: str) -> str | None:
    """Return the device file in the address of a microcontroller, or None where it has none."""
    if not firmware.startswith(_SERIAL):
        return None
    return firmware.removeprefix(_SERIAL).partition("?")[0]


def read_boxes(path: Path) -> tuple[Wish, ...]:
    """Return the wishes in a ``boxes.toml``.

    Raises:
        ConfigError: It cannot be read, has unknown or wrong entries, or names a box twice.
    """
    data = read_bounded(path, INVENTORY_LIMIT_BYTES)
    try:
        inventory = msgspec.toml.decode(data, type=_Inventory)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not inventory.box or len(inventory.box) > BOXES_LIMIT:
        raise ConfigError(f"{path}: expected 1 to {BOXES_LIMIT} [[box]] entries")
    wishes = tuple(
        _wish(path, number, {**inventory.defaults, **entry, "tags": _tags(inventory, entry)})
        for number, entry in enumerate(inventory.box, 1)
    )
    _check_different(path, "address", [one.address for one in wishes])
    _check_different(path, "device", [one.device for one in wishes if one.device is not None])
    return wishes


def _tags(inventory: _Inventory, entry: dict[str, Any]) -> Any:
    """Return a box's tags over the default ones; what is no table is left to be refused."""
    common, own = inventory.defaults.get("tags", {}), entry.get("tags", {})
    if isinstance(common, dict) and isinstance(own, dict):
        return {**common, **own}
    return own


def _wish(path: Path, number: int, entry: dict[str, Any]) -> Wish:
    try:
        return check_wish(msgspec.convert(entry, Wish))
    except (msgspec.ValidationError, ConfigError) as error:
        name = entry.get("address", f"number {number}")
        raise ConfigError(f"{path}: box {name}: {error}") from error


def _check_different(path: Path, what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ConfigError(f"{path}: two boxes have the {what} {twice[0]!r}")
