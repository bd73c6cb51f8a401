"""Keys that sign images for MCUboot: Ed25519 or ECDSA on P-256, as PEM files.

The private key stays where it was made: it is written for its owner alone, never into a git work
tree, and nothing here returns it. The public half is what a bootloader is built with.
"""

from __future__ import annotations

import hashlib
import os
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded, write_file
from asdic.firmware_bridge.image import (
    ECDSA_SIGNATURE,
    ED25519_SIGNATURE,
    KEY_DIGEST,
    SIGNATURES,
    FirmwareImageError,
    image_parts,
)

KEY_LIMIT_BYTES: Final = 16 << 10
KEY_MODE: Final = 0o600

PublicKey: TypeAlias = Ed25519PublicKey | EllipticCurvePublicKey


class KeyKind(str, Enum):
    """What a key is made of."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"


def make_key(path: Path, kind: KeyKind) -> Path:
    """Make a key, write its private half to ``path`` and return the file of the public one.

    Raises:
        ConfigError: A file is there already, or the place is in a git work tree.
    """
    public_path = path.with_name(f"{path.stem}.pub.pem")
    for file in (path, public_path):
        if file.exists():
            raise ConfigError(f"{file} exists; a key is not replaced, choose another name")
    if (tree := _work_tree(path)) is not None:
        raise ConfigError(
            f"{path} is in the git work tree {tree}; a private key is kept away from sources"
        )
    key = (
        Ed25519PrivateKey.generate()
        if kind is KeyKind.ED25519
        else generate_private_key(SECP256R1())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(path, private, mode=KEY_MODE)
    write_file(
        public_path,
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )
    return public_path


def check_private_key(path: Path) -> PublicKey:
    """Check the file of a private key, and return the public half.

    Raises:
        ConfigError: It is not its owner's alone, or no key that MCUboot images are signed with.
    """
    data = read_bounded(path, KEY_LIMIT_BYTES)
    found = path.stat()
    if found.st_mode & 0o077:
        raise ConfigError(f"others may read the private key {path}; run `chmod 600 {path}`")
    if found.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(f"the private key {path} belongs to another user")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not a private key without a passphrase; make one with `asdic firmware key`"
        ) from error
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
    ):
        return key.public_key()
    raise ConfigError(f"{path} is another kind of key than Ed25519 and ECDSA on P-256")


def read_public_key(path: Path) -> PublicKey:
    """Return the public key in a PEM file.

    Raises:
        ConfigError: There is none that MCUboot images are signed with.
    """
    data = read_bounded(path, KEY_LIMIT_BYTES)
    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{path} holds a private key; give the public one, *.pub.pem")
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not a public key in PEM") from error
    if isinstance(key, Ed25519PublicKey) or (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        return key
    raise ConfigError(f"{path} is another kind of key than Ed25519 and ECDSA on P-256")


def check_signature(data: bytes, key: PublicKey, *, what: str = "the image") -> None:
    """Check that an image was signed with ``key``, as the bootloader does.

    Raises:
        FirmwareImageError: It was not.
    """
    parts = image_parts(data, what=what)
    kind = ED25519_SIGNATURE if isinstance(key, Ed25519PublicKey) else ECDSA_SIGNATURE
    signatures = [value for found, value in parts.plain if found == kind]
    if not {found for found, _ in parts.plain} & SIGNATURES.keys():
        raise FirmwareImageError(f"{what} is not signed")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    expected = hashlib.sha256(der).digest()
    named = [value for found, value in parts.plain if found == KEY_DIGEST]
    if not signatures or expected not in named:
        theirs = named[0].hex()[:12] if named else "no key that it names"
        raise FirmwareImageError(
            f"{what} was signed with another key: {theirs}, not {expected.hex()[:12]}"
        )
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signatures[0], hashlib.sha256(parts.signed).digest())
        else:
            key.verify(signatures[0], parts.signed, ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise FirmwareImageError(f"the signature of {what} is wrong") from error


def _work_tree(path: Path) -> Path | None:
    return next((one for one in path.resolve().parents if (one / ".git").exists()), None)
