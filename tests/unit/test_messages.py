"""Topics, envelopes and ids: what both ends of the wire agree on."""

from __future__ import annotations

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.messages import (
    CHUNK_BYTES,
    PROGRESS_TYPE,
    REPORT_TYPE,
    Report,
    UpdateState,
    check_device_id,
    chunk_count,
    chunk_topic,
    offer_topic,
    parse_chunk_topic,
    repair_topic,
)
from asdic.contract.trust import (
    ENVELOPE_LIMIT_BYTES,
    OFFER_LIMIT_BYTES,
    Offer,
    open_envelope,
    parse_offer,
    public_hex,
    sign_envelope,
)

KEY = Ed25519PrivateKey.generate()
PUBLIC = public_hex(KEY)


@given(st.binary(max_size=2000))
def test_a_signed_message_comes_back_as_it_went_in(payload: bytes) -> None:
    assert open_envelope(sign_envelope(payload, REPORT_TYPE, KEY), REPORT_TYPE, PUBLIC) == payload


def test_another_key_is_refused() -> None:
    envelope = sign_envelope(b"x", REPORT_TYPE, Ed25519PrivateKey.generate())
    with pytest.raises(ReleaseError, match="is not signed by key"):
        open_envelope(envelope, REPORT_TYPE, PUBLIC)


def test_a_progress_never_passes_for_a_report() -> None:
    with pytest.raises(ReleaseError, match=r"expected a signed \S+report\S+, got \S+progress"):
        open_envelope(sign_envelope(b"x", PROGRESS_TYPE, KEY), REPORT_TYPE, PUBLIC)


def test_a_changed_payload_is_refused() -> None:
    envelope = msgspec.json.decode(sign_envelope(b"x", REPORT_TYPE, KEY))
    envelope["payload"] = base64.b64encode(b"y").decode()
    with pytest.raises(ReleaseError, match="is not signed"):
        open_envelope(msgspec.json.encode(envelope), REPORT_TYPE, PUBLIC)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[]", b"{}", b'{"payloadType":"x","payload":"?","signatures":[]}']
)
def test_what_is_no_envelope_is_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises(ReleaseError, match="the signed message is damaged"):
        open_envelope(data, REPORT_TYPE, PUBLIC)


def test_a_huge_message_is_refused_unread() -> None:
    with pytest.raises(ReleaseError, match="larger than asdic accepts"):
        open_envelope(b" " * (ENVELOPE_LIMIT_BYTES + 1), REPORT_TYPE, PUBLIC)


def test_a_huge_offer_is_refused_unread() -> None:
    with pytest.raises(ReleaseError, match="at most"):
        parse_offer(b" " * (OFFER_LIMIT_BYTES + 1))


def test_an_offer_of_a_later_format_is_refused_by_name() -> None:
    offer = Offer(format="asdic-offer/2", device="box", rollout="r", image={}, director={})
    with pytest.raises(ReleaseError, match="'asdic-offer/2'"):
        parse_offer(canonical_json(offer))


def test_unknown_fields_of_a_message_are_ignored() -> None:
    report = Report(device="box", number=1, time_s=0.0, target="t", state=UpdateState.IDLE)
    later = {**msgspec.to_builtins(report), "mood": "good"}
    assert msgspec.json.decode(msgspec.json.encode(later), type=Report) == report


@pytest.mark.parametrize("device", ["", "Box", "a/b", "a+", "#", "a.b", "-a", "a" * 64, "b\n"])
def test_ids_that_cannot_stand_in_a_topic_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="is not a device id"):
        check_device_id(device)


def test_chunk_topics_are_read_back() -> None:
    digest = "ab" * 32
    assert parse_chunk_topic(chunk_topic(digest, 7)) == (digest, 7)
    assert parse_chunk_topic(repair_topic("box-1", digest, 8)) == (digest, 8)
    assert parse_chunk_topic(offer_topic("box-1")) is None
    assert parse_chunk_topic(chunk_topic(digest, -1)) is None


def test_chunks_cover_a_blob_and_no_more() -> None:
    sizes = (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1)
    assert [chunk_count(size) for size in sizes] == [0, 1, 1, 2]
