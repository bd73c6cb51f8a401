"""Where everything lies on a flashed box.

One folder, the prefix, holds each installed version beside the others; the symlink ``current``
says which one runs. What the device learns and must keep is in the state folder, apart from it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

import msgspec

SERVICE: Final = "asdic-agent"
SYSTEMD_FOLDER: Final = PurePosixPath("/etc/systemd/system")
RUNIT_FOLDER: Final = PurePosixPath("/etc/sv")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The paths of one installation on a box.

    Attributes:
        prefix: Holds the versions, as ``/opt/asdic``.
        version: Name of this installation's folder: asdic's version and what was installed with
            it, as ``0.1.0-3f9ac01b22d4``.
        state: The device's state folder, as ``/var/lib/asdic``.
        user: Who runs the agent.
        target: What the box is, as ``arm64-litert-int8``.
        groups: Further groups that the agent needs, as ``video`` for a GPU.
        run_options: What ``asdic-agent run`` is told beside its state folder, as
            ``("--frames", "ring:probe")``.
        service_folder: Where the service is put, where that is not the usual place.
    """

    prefix: PurePosixPath
    version: str
    state: PurePosixPath
    user: str
    target: str
    groups: tuple[str, ...] = ()
    run_options: tuple[str, ...] = ()
    service_folder: PurePosixPath | None = None

    @property
    def root(self) -> PurePosixPath:
        """The folder of this version, which is its virtual environment."""
        return self.prefix / self.version

    @property
    def python(self) -> PurePosixPath:
        """The interpreter of this version."""
        return self.root / "bin" / "python"

    @property
    def marker(self) -> PurePosixPath:
        """What this version consists of; written last, so what has none is not complete."""
        return self.root / "asdic-flash.json"

    @property
    def current(self) -> PurePosixPath:
        """The symlink to the version that runs."""
        return self.prefix / "current"

    @property
    def previous(self) -> PurePosixPath:
        """The symlink to the version that ran before."""
        return self.prefix / "previous"

    @property
    def incoming(self) -> PurePosixPath:
        """Where files arrive, each under its digest, until they are installed."""
        return self.prefix / "incoming"

    @property
    def agent(self) -> PurePosixPath:
        """The agent of the version that runs, as the service starts it."""
        return self.current / "bin" / "asdic-agent"

    @property
    def run_command(self) -> tuple[str, ...]:
        """What the service starts."""
        return (str(self.agent), "run", "--state", str(self.state), *self.run_options)

    @property
    def systemd_unit(self) -> PurePosixPath:
        """The file of the systemd unit."""
        return (self.service_folder or SYSTEMD_FOLDER) / f"{SERVICE}.service"

    @property
    def runit_service(self) -> PurePosixPath:
        """The folder of the runit service, which holds ``run``."""
        return (self.service_folder or RUNIT_FOLDER) / SERVICE
