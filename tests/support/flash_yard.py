"""A yard for flashing: a manager with a release, an sshd, and a box that is a folder of it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from asdic.contract.files import sha256_of
from asdic.contract.variant import FileRef
from asdic.fleet.flash.cargo import Wheels
from asdic.fleet.flash.flash import Flash, Outcome
from asdic.fleet.flash.shore import Shore
from asdic.fleet.flash.ssh import SshSession
from asdic.fleet.flash.unflash import Unflash
from asdic.fleet.flash.wheelhouse import build_wheelhouse
from asdic.fleet.flash.wish import Site, Wish, check_wish
from asdic.fleet.view import DeviceView
from tests.conftest import missing
from tests.support.paper_box import wait_for
from tests.support.ssh_cable import Cable, CutSession

TARGET: Final = "x86-litert-int8"
AGENT_PACKAGES: Final = {
    *("asdic", "pip", "click", "msgspec", "cryptography", "cffi", "pycparser", "paho_mqtt"),
    *("psutil", "tuf", "securesystemslib", "urllib3", "typing_extensions"),
}
"""What the agent imports; a runner needs more."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Door:
    """An sshd of ours on loopback: its address, the key that it lets in, its own fingerprint."""

    address: str
    identity: Path
    fingerprint: str

    def answers(self) -> bool:
        """Return whether somebody listens."""
        try:
            socket.create_connection(("127.0.0.1", int(self.address.split(":")[1])), 1.0).close()
        except OSError:
            return False
        return True


@contextmanager
def open_door(folder: Path, **further: object) -> Iterator[Door]:
    """Run an sshd that needs no root, with keys of its own, while the block runs.

    Args:
        folder: Where its files lie.
        further: More settings of its configuration, as ``ForceCommand``.
    """
    door, words = make_door(folder, **further)
    with subprocess.Popen(words) as process:
        try:
            wait_for(door.answers, "sshd answers")
            yield door
        finally:
            process.terminate()


def make_door(folder: Path, **further: object) -> tuple[Door, tuple[str, ...]]:
    """Make an sshd's keys and configuration; return the way in, and the words that run it."""
    if (program := shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        missing("sshd is not installed; install the Debian package openssh-server")
    if os.geteuid() == 0:
        # Debian's start script makes it, which nobody has run here.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder.mkdir(parents=True)
    host, user = (make_key(folder / name) for name in ("host", "user"))
    (folder / "authorized_keys").write_bytes(user.with_suffix(".pub").read_bytes())
    port = free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": host,
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": folder / "pid",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "MaxStartups": 100,
        **further,
    }
    (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    words = (str(program), "-D", "-f", str(folder / "config"), "-E", str(folder / "log"))
    return Door(f"{getpass.getuser()}@127.0.0.1:{port}", user, fingerprint_of(host)), words


def make_key(path: Path) -> Path:
    """Make a key pair and return the private one's file."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def fingerprint_of(key: Path) -> str:
    """Return what ssh-keygen says of a key."""
    said = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True)
    return said.stdout.split()[1]


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@dataclass(frozen=True)
class WheelFolder:
    """Wheels in a folder."""

    folder: Path

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Return what lies there."""
        return tuple(
            FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
            for path in sorted(self.folder.glob("*.whl"))
        )


def wheels_for_here(python: str | None = None) -> Wheels:
    """Return the wheels for this machine, and for this or another Python; they are kept."""
    return build_wheelhouse(
        Path("~/.cache/asdic/wheelhouse").expanduser(),
        architecture=platform.machine(),
        python=python or "{}.{}".format(*sys.version_info),
        runtime="litert",
        progress=lambda _words: None,
    )


def light_wheels(wheels: Wheels, folder: Path) -> WheelFolder:
    """Leave out what only a runner needs: numpy, OpenCV and the runtime."""
    folder.mkdir(parents=True)
    for file in wheels.files:
        if file.name.split("-")[0] in AGENT_PACKAGES:
            os.link(wheels.folder / file.name, folder / file.name)
    return WheelFolder(folder)


def other_version(
    wheels: Wheels, folder: Path, version: str, *, changed: Mapping[str, str] | None = None
) -> WheelFolder:
    """Make the wheels of another version of asdic, with some of its files changed."""
    folder.mkdir(parents=True)
    for file in wheels.files:
        if not file.name.startswith("asdic-"):
            os.link(wheels.folder / file.name, folder / file.name)
            continue
        old = file.name.split("-")[1]
        new = folder / file.name.replace(old, version, 1)
        with (
            zipfile.ZipFile(wheels.folder / file.name) as source,
            zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as to,
        ):
            for name in source.namelist():
                text = source.read(name)
                if ".dist-info/" in name:
                    text = text.replace(old.encode(), version.encode())
                if changed and name in changed:
                    text = changed[name].encode()
                to.writestr(name.replace(f"asdic-{old}.", f"asdic-{version}."), text)
    return WheelFolder(folder)


@dataclass
class FlashYard:
    """A manager, an sshd, and the place of one box.

    Attributes:
        folder: Holds the manager's folders.
        box: Holds the box's prefix, state and services.
        door: The sshd.
        wheels: What a wheelhouse brings.
        device: The box's name in the fleet.
        said: What the flashes said.
    """

    folder: Path
    box: Path
    door: Door
    wheels: Wheels
    device: str = "box7"
    said: list[str] = field(default_factory=list)

    @property
    def shore(self) -> Shore:
        """The manager's side."""
        return Shore(self.folder / "fleet", self.folder / "releases")

    @property
    def known(self) -> DeviceView:
        """What the manager knows of the box."""
        known = self.shore.device(self.device)
        assert known is not None
        return known

    @property
    def prefix(self) -> Path:
        """Where asdic is installed."""
        return self.box / "opt"

    @property
    def state(self) -> Path:
        """The device's own folder."""
        return self.box / "state"

    @property
    def current(self) -> str | None:
        """The version that runs."""
        link = self.prefix / "current"
        return link.readlink().name if link.is_symlink() else None

    @property
    def activation(self) -> str:
        """Where the last switch stands."""
        return str(json.loads((self.prefix / "activation.json").read_text())["state"])

    @property
    def tree(self) -> dict[str, float]:
        """Every file of the box with the time of its last change."""
        return {
            str(path): path.lstat().st_mtime
            for top in (self.prefix, self.state, self.box / "services")
            for path in sorted(top.rglob("*"))
            if path.is_file() and path.name != "flash.lock"
        }

    def other(self, name: str, wheels: Wheels) -> FlashYard:
        """Return a yard with another box and the same manager and sshd."""
        box = self.folder / name
        box.mkdir()
        return replace(self, box=box, device=name, wheels=wheels, said=[])

    def site(self, **fields: Any) -> Site:
        """Return where the installation is."""
        wish = self.wish()
        return Site(**{name: getattr(wish, name) for name in Site.__struct_fields__} | fields)

    def wish(self, **fields: Any) -> Wish:
        """Return a wish for the box."""
        wish = {
            "address": self.door.address,
            "target": TARGET,
            "release": "1.0.0",
            "device": self.device,
            "prefix": str(self.prefix),
            "state": str(self.state),
            "service": "none",
            "service_folder": str(self.box / "services"),
            "runit_scan": str(self.folder / "scan"),
            "user": getpass.getuser(),
            "python": os.path.realpath(sys.executable),
            "identity": str(self.door.identity),
            "accept_host_key": self.door.fingerprint,
            "tags": {"ward": "icu"},
            "patience_s": 60.0,
        }
        return check_wish(Wish(**{**wish, **fields}))

    def flash(self, *, cable: Cable | None = None, **fields: Any) -> Outcome:
        """Flash the box."""
        return self.fulfil(self.wish(**fields), cable=cable)

    def fulfil(self, wish: Wish, *, cable: Cable | None = None) -> Outcome:
        """Flash the box as it is wished."""

        def work(flash: Flash) -> Outcome:
            flash.examine()
            return flash.carry_out()

        return self.with_flash(work, wish, cable=cable)

    def with_flash(
        self, work: Callable[[Flash], _T], wish: Wish | None = None, *, cable: Cable | None = None
    ) -> _T:
        """Return what ``work`` makes of a flash over a connection of its own."""
        wish = wish or self.wish()
        session = self.open(wish)
        try:
            flash = Flash(
                session if cable is None else CutSession(session, cable),
                wish,
                shore=self.shore,
                wheelhouse=lambda **_: self.wheels,
                say=self.said.append,
            )
            return work(flash)
        finally:
            session.close()

    def unflash(self, *, keep_identity: bool = False) -> tuple[str, ...]:
        """Take everything off the box."""
        site = self.site()
        session = self.open(site)
        try:
            work = Unflash(session, site)
            work.examine()
            return work.carry_out(keep_identity=keep_identity, say=self.said.append)
        finally:
            session.close()

    def open(self, site: Site) -> SshSession:
        """Connect."""
        return SshSession.open(
            site.address,
            hosts=self.shore.hosts,
            accepted=site.accept_host_key,
            identity=site.identity,
        )
