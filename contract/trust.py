"""Rules of trust that both ends share: signed envelopes, the offer, names in TUF metadata.

Two TUF repositories speak about every release. The *image* repository (keys of the release's
author, offline-capable) says what a release is; the *director* (keys of the fleet manager, one
set of metadata a device) says which one this device gets. A device takes a release only where
both agree. Envelopes are DSSE: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import canonical_json, parse_json

OFFER_FORMAT: Final = "asdic-offer/1"
OFFER_LIMIT_BYTES: Final = 768 << 10
METADATA_LIMIT_BYTES: Final = 512 << 10
ENVELOPE_LIMIT_BYTES: Final = 256 << 10


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """All signed metadata that one device needs for one decision, in one bundle.

    ``image`` and ``director`` map the file names of a TUF repository with consistent snapshots
    (``1.root.json``, ``timestamp.json``, ``7.snapshot.json``, ``3.targets.json``) to their text.
    ``documents`` maps digests to the text of the variant's manifest and description, so that a
    device can refuse before it downloads anything. Nothing in here is trusted before it is
    checked; the same bundle serves MQTT, HTTP and a folder.
    """

    format: str = OFFER_FORMAT
    device: str
    rollout: str
    image: dict[str, str]
    director: dict[str, str]
    documents: dict[str, str] = {}


class ReleaseFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The signed ``custom`` part of a TUF target: what the manifest is for.

    The image repository and the director must state the same facts.
    """

    version: str
    hardware: tuple[str, ...]
    security_counter: int


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature of an envelope, base64."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope: the payload's exact bytes (base64) and who signed them."""

    payload_type: str
    payload: str
    signatures: tuple[Signature, ...]


def target_path(version: str, target: str) -> str:
    """Return the name of a variant's manifest in both TUF repositories."""
    return f"{version}/{target}.json"


def parse_offer(data: bytes) -> Offer:
    """Return the offer in ``data``; its content is not trusted yet.

    Raises:
        ReleaseError: It is too large, or not an offer that this asdic knows.
    """
    if len(data) > OFFER_LIMIT_BYTES:
        raise ReleaseError(
            f"the offer has {len(data)} bytes, at most {OFFER_LIMIT_BYTES} are accepted"
        )
    try:
        offer = parse_json(data, Offer, what="the offer")
    except ConfigError as error:
        raise ReleaseError(str(error)) from error
    if offer.format != OFFER_FORMAT:
        raise ReleaseError(
            f"the offer has format {offer.format!r}, this asdic reads {OFFER_FORMAT!r}"
        )
    return offer


def public_hex(key: Ed25519PublicKey | Ed25519PrivateKey) -> str:
    """Return the 32 bytes of the public key as 64 hex digits."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def key_id(public_key_hex: str) -> str:
    """Return the short name of a key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(bytes.fromhex(public_key_hex)).hexdigest()[:16]


def sign_envelope(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> bytes:
    """Return ``payload`` in a signed envelope, as JSON."""
    signature = key.sign(_pre_authentication_encoding(payload_type, payload))
    return canonical_json(
        Envelope(
            payload_type=payload_type,
            payload=base64.b64encode(payload).decode(),
            signatures=(
                Signature(keyid=key_id(public_hex(key)), sig=base64.b64encode(signature).decode()),
            ),
        )
    )


def claimed_type(data: bytes, *, limit_bytes: int = ENVELOPE_LIMIT_BYTES) -> str | None:
    """Return which type an envelope says it is of, or None; nothing has vouched for it yet."""
    if len(data) > limit_bytes:
        return None
    try:
        return parse_json(data, Envelope, what="the signed message").payload_type
    except ConfigError:
        return None


def open_envelope(
    data: bytes,
    payload_type: str,
    public_key_hex: str,
    *,
    limit_bytes: int = ENVELOPE_LIMIT_BYTES,
) -> bytes:
    """Return the payload of an envelope that the holder of the key signed.

    Raises:
        ReleaseError: It is not an envelope, is of another type, or no signature is by this key.
    """
    if len(data) > limit_bytes:
        raise ReleaseError(f"a signed message of {len(data)} bytes is larger than asdic accepts")
    try:
        envelope = parse_json(data, Envelope, what="the signed message")
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [base64.b64decode(one.sig, validate=True) for one in envelope.signatures]
    except (ConfigError, binascii.Error) as error:
        raise ReleaseError(f"the signed message is damaged: {error}") from error
    if envelope.payload_type != payload_type:
        raise ReleaseError(f"expected a signed {payload_type}, got {envelope.payload_type}")
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex))
    message = _pre_authentication_encoding(payload_type, payload)
    if not any(_is_signed(key, signature, message) for signature in signatures):
        raise ReleaseError(f"the message is not signed by key {key_id(public_key_hex)}")
    return payload


def proof_of(secret: bytes, message: bytes) -> str:
    """Return the HMAC-SHA256 of ``message``, hex: whoever made it knows the claim's secret."""
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def _pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _is_signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
