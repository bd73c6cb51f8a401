"""Signing keys as files: one Ed25519 key a role, PEM, readable by their owner only.

A key is made once and never overwritten: whoever loses a root key loses the fleet's trust.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded, write_file

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
_KEY_LIMIT_BYTES: Final = 16 << 10


class KeyFolder:
    """The private keys of one TUF repository, ``<role>.pem`` each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, role: str) -> Path:
        """Return where the key of ``role`` lies, or would lie."""
        return self.folder / f"{role}.pem"

    def create(self, roles: Iterable[str] = ROLES) -> tuple[Path, ...]:
        """Make the keys that do not exist yet and return their paths."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        absent = [self.path(role) for role in roles if not self.path(role).exists()]
        for path in absent:
            write_file(path, CryptoSigner.generate_ed25519().private_bytes, mode=0o600)
        return tuple(absent)

    def has(self, role: str) -> bool:
        """Return whether the key of ``role`` is here and not kept elsewhere."""
        return self.path(role).is_file()

    def signer(self, role: str) -> CryptoSigner:
        """Return the key of ``role``.

        Raises:
            ConfigError: It is missing, or not an unencrypted Ed25519 key in PEM.
        """
        return CryptoSigner(self.private_key(role))

    def private_key(self, role: str) -> Ed25519PrivateKey:
        """Return the key of ``role``, for what is signed beside TUF; raises as ``signer`` does."""
        path = self.path(role)
        if not path.is_file():
            raise ConfigError(f"the {role} key is missing: expected it at {path}")
        try:
            key = load_pem_private_key(read_bounded(path, _KEY_LIMIT_BYTES), password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is not an unencrypted private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds another kind of key; expected Ed25519")
        return key
