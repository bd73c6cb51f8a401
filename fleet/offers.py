"""The offers that stand: signed by the director, retained on the broker, withdrawn when done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from asdic.contract.errors import ReleaseError
from asdic.contract.messages import offer_topic
from asdic.contract.release import Layout, Release
from asdic.fleet.director import Director, encode_offer
from asdic.fleet.inventory import Device
from asdic.fleet.metadata import utc_now
from asdic.fleet.rollout import Rollout
from asdic.fleet.signing import SignedReleases, check_release
from asdic.fleet.stage import MemberState


class Publisher(Protocol):
    """Where offers go: the MQTT link."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send ``payload`` with QoS 1."""


class Offers:
    """The offers of one fleet; the director keeps them on disk."""

    def __init__(self, releases: Path, director: Director, publisher: Publisher) -> None:
        self._releases = releases
        self._director = director
        self._publisher = publisher

    def issue(self, rollout: Rollout, device: str) -> None:
        """Sign a new offer for a member of ``rollout`` and give it to the broker.

        Raises:
            ReleaseError: The release is not signed, or what was signed is expired or different.
        """
        layout = Layout.open(self._releases)
        target = next(one.target for one in rollout.members if one.device == device)
        offer = self._director.offer_for(
            device=device,
            target=target,
            release=layout.release(rollout.version),
            layout=layout,
            rollout=rollout.id,
        )
        self._publisher.publish(offer_topic(device), encode_offer(offer), retain=True)

    def issue_missing(self, rollout: Rollout) -> None:
        """Sign what was decided and never signed, as after a crash or an expired timestamp."""
        for member in rollout.members:
            standing = self._director.standing(member.device)
            is_ours = standing is not None and standing.rollout == rollout.id
            if member.state is MemberState.OFFERED and not is_ours:
                self.issue(rollout, member.device)

    def withdraw(self, rollout: Rollout, device: str) -> bool:
        """Clear the device's offer if it is still that of ``rollout``; return whether it was."""
        if not self._director.withdraw(device, rollout.id):
            return False
        self._publisher.publish(offer_topic(device), b"", retain=True)
        return True

    def publish_standing(self, devices: Iterable[str]) -> None:
        """Bring the retained offers of a broker that may have forgotten them up to date."""
        for device in devices:
            offer = self._director.standing(device)
            payload = encode_offer(offer) if offer else b""
            self._publisher.publish(offer_topic(device), payload, retain=True)

    def standing_rollout(self, device: str) -> str | None:
        """Return the rollout whose offer the device has, if any."""
        offer = self._director.standing(device)
        return offer.rollout if offer else None

    def export(self, layout: Layout, release: Release, device: Device) -> bytes:
        """Return an offer to be carried to the device by hand; it is not published.

        What stood for the device is older now: issue it again, or the device will refuse it.
        """
        rollout = f"export-{release.version}"
        offer = self._director.offer_for(
            device=device.id, target=device.target, release=release, layout=layout, rollout=rollout
        )
        self._director.withdraw(device.id, rollout)
        return encode_offer(offer)

    def check(
        self, layout: Layout, release: Release, devices: Iterable[Device]
    ) -> Mapping[str, str]:
        """Return the manifest's digest for each of the devices' targets that ``release`` serves.

        Raises:
            ReleaseError: It serves none of them, is not signed, is damaged, or another author's.
        """
        wanted = {device.target for device in devices}
        served = wanted & set(release.variants)
        if not served:
            raise ReleaseError(
                f"release {release.version} has no variant for any selected device "
                f"({', '.join(sorted(wanted))})"
            )
        signed = SignedReleases(layout.folder)
        for target in served:
            signed.check(layout, release, target, utc_now())
        self._director.image_root(layout.folder)
        check_release(layout, release)
        return {target: release.variants[target].digest for target in served}
