"""A device for the fleet's tests: it enrols, fetches and reports for real, and runs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion

from asdic.contract.files import canonical_json
from asdic.contract.messages import (
    MISSING_TYPE,
    PROGRESS_TYPE,
    REPORT_TYPE,
    EnrolBody,
    EnrolGrant,
    EnrolReply,
    EnrolRequest,
    Loaded,
    Missing,
    Presence,
    Progress,
    Refusal,
    Report,
    RuntimeFacts,
    UpdateState,
    chunk_count,
    chunks_filter,
    offer_topic,
    parse_chunk_topic,
    repair_topic,
    up_topic,
)
from asdic.contract.release import Manifest, digest_of, hex_of, parse_manifest
from asdic.contract.trust import Offer, parse_offer, proof_of, public_hex, sign_envelope


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    """Return once ``condition()`` holds; fail with ``what`` if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.02)


def enrolment(
    token: str, device: str, key: Ed25519PrivateKey, target: str, **fields: Any
) -> EnrolRequest:
    """Return a device's proven wish to join."""
    identity, secret = token.split(".")
    body = canonical_json(
        EnrolBody(device=device, public_key=public_hex(key), target=target, **fields)
    )
    return EnrolRequest(
        token_id=identity, body=body.decode(), proof=proof_of(secret.encode(), body)
    )


def enrol_over_http(url: str, request: EnrolRequest, token: str) -> EnrolGrant:
    """Ask the server to take the device in, and check that it knows the claim's secret."""
    answer = httpx.post(
        f"{url}/api/v1/enrol", content=msgspec.json.encode(request), trust_env=False
    )
    assert answer.is_success, answer.text
    reply = msgspec.json.decode(answer.content, type=EnrolReply)
    assert reply.proof == proof_of(token.split(".")[1].encode(), reply.body.encode())
    return msgspec.json.decode(reply.body, type=EnrolGrant)


class PaperBox:
    """One device. ``outcome`` is the state in which it ends each update.

    ``drops`` are chunk numbers that it loses once when they are broadcast, and then asks for.
    """

    def __init__(
        self,
        device: str,
        target: str,
        *,
        outcome: UpdateState = UpdateState.COMMITTED,
        fetches: bool = True,
        drops: tuple[int, ...] = (),
    ) -> None:
        self.device, self.target = device, target
        self.outcome = outcome
        self.fetches = fetches
        self.key = Ed25519PrivateKey.generate()
        self.number = 0
        self.offers: list[Offer | None] = []
        self.broadcast: list[tuple[str, int]] = []
        self.repaired: list[tuple[str, int]] = []
        self.loaded: Loaded | None = None
        self._drops = set(drops)
        self._chunks: dict[str, dict[int, bytes]] = {}
        self._manifest: Manifest | None = None
        self._offer: Offer | None = None
        self._client: mqtt.Client | None = None

    def connect(self, host: str, port: int) -> None:
        """Come online."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.device)
        client.will_set(self._up("presence"), canonical_json(Presence(online=False)), 1, True)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.connect(host, port)
        client.loop_start()
        self._client = client

    def close(self) -> None:
        """Go offline."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def report(self, state: UpdateState, **fields: Any) -> bytes:
        """Sign the next report, send it if online, and return the envelope."""
        self.number += 1
        return self.send_report(self.number, state, **fields)

    def send_report(self, number: int, state: UpdateState, **fields: Any) -> bytes:
        """Sign a report with any number, send it if online, and return the envelope."""
        offer = self._offer
        report = Report(
            device=self.device,
            number=number,
            time_s=time.time(),
            target=self.target,
            state=state,
            **{
                "rollout": offer.rollout if offer else None,
                "loaded": self.loaded,
                "runtime": RuntimeFacts(runtime="litert", version="2.3.0"),
                **fields,
            },
        )
        envelope = sign_envelope(canonical_json(report), REPORT_TYPE, self.key)
        self.publish("reported", envelope, retain=True)
        return envelope

    def publish(self, what: str, payload: bytes, *, retain: bool = False) -> None:
        """Send raw bytes on one of the device's topics."""
        if self._client is not None:
            self._client.publish(self._up(what), payload, 1, retain)

    def ask_for(self, digest: str) -> None:
        """Say that a blob of one chunk is wanted, whether or not it was offered."""
        progress = Progress(blob=hex_of(digest), chunks=1, have=0, first_missing=0)
        self.publish("progress", sign_envelope(canonical_json(progress), PROGRESS_TYPE, self.key))

    def _up(self, what: str) -> str:
        return up_topic(self.device, what)

    def _on_connect(self, client: mqtt.Client, *_args: Any) -> None:
        own = [offer_topic(self.device), f"asdic/v1/{self.device}/down/chunk/+/+"]
        client.subscribe([(topic, 1) for topic in own])
        client.publish(self._up("presence"), canonical_json(Presence(online=True)), 1, True)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        chunk = parse_chunk_topic(message.topic)
        if chunk is not None:
            self._on_chunk(
                *chunk, payload, is_repair=message.topic == repair_topic(self.device, *chunk)
            )
        elif not payload:
            self.offers.append(None)
            self._offer = None
        else:
            self._on_offer(parse_offer(payload))

    def _on_offer(self, offer: Offer) -> None:
        self.offers.append(offer)
        if self._offer is not None and self._offer.rollout == offer.rollout:
            return
        self._offer = offer
        manifests = [
            (digest, text) for digest, text in offer.documents.items() if '"layers"' in text
        ]
        self._digest, text = manifests[0]
        self._manifest = parse_manifest(text.encode())
        self.report(UpdateState.OFFERED)
        if self.fetches:
            self._fetch(self._manifest)

    def _fetch(self, manifest: Manifest) -> None:
        self.report(UpdateState.FETCHING)
        self._chunks = {blob.digest: {} for blob in manifest.layers}
        assert self._client is not None
        for blob in manifest.layers:
            self._client.subscribe(chunks_filter(hex_of(blob.digest)), 1)
            self._send_progress(blob.digest)

    def _on_chunk(self, sha256: str, number: int, data: bytes, *, is_repair: bool) -> None:
        digest = f"sha256:{sha256}"
        (self.repaired if is_repair else self.broadcast).append((digest, number))
        if digest not in self._chunks:
            return
        if number in self._drops and not is_repair:
            self._drops.discard(number)
            self._ask_again(digest, number)
            return
        self._chunks[digest][number] = data
        self._send_progress(digest)
        if all(self._is_complete(one) for one in self._chunks):
            self._finish()

    def _ask_again(self, digest: str, number: int) -> None:
        missing = canonical_json(Missing(blob=hex_of(digest), ranges=((number, number),)))
        self.publish("missing", sign_envelope(missing, MISSING_TYPE, self.key))

    def _send_progress(self, digest: str) -> None:
        have = self._chunks[digest]
        total = self._total(digest)
        first = next((n for n in range(total) if n not in have), total)
        progress = Progress(blob=hex_of(digest), chunks=total, have=len(have), first_missing=first)
        self.publish("progress", sign_envelope(canonical_json(progress), PROGRESS_TYPE, self.key))

    def _total(self, digest: str) -> int:
        assert self._manifest is not None
        return chunk_count(next(b.size for b in self._manifest.blobs if b.digest == digest))

    def _is_complete(self, digest: str) -> bool:
        return len(self._chunks[digest]) == self._total(digest)

    def _finish(self) -> None:
        assert self._manifest is not None
        for digest, chunks in self._chunks.items():
            assert digest_of(b"".join(chunks[n] for n in sorted(chunks))) == digest
        self._chunks = {}
        if self.outcome is UpdateState.COMMITTED:
            version = self._manifest.annotations["org.opencontainers.image.version"]
            self.loaded = Loaded(manifest=self._digest, version=version, pid=1, inferences=3)
            self.report(UpdateState.COMMITTED)
        else:
            refusal = Refusal(code="golden-mismatch", message="outputs differ by 0.5")
            self.report(self.outcome, refusal=refusal)
