"""An image repository and a director that sign offers, and what a device says of them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from asdic.contract.errors import ReleaseError
from asdic.contract.release import Layout
from asdic.contract.trust import Offer
from asdic.device.update.refusal import refusal_for
from asdic.device.update.trust import RepositoryTrust, Trust
from asdic.device.update.trusted import DeviceFacts, VerifiedOffer, verify_offer
from asdic.fleet.director import Director
from asdic.fleet.metadata import Lifetimes
from asdic.fleet.signing import ImageRepository
from tests.support.fleet import LITERT, OPENVINO, add_release

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
BOX = DeviceFacts(device="box1", target=LITERT)


class Signers:
    """An image repository and a director whose clock can be set."""

    def __init__(self, folder: Path, *, lifetimes: Lifetimes | None = None) -> None:
        self.now = NOW
        self.releases = folder / "releases"
        Layout.create(self.releases)
        self.image = ImageRepository(
            self.releases, folder / "keys", lifetimes=lifetimes, clock=lambda: self.now
        )
        self.director = Director(folder / "director", lifetimes=lifetimes, clock=lambda: self.now)

    def release(self, version: str, *, security_counter: int = 1) -> None:
        """Build and sign a release."""
        layout = add_release(
            self.releases, version, targets=(LITERT, OPENVINO), security_counter=security_counter
        )
        self.image.sign(layout, version)

    def offer(self, version: str, *, device: str = "box1", target: str = LITERT) -> Offer:
        """Return a new offer."""
        layout = Layout.open(self.releases)
        return self.director.offer_for(
            device=device,
            target=target,
            release=layout.release(version),
            layout=layout,
            rollout=f"rollout-{version}",
        )

    def trust(self) -> Trust:
        """Return the trust of a device that has just been enrolled."""
        return Trust(
            image=RepositoryTrust(bootstrap=self.image.signed.first_root()),
            director=RepositoryTrust(bootstrap=self.director.first_root()),
        )


def verify(
    offer: Offer, trust: Trust, *, device: DeviceFacts = BOX, now: datetime = NOW
) -> VerifiedOffer:
    """Return what a device believes of an offer."""
    return verify_offer(offer, trust=trust, device=device, now=now)


def refusal(offer: Offer, trust: Trust, *, device: DeviceFacts = BOX, now: datetime = NOW) -> str:
    """Return the code with which an offer is refused."""
    with pytest.raises(ReleaseError) as caught:
        verify(offer, trust, device=device, now=now)
    assert "\n" not in str(caught.value)
    return refusal_for(caught.value).code
