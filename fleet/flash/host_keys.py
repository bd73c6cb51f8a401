"""Which boxes are who they say: host keys that are pinned, and never taken on trust.

asdic keeps a file of its own in the operator's state folder, beside the user's ``known_hosts``; for
a host in both, asdic's counts. A key that neither knows is refused with its fingerprint. A person
who has compared the fingerprint accepts that very key, and no other.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final

import paramiko

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded, write_file

USER_FILE: Final = Path("~/.ssh/known_hosts")
_LIMIT_BYTES: Final = 4 << 20


class HostKeyError(ConfigError):
    """The box shows a key that nobody vouched for: compare its fingerprint at the box."""


class KnownHosts:
    """The keys of asdic's own file and of the user's."""

    def __init__(self, own: Path, user: Path | None = None) -> None:
        self._own = own
        self._user = USER_FILE.expanduser() if user is None else user

    def keys_of(self, name: str) -> tuple[paramiko.PKey, ...]:
        """Return the keys that are pinned for ``name`` (``host``, or ``[host]:port``)."""
        for path in (self._own, self._user):
            found = _read(path).lookup(name)
            if found:
                return tuple(found.values())
        return ()

    def pin(self, name: str, key: paramiko.PKey) -> None:
        """Take ``key`` for the one key of ``name`` from now on."""
        known = read_bounded(self._own, _LIMIT_BYTES).decode() if self._own.exists() else ""
        lines = [line for line in known.splitlines() if line.split(" ")[0] != name]
        lines.append(f"{name} {key.get_name()} {key.get_base64()}")
        write_file(self._own, "".join(f"{line}\n" for line in lines).encode(), mode=0o600)


class PinnedKeys(paramiko.MissingHostKeyPolicy):
    """Refuses every key but the one whose fingerprint a person has accepted."""

    def __init__(self, hosts: KnownHosts, accepted: str | None) -> None:
        self._hosts = hosts
        self._accepted = accepted

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Pin an accepted key.

        Raises:
            HostKeyError: It is not the accepted one.
        """
        if fingerprint(key) != self._accepted:
            raise unknown(hostname, key)
        self._hosts.pin(hostname, key)
        client.get_host_keys().add(hostname, key.get_name(), key)


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's fingerprint as ``ssh-keygen -l`` writes it."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def check_fingerprint(text: str) -> str:
    """Return ``text`` if it is a fingerprint.

    Raises:
        ConfigError: It is not.
    """
    kind, _, digest = text.partition(":")
    if kind != "SHA256" or len(digest) != 43:
        raise ConfigError(
            f"{text!r} is not a fingerprint; it looks like SHA256:… with 43 characters, "
            "as `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints it on the box"
        )
    return text


def unknown(name: str, key: paramiko.PKey) -> HostKeyError:
    """Return the refusal of a key that is not pinned."""
    return HostKeyError(
        f"the host key of {name} is not known: {key.get_name()} {fingerprint(key)}; compare it at "
        f"the box (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then accept it with "
        f"--accept-host-key {fingerprint(key)}"
    )


def changed(name: str, got: paramiko.PKey, expected: paramiko.PKey) -> HostKeyError:
    """Return the refusal of a key that is not the pinned one."""
    return HostKeyError(
        f"the host key of {name} has CHANGED: it is {got.get_name()} {fingerprint(got)}, pinned is "
        f"{fingerprint(expected)}; somebody may be listening, or the box was installed anew. "
        f"Compare it at the box, and only then accept it with --accept-host-key {fingerprint(got)}"
    )


def _read(path: Path) -> paramiko.HostKeys:
    """Return the keys in a file; a file that is not there has none, an odd line is none."""
    keys = paramiko.HostKeys()
    if path.is_file():
        read_bounded(path, _LIMIT_BYTES)
        keys.load(str(path))
    return keys
