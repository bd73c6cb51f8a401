"""The device's own key: made on the device, and never anywhere else."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded
from asdic.device.config import StateFolder
from asdic.device.update.storage import Storage

KEY_LIMIT_BYTES: Final = 4 << 10
KEY_MODE: Final = 0o600


def make_key(state: StateFolder, storage: Storage) -> Ed25519PrivateKey:
    """Return the device's key, made now if it has none: the key stays for the device's life."""
    if state.key.exists():
        return read_key(state)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    storage.make_folder(state.key.parent)
    state.key.parent.chmod(0o700)
    storage.write(state.key, pem, mode=KEY_MODE)
    return key


def read_key(state: StateFolder) -> Ed25519PrivateKey:
    """Return the device's key.

    Raises:
        ConfigError: It is missing, damaged, or others may read it.
    """
    data = read_bounded(state.key, KEY_LIMIT_BYTES)
    if state.key.stat().st_mode & 0o077:
        raise ConfigError(f"others may read {state.key}; set its mode to 0600, and enrol anew")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{state.key} is damaged: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{state.key} is not an Ed25519 key")
    return key
