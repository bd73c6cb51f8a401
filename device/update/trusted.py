"""Rules of trust, without I/O of our own: is this offer for us, signed, fresh and not older?

python-tuf's client checks both repositories out of the offer. Around it this module closes what
it leaves open (measured with 7.0.1): it never calls fsync, so its own copies cannot be the memory
of a device that loses power; a device's clock may be dead; and two repositories have to agree.

The memory is a ``Trust`` value: both bootstrap roots, the newest accepted metadata, and a floor
under every version. The caller stores what ``verify_offer`` returns before it goes on.
python-tuf is imported here and nowhere else on the device, and only when an offer arrives.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from asdic.contract.errors import IncompatibleTargetError
from asdic.contract.release import DOCUMENT_LIMIT_BYTES
from asdic.contract.trust import METADATA_LIMIT_BYTES, Offer, ReleaseFacts, target_path
from asdic.device.update.refusal import RefusedReleaseError
from asdic.device.update.trust import (
    RepositoryFloor,
    RepositoryTrust,
    RoleFloor,
    Trust,
)

ISSUED_AT: Final = "issued_at"
DEVICE: Final = "device"
ROOTS_LIMIT: Final = 64
_SOURCE: Final = "offer:///"

REASONS: Final = MappingProxyType(
    {
        ExpiredMetadataError: ("expired", "is expired"),
        BadVersionNumberError: ("replayed", "is older than what this device has accepted"),
        UnsignedMetadataError: ("unsigned", "is not signed by the keys that this device trusts"),
        LengthOrHashMismatchError: ("damaged", "is damaged"),
        DownloadHTTPError: ("incomplete", "is incomplete"),
        DownloadError: ("damaged", "is too large"),
        RepositoryError: ("damaged", "is not in order"),
    }
)
"""What python-tuf's errors mean to a person; the first class that fits wins."""

_MALFORMED: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What python-tuf lets through for bytes that are JSON but no metadata."""


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """Who this device is, as offers name it."""

    device: str
    target: str


@dataclass(frozen=True, kw_only=True)
class VerifiedOffer:
    """What both repositories say together, and the trust to remember from now on."""

    rollout: str
    manifest_digest: str
    manifest_bytes: int
    facts: ReleaseFacts
    trust: Trust


def verify_offer(
    offer: Offer, *, trust: Trust, device: DeviceFacts, now: datetime
) -> VerifiedOffer:
    """Return what ``offer`` asks this device to run, once both repositories agree on it.

    ``now`` is the device's clock, which may be far behind; the newest signed ``issued_at``
    overrules it. Nothing is stored and nothing but scratch files is written.

    Raises:
        ReleaseError: Anything is wrong with the offer; the message says what in one sentence.
    """
    if offer.device != device.device:
        raise RefusedReleaseError(
            "wrong-device", f"the offer is for device {offer.device!r}, this is {device.device!r}"
        )
    clock = max(now, _time_of(trust.floor.issued_at))
    director = _Repository("director", offer.director, trust.director, trust.floor.director)
    ordered = director.verify(clock)
    issued_at = _issued_at(ordered.timestamp)
    clock = max(clock, issued_at)
    ordered.check_fresh("director", clock)
    wanted = _only_target(ordered.targets, device)
    image = _Repository("image", offer.image, trust.image, trust.floor.image)
    released = image.verify(clock, path=wanted.path)
    facts = _agreed(wanted, released.target, device)
    floor = msgspec.structs.replace(
        trust.floor,
        director=director.raised(ordered),
        image=image.raised(released),
        issued_at=max(trust.floor.issued_at, issued_at.timestamp()),
    )
    if facts.security_counter < floor.security_counter:
        raise RefusedReleaseError(
            "counter",
            f"release {facts.version} has security counter {facts.security_counter}; this device "
            f"ran one with {floor.security_counter} and never goes below it",
        )
    return VerifiedOffer(
        rollout=offer.rollout,
        manifest_digest=f"sha256:{wanted.hashes['sha256']}",
        manifest_bytes=wanted.length,
        facts=facts,
        trust=Trust(director=ordered.trust, image=released.trust, floor=floor),
    )


class _OfferFetcher(FetcherInterface):
    """Hands out the files of the offer; what is not in it does not exist."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Not a generator: python-tuf does not wrap what a generator raises.
        name = url.removeprefix(_SOURCE)
        if name not in self._files:
            raise DownloadHTTPError(f"{name} is not in the offer", 404)
        return iter((self._files[name].encode(),))


class _ClockedUpdater(Updater):
    """python-tuf's client with the clock as an argument, which its constructor does not offer.

    It takes the system's clock once, into ``TrustedMetadataSet.reference_time``, and a device's
    clock may be years behind.
    """

    def __init__(self, folder: Path, files: Mapping[str, str], root: str, now: datetime) -> None:
        super().__init__(
            metadata_dir=str(folder),
            metadata_base_url=_SOURCE,
            fetcher=_OfferFetcher(files),
            config=UpdaterConfig(
                max_root_rotations=ROOTS_LIMIT,
                root_max_length=METADATA_LIMIT_BYTES,
                timestamp_max_length=METADATA_LIMIT_BYTES,
                snapshot_max_length=METADATA_LIMIT_BYTES,
                targets_max_length=METADATA_LIMIT_BYTES,
            ),
            bootstrap=root.encode(),
        )
        self._trusted_set.reference_time = now


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """The verified metadata of one repository."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    target: TargetFile | None
    trust: RepositoryTrust

    def roles(self) -> dict[str, Timestamp | Snapshot | Targets]:
        return {"timestamp": self.timestamp, "snapshot": self.snapshot, "targets": self.targets}

    def check_fresh(self, name: str, now: datetime) -> None:
        for role, signed in {"root": self.root, **self.roles()}.items():
            if signed.is_expired(now):
                raise RefusedReleaseError(
                    "expired",
                    f"the offer is refused: its {name} {role} expired on {signed.expires:%Y-%m-%d}",
                )


class _Repository:
    """One of the two repositories, as the offer carries it and as this device remembers it."""

    def __init__(
        self, name: str, files: Mapping[str, str], trust: RepositoryTrust, floor: RepositoryFloor
    ) -> None:
        self.name = name
        self._files = files
        self._trust = trust
        self._floor = floor

    def verify(self, now: datetime, *, path: str | None = None) -> _Checked:
        """Return the verified metadata, and the target at ``path`` if there is one.

        Raises:
            ReleaseError: It does not verify, or a version is below the floor.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="asdic-trust-") as scratch:
                checked = self._refresh(Path(scratch), now, path)
        except (RepositoryError, DownloadError) as error:
            raise self._refusal(error) from error
        except _MALFORMED as error:
            raise RefusedReleaseError(
                "damaged", f"the offer is refused: its {self.name} metadata is not in order"
            ) from error
        self._check_floor(checked)
        return checked

    def raised(self, checked: _Checked) -> RepositoryFloor:
        """Return the floor that holds after ``checked`` was accepted."""
        return RepositoryFloor(
            root=checked.root.version,
            roles={
                role: RoleFloor(version=signed.version, keys=_keys_of(checked.root, role))
                for role, signed in checked.roles().items()
            },
        )

    def _refresh(self, folder: Path, now: datetime, path: str | None) -> _Checked:
        self._trust.write_to(folder)
        updater = _ClockedUpdater(folder, self._files, self._trust.bootstrap, now)
        updater.refresh()
        target = updater.get_targetinfo(path) if path is not None else None
        return _Checked(
            root=Metadata[Root].from_file(str(folder / "root.json")).signed,
            timestamp=Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed,
            snapshot=Metadata[Snapshot].from_file(str(folder / "snapshot.json")).signed,
            targets=Metadata[Targets].from_file(str(folder / "targets.json")).signed,
            target=target,
            trust=RepositoryTrust.read_from(folder, bootstrap=self._trust.bootstrap),
        )

    def _check_floor(self, checked: _Checked) -> None:
        """Refuse a version that fell, unless a newer root took a key of that role away.

        Taking a key away is how an author recovers from a stolen one, with which someone may have
        pushed the versions up; python-tuf's conformance suite asks for it.
        """
        fallen = {}
        if checked.root.version < self._floor.root:
            fallen["root"] = (checked.root.version, self._floor.root)
        for role, signed in checked.roles().items():
            floor = self._floor.roles.get(role)
            if floor is None or signed.version >= floor.version:
                continue
            kept = set(floor.keys) <= set(_keys_of(checked.root, role))
            if kept or checked.root.version <= self._floor.root:
                fallen[role] = (signed.version, floor.version)
        for role, (version, floor_version) in fallen.items():
            raise RefusedReleaseError(
                "replayed",
                f"the offer is refused: its {self.name} {role} has version {version}, "
                f"this device has accepted {floor_version}",
            )

    def _refusal(self, error: Exception) -> RefusedReleaseError:
        code, reason = next(said for kind, said in REASONS.items() if isinstance(error, kind))
        return RefusedReleaseError(
            code, f"the offer is refused: its {self.name} metadata {reason} ({error})"
        )


def _keys_of(root: Root, role: str) -> tuple[str, ...]:
    return tuple(sorted(root.roles[role].keyids))


def _time_of(issued_at: float) -> datetime:
    return datetime.fromtimestamp(issued_at, timezone.utc)


def _issued_at(timestamp: Timestamp) -> datetime:
    text = timestamp.unrecognized_fields.get(ISSUED_AT)
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise RefusedReleaseError(
            "damaged", "the offer is refused: the director does not say when it was issued"
        ) from error


def _only_target(targets: Targets, device: DeviceFacts) -> TargetFile:
    named = targets.unrecognized_fields.get(DEVICE)
    if named != device.device:
        raise RefusedReleaseError(
            "wrong-device",
            f"the director's metadata is for device {named!r}, this is {device.device!r}",
        )
    if len(targets.targets) != 1:
        raise RefusedReleaseError(
            "ambiguous",
            f"the director names {len(targets.targets)} releases for this device, expected one",
        )
    (target,) = targets.targets.values()
    return target


def _agreed(wanted: TargetFile, released: TargetFile | None, device: DeviceFacts) -> ReleaseFacts:
    """Return the facts that both repositories state about the same manifest."""
    if released is None:
        raise RefusedReleaseError(
            "disagreement", f"the image repository does not list {wanted.path}, the director does"
        )
    facts = _facts_of(wanted, "director")
    if (wanted.length, wanted.hashes) != (released.length, released.hashes):
        raise RefusedReleaseError(
            "disagreement", f"image repository and director sign other bytes for {wanted.path}"
        )
    if facts != _facts_of(released, "image repository"):
        raise RefusedReleaseError(
            "disagreement", f"image repository and director state other facts about {wanted.path}"
        )
    if device.target not in facts.hardware:
        hardware = ", ".join(facts.hardware)
        raise IncompatibleTargetError(
            f"release {facts.version} is for {hardware}, this device is {device.target}"
        )
    if wanted.path != target_path(facts.version, device.target):
        raise IncompatibleTargetError(
            f"the offer names {wanted.path}, expected {target_path(facts.version, device.target)}"
        )
    if "sha256" not in wanted.hashes or wanted.length > DOCUMENT_LIMIT_BYTES:
        raise RefusedReleaseError("damaged", f"{wanted.path} has no sha256, or is too large")
    return facts


def _facts_of(target: TargetFile, who: str) -> ReleaseFacts:
    try:
        return msgspec.convert(target.custom, ReleaseFacts)
    except msgspec.ValidationError as error:
        raise RefusedReleaseError(
            "damaged", f"the {who} states no proper facts about {target.path}: {error}"
        ) from error
