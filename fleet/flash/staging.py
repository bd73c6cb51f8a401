"""Bring files to a box and make a version of them: nothing that runs there is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from asdic.contract.errors import InstallError
from asdic.fleet.flash.cargo import File, Version
from asdic.fleet.flash.layout import Layout
from asdic.fleet.flash.remote import Remote

STEP_S: Final = 300.0
BUILD_S: Final = 1800.0
UPLOAD_S: Final = 3600.0
GRACE_S: Final = 60.0
SAY_BYTES: Final = 4 << 20


class Staging:
    """The part of a box that waits to be switched to.

    Args:
        remote: How to work on the box.
        layout: Where everything goes.
        say: Is told how much has arrived.

    Attributes:
        sent_bytes: How much was sent.
    """

    def __init__(self, remote: Remote, layout: Layout, *, say: Callable[[str], None]) -> None:
        self._remote = remote
        self._layout = layout
        self._say = say
        self.sent_bytes = 0

    def prepare(self) -> None:
        """Make the agent's user and its state folder, where they are not there."""
        self._do("prepare", state=str(self._layout.state), user=self._layout.user)

    def upload(self, files: Iterable[File]) -> None:
        """Send the files that are not on the box yet."""
        wanted = {one.name: one for one in files}
        absent = self._do(
            "missing",
            folder=str(self._layout.incoming),
            files=[(one.name, one.size_bytes) for one in wanted.values()],
        )
        self.send([wanted[name] for name in absent if name in wanted])

    def send(self, files: Sequence[File]) -> None:
        """Send files, whatever is there."""
        total_bytes, said_bytes = sum(one.size_bytes for one in files), 0
        if total_bytes > SAY_BYTES:
            self._say(f"uploads {len(files)} files, {total_bytes >> 20} MiB")
        for one in files:
            self._do(
                "receive",
                folder=str(self._layout.incoming),
                name=one.name,
                sha256=one.sha256,
                size_bytes=one.size_bytes,
                payload=one.pieces(),
                wait_s=UPLOAD_S,
            )
            self.sent_bytes += one.size_bytes
            said_bytes += one.size_bytes
            if one.size_bytes > SAY_BYTES:
                self._say(f"{said_bytes >> 20} of {total_bytes >> 20} MiB have arrived")

    def build(self, version: Version, *, python: str) -> None:
        """Make the version out of the wheels that were uploaded, with the box's ``python``.

        Raises:
            InstallError: It cannot be made; nothing of it is left.
        """
        self._do(
            "build",
            version=version.name,
            folder=str(self._layout.incoming),
            python=python,
            system_packages=version.system_packages,
            pip=version.pip.name,
            wheels=[(one.name, one.sha256) for one in version.files],
            marker=msgspec.to_builtins(version.marker),
            wait_s=BUILD_S,
        )

    def run_agent(self, words: Sequence[str], *, stdin: bytes) -> None:
        """Run the version's ``asdic-agent`` as its user.

        Raises:
            InstallError: It fails; the message is its last line.
        """
        answer = self._do(
            "as-user",
            words=[str(self._layout.root / "bin" / "asdic-agent"), *words],
            user=self._layout.user,
            payload_bytes=len(stdin),
            payload=[stdin],
        )
        if answer["code"] != 0:
            lines = answer["err"].strip().splitlines() or ["it said nothing"]
            raise InstallError(f"{self._remote.session.name}: {lines[-1]}")

    def digests(self) -> dict[str, str]:
        """Return the digest of each file of the version, by its name in its folder."""
        found: dict[str, str] = self._do("digests", version=self._layout.version, wait_s=BUILD_S)
        return found

    def tidy(self) -> None:
        """Remove what arrived, and all versions but the one that runs and the one before."""
        self._do("tidy")

    def _do(
        self, step: str, *, payload: Iterable[bytes] = (), wait_s: float = STEP_S, **further: Any
    ) -> Any:
        prefix = str(self._layout.prefix)
        arguments = {"step": step, "prefix": prefix, "timeout_s": wait_s, **further}
        return self._remote.call("stage", arguments, payload=payload, timeout_s=wait_s + GRACE_S)
