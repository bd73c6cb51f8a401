"""What travels between a device and its manager: topics, messages, and how a transfer goes.

A transfer, in the order of its messages:

1. The manager retains an ``Offer`` on ``down/offer``. The device checks it, and either reports a
   refusal or subscribes to ``asdic/v1/blob/<sha256>/chunk/+`` for each blob that it lacks.
2. The device sends a ``Progress`` for each such blob, at once (that is how it says that it is
   subscribed), then after every ``PROGRESS_EVERY`` chunks and at least every
   ``PROGRESS_INTERVAL_S`` while a blob is incomplete.
3. The manager broadcasts the chunks that some device lacks, each once, never more than a window
   ahead of the slowest device that is making progress. A chunk is the raw bytes
   ``blob[n * CHUNK_BYTES:(n + 1) * CHUNK_BYTES]``; nothing but its digest proves it.
4. A device that got no chunk for ``REPAIR_AFTER_S`` sends ``Missing``; the manager answers on its
   own ``down/chunk/<sha256>/<n>`` topics. A restarted device goes on from its bitmap at step 2.
5. Every change of the update's state is a signed, numbered ``Report`` on ``up/reported``
   (retained). Only a report in state ``committed`` counts as success.

A device whose state folder is an old copy uses numbers again. Two reports with one number prove
it; the manager then sends ``LastNumber``, and the device goes on with larger ones.

``Report``, ``Progress`` and ``Missing`` travel in an envelope signed by the device's key
(``trust.sign_envelope`` with the type below), so any transport may carry them. ``Presence`` is a
hint in plain JSON. Unknown fields of a message are ignored, so that an older end understands a
newer one.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Final

import msgspec

from asdic.contract.errors import ConfigError

CHUNK_BYTES: Final = 256 << 10
PROGRESS_EVERY: Final = 4
PROGRESS_INTERVAL_S: Final = 2.0
REPAIR_AFTER_S: Final = 5.0

PREFIX: Final = "asdic/v1"
REPORT_TYPE: Final = "application/vnd.asdic.report.v1+json"
PROGRESS_TYPE: Final = "application/vnd.asdic.progress.v1+json"
MISSING_TYPE: Final = "application/vnd.asdic.missing.v1+json"
NUMBER_TYPE: Final = "application/vnd.asdic.report-number.v1+json"
_DEVICE_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class UpdateState(str, Enum):
    """Where an update stands on a device. The transitions are in ``asdic.device.update.state``."""

    IDLE = "idle"
    OFFERED = "offered"
    REJECTED = "rejected"
    DEFERRED = "deferred"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    STAGED = "staged"
    GATING = "gating"
    ACTIVATING = "activating"
    PROBATION = "probation"
    COMMITTED = "committed"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"
    INCONSISTENT = "inconsistent"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a device did not take a release: a code for machines, a sentence for people."""

    code: str
    message: str


class RuntimeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What runs the model: runtime, version, and the CPU features that change its results.

    ``delegate`` is what computes inside the runtime, with its version; None where a device did
    not say. ``plan`` names what the machine built from the model, and what it was built for; None
    where the runtime takes the file as it is.
    """

    runtime: str
    version: str
    delegate: str | None = None
    cpu_features: tuple[str, ...] = ()
    simulated: bool = False
    plan: str | None = None


class FirmwareFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a microcontroller said that it runs: board, version, and the image's SHA-256 (hex).

    What it did not say is empty.
    """

    board: str
    version: str
    digest: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What the inferring program itself acknowledged: manifest digest, version, process, count.

    The last two are not its word but what the kernel shows: ``silent``, its process is stopped or
    gone, or has said nothing for a while; ``holds``, the manifest digests of other releases whose
    files the process still has mapped. A device that does not look says neither.
    """

    manifest: str
    version: str
    pid: int
    inferences: int
    silent: bool = False
    holds: tuple[str, ...] = ()

    @property
    def is_certain(self) -> bool:
        """Whether nothing speaks against the program's word."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """What speaks against it, in few words for people; empty where nothing does."""
        held = ", ".join(digest.removeprefix("sha256:")[:8] for digest in self.holds)
        words = ("silent" if self.silent else "", f"also maps {held}" if held else "")
        return ", ".join(word for word in words if word)


class GateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the golden check and the short benchmark measured on the device, and what ran them."""

    outputs_checked: int
    worst_difference: float
    metric: str
    measured: float
    limit: float
    latency_ms_p50: float
    load_s: float
    memory_bytes: int
    runtime: RuntimeFacts | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The device's signed word on what really runs.

    ``number`` grows with every report, over restarts too; a manager ignores a number that is not
    larger than the last. ``version`` and ``state`` speak of the update in hand (``rollout``);
    ``loaded`` speaks of what the inferring program runs now, and is ``None`` where it has not
    acknowledged anything. ``firmware`` is what the microcontroller beside it said when this update
    asked it last; ``None`` where it did not have to. ``time_s`` is the device's own clock, which
    may be wrong.
    """

    device: str
    number: int
    time_s: float
    target: str
    state: UpdateState
    rollout: str | None = None
    version: str | None = None
    manifest: str | None = None
    loaded: Loaded | None = None
    runtime: RuntimeFacts | None = None
    refusal: Refusal | None = None
    gate: GateFacts | None = None
    firmware: FirmwareFacts | None = None
    agent_version: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a blob's chunks the device holds, and the first that it lacks.

    ``blob`` is the digest's 64 hex digits, as in the topics.
    """

    blob: str
    chunks: int
    have: int
    first_missing: int


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Chunks that the device asks for again, as inclusive ranges, at most 64 of them.

    ``blob`` is the digest's 64 hex digits, as in the topics.
    """

    blob: str
    ranges: tuple[tuple[int, int], ...]


class LastNumber(msgspec.Struct, frozen=True, kw_only=True):
    """The manager has accepted report ``number`` of a device, which used that number again.

    Signed with the director's targets key, on ``down/number``, not retained. The device only ever
    raises its number by it, so nobody gains by playing it again.
    """

    device: str
    number: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the device's agent is connected; ``online=False`` is the retained will."""

    online: bool


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A device asks to join, over HTTP: ``POST /api/v1/enrol``.

    A claim token is ``<id>.<secret>``; the secret itself never travels.
    ``proof`` is the HMAC of ``body`` with the secret; ``body`` is the JSON of ``EnrolBody``.
    """

    token_id: str
    body: str
    proof: str


class EnrolBody(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks to join: device id, public key (64 hex digits), target, tags."""

    device: str
    public_key: str
    target: str
    simulated: bool = False
    tags: dict[str, str] = {}


class EnrolReply(msgspec.Struct, frozen=True, kw_only=True):
    """The manager's answer; ``proof`` is the HMAC of ``body`` (JSON of ``EnrolGrant``)."""

    body: str
    proof: str


class EnrolGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What a device needs to take part: both trust roots, and the broker's address.

    ``broker_ca`` are the authorities (PEM) that vouch for the broker; empty means no TLS.
    """

    device: str
    image_root: str
    director_root: str
    broker_host: str
    broker_port: int
    broker_ca: str = ""


def check_device_id(device: str) -> str:
    """Return ``device`` if it can stand in a topic, a file name and a certificate.

    Raises:
        ConfigError: It cannot.
    """
    if not _DEVICE_ID.fullmatch(device):
        raise ConfigError(
            f"{device!r} is not a device id; use lower-case letters, digits and dashes, at most 63"
        )
    return device


def chunk_count(size_bytes: int) -> int:
    """Return how many chunks a blob of ``size_bytes`` has; an empty blob has none."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_topic(sha256_hex: str, number: int) -> str:
    """Return the broadcast topic of one chunk."""
    return f"{PREFIX}/blob/{sha256_hex}/chunk/{number}"


def chunks_filter(sha256_hex: str) -> str:
    """Return the subscription to all broadcast chunks of a blob."""
    return f"{PREFIX}/blob/{sha256_hex}/chunk/+"


def repair_topic(device: str, sha256_hex: str, number: int) -> str:
    """Return the topic on which one device gets one chunk again."""
    return f"{PREFIX}/{device}/down/chunk/{sha256_hex}/{number}"


def offer_topic(device: str) -> str:
    """Return the retained topic of a device's offer; an empty payload withdraws it."""
    return f"{PREFIX}/{device}/down/offer"


def bench_topic(device: str) -> str:
    """Return the retained topic of a device's benchmark order; an empty payload withdraws it."""
    return f"{PREFIX}/{device}/down/bench"


def number_topic(device: str) -> str:
    """Return the topic on which a device is told the number of its last accepted report."""
    return f"{PREFIX}/{device}/down/number"


def up_topic(device: str, what: str) -> str:
    """Return one of a device's own topics: presence, reported, progress, missing, bench."""
    return f"{PREFIX}/{device}/up/{what}"


def parse_chunk_topic(topic: str) -> tuple[str, int] | None:
    """Return digest (hex) and number of a broadcast or repair chunk, or None for other topics."""
    parts = topic.split("/")
    match parts:
        case ["asdic", "v1", "blob", digest, "chunk", number] if number.isdecimal():
            return digest, int(number)
        case ["asdic", "v1", _, "down", "chunk", digest, number] if number.isdecimal():
            return digest, int(number)
        case _:
            return None
