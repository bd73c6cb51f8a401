"""Results on their way: signed by the device that measured, or plain from a server."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.bench import (
    BENCH_ENVELOPE_LIMIT_BYTES,
    BENCH_LIMIT_BYTES,
    BENCH_TYPE,
    BenchReport,
    parse_bench,
)
from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import canonical_json, parse_json, read_bounded
from asdic.contract.trust import Envelope, open_envelope, sign_envelope

FILE_LIMIT_BYTES: Final = BENCH_ENVELOPE_LIMIT_BYTES


@dataclass(frozen=True)
class SignedResult:
    """A result read from a file; ``signer`` is the public key (hex) that vouches for it, or None.

    ``claimed_keys`` are the key ids in the envelope, whether or not anyone trusts them.
    """

    report: BenchReport
    signer: str | None
    claimed_keys: tuple[str, ...] = ()


def sign_result(report: BenchReport, key: Ed25519PrivateKey) -> bytes:
    """Return ``report`` in an envelope signed by the device's key.

    Raises:
        ConfigError: It is larger than a reader would accept.
    """
    payload = canonical_json(report)
    if len(payload) > BENCH_LIMIT_BYTES:
        raise ConfigError(
            f"the result has {len(payload)} bytes, at most {BENCH_LIMIT_BYTES} are accepted; "
            "measure fewer numbers of threads at a time"
        )
    return sign_envelope(payload, BENCH_TYPE, key)


def read_result(path: Path, *, trusted: Iterable[str] = ()) -> SignedResult:
    """Return the result in ``path``, plain or signed.

    Args:
        path: What ``asdic bench --json`` or ``asdic-agent bench --json`` wrote.
        trusted: Public keys (64 hex digits) of the devices whose signature counts.

    Raises:
        ConfigError: It cannot be read, or is no result.
    """
    data = read_bounded(path, FILE_LIMIT_BYTES)
    if b'"payloadType"' not in data[:FILE_LIMIT_BYTES]:
        return SignedResult(report=parse_bench(data, what=str(path)), signer=None)
    return _signed(data, path, tuple(trusted))


def _signed(data: bytes, path: Path, trusted: tuple[str, ...]) -> SignedResult:
    envelope = parse_json(data, Envelope, what=str(path))
    for public_key in trusted:
        try:
            payload = open_envelope(data, BENCH_TYPE, public_key, limit_bytes=FILE_LIMIT_BYTES)
        except ReleaseError:
            continue
        return SignedResult(report=parse_bench(payload, what=str(path)), signer=public_key)
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
    except binascii.Error as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    return SignedResult(
        report=parse_bench(payload, what=str(path)),
        signer=None,
        claimed_keys=tuple(one.keyid for one in envelope.signatures),
    )


def check_public_key(text: str) -> str:
    """Return a public key as 64 hex digits.

    Raises:
        ConfigError: It is none.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ConfigError(f"{text!r} is no public key; one has 64 hex digits")
    return text.lower()
