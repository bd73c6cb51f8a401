"""What a device believes: offers of a real image repository and a real director, bent and old."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, TargetFile
from tuf.api.serialization import DeserializationError

from asdic.contract.errors import AsdicError, IncompatibleTargetError
from asdic.contract.release import Layout
from asdic.contract.trust import Offer
from asdic.device.update.trust import Floor, Trust
from asdic.device.update.trusted import VerifiedOffer
from asdic.fleet.keys import KeyFolder
from asdic.fleet.metadata import Lifetimes, MetadataFolder, RootChain
from asdic.fleet.metadata import Signers as Signature
from tests.support.fleet import LITERT, OPENVINO
from tests.support.signers import NOW, Signers, refusal, verify


@pytest.fixture
def signers(tmp_path: Path) -> Signers:
    made = Signers(tmp_path)
    made.release("1.0.0")
    return made


def bent(offer: Offer, repository: str, role: str, change: Callable[[Any], None]) -> Offer:
    """Return ``offer`` with the signed part of one file changed, and its signature not."""
    files = dict(getattr(offer, repository))
    name = next(name for name in files if name.endswith(f"{role}.json"))
    metadata = json.loads(files[name])
    change(metadata["signed"])
    files[name] = json.dumps(metadata)
    return msgspec.structs.replace(offer, **{repository: files})


def test_an_offer_that_both_repositories_sign_is_accepted(signers: Signers) -> None:
    verified = verify(signers.offer("1.0.0"), signers.trust())
    layout = Layout.open(signers.releases)
    assert verified.manifest_digest == layout.release("1.0.0").variants[LITERT].digest
    assert verified.facts.version == "1.0.0"


def test_the_same_offer_is_accepted_again(signers: Signers) -> None:
    offer = signers.offer("1.0.0")
    first = verify(offer, signers.trust())
    assert verify(offer, first.trust).trust == first.trust


def test_an_offer_for_another_device_is_refused(signers: Signers) -> None:
    assert refusal(signers.offer("1.0.0", device="box2"), signers.trust()) == "wrong-device"


def test_an_offer_that_was_readdressed_is_refused(signers: Signers) -> None:
    offer = msgspec.structs.replace(signers.offer("1.0.0", device="box2"), device="box1")
    assert refusal(offer, signers.trust()) == "wrong-device"


def test_an_offer_for_another_target_is_refused(signers: Signers) -> None:
    with pytest.raises(IncompatibleTargetError, match=f"is for {OPENVINO}, this device is"):
        verify(signers.offer("1.0.0", target=OPENVINO), signers.trust())


def test_a_release_signed_by_another_key_is_refused(signers: Signers, tmp_path: Path) -> None:
    stranger = Signers(tmp_path / "stranger")
    stranger.release("1.0.0")
    offer = msgspec.structs.replace(signers.offer("1.0.0"), image=stranger.offer("1.0.0").image)
    assert refusal(offer, signers.trust()) == "unsigned"


def test_a_director_with_another_key_is_refused(signers: Signers, tmp_path: Path) -> None:
    stranger = Signers(tmp_path / "stranger")
    stranger.release("1.0.0")
    offer = msgspec.structs.replace(
        signers.offer("1.0.0"), director=stranger.offer("1.0.0").director
    )
    assert refusal(offer, signers.trust()) == "unsigned"


@pytest.mark.parametrize("repository", ["image", "director"])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_changed_metadata_is_refused(signers: Signers, repository: str, role: str) -> None:
    offer = bent(signers.offer("1.0.0"), repository, role, lambda signed: signed.update(version=99))
    assert refusal(offer, signers.trust()) == "unsigned"


@pytest.mark.parametrize("repository", ["image", "director"])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_missing_metadata_is_refused(signers: Signers, repository: str, role: str) -> None:
    offer = signers.offer("1.0.0")
    files = {
        name: text
        for name, text in getattr(offer, repository).items()
        if not name.endswith(f"{role}.json")
    }
    offer = msgspec.structs.replace(offer, **{repository: files})
    assert refusal(offer, signers.trust()) == "incomplete"


def test_a_replayed_older_offer_is_refused(signers: Signers) -> None:
    older = signers.offer("1.0.0")
    newer = verify(signers.offer("1.0.0"), signers.trust())
    assert refusal(older, newer.trust) == "replayed"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_the_floor_holds_where_the_copies_are_lost(signers: Signers, role: str) -> None:
    older = signers.offer("1.0.0")
    newer = verify(signers.offer("1.0.0"), signers.trust())
    forgetful = msgspec.structs.replace(signers.trust(), floor=newer.trust.floor)
    only = {role: newer.trust.floor.director.roles[role]}
    floor = msgspec.structs.replace(
        newer.trust.floor,
        director=msgspec.structs.replace(newer.trust.floor.director, roles=only),
    )
    forgetful = msgspec.structs.replace(forgetful, floor=floor)
    assert refusal(older, forgetful) == "replayed"


def test_without_a_floor_lost_copies_would_let_a_replay_pass(signers: Signers) -> None:
    older = signers.offer("1.0.0")
    verify(signers.offer("1.0.0"), signers.trust())
    assert verify(older, signers.trust()).facts.version == "1.0.0"


def test_an_older_root_is_refused(signers: Signers) -> None:
    offer = signers.offer("1.0.0")
    floor = msgspec.structs.replace(Floor(), image=msgspec.structs.replace(Floor().image, root=2))
    assert refusal(offer, msgspec.structs.replace(signers.trust(), floor=floor)) == "replayed"


def test_an_expired_offer_is_refused(signers: Signers) -> None:
    offer = signers.offer("1.0.0")
    assert refusal(offer, signers.trust(), now=NOW + timedelta(days=40)) == "expired"


def test_a_dead_clock_does_not_make_an_old_offer_fresh(signers: Signers) -> None:
    old = signers.offer("1.0.0", device="box1")
    signers.now = NOW + timedelta(days=40)
    signers.release("1.1.0")
    seen = verify(
        signers.offer("1.1.0"), signers.trust(), now=datetime.fromtimestamp(0, timezone.utc)
    )
    forgetful = msgspec.structs.replace(
        signers.trust(), floor=Floor(issued_at=seen.trust.floor.issued_at)
    )
    assert refusal(old, forgetful, now=datetime.fromtimestamp(0, timezone.utc)) == "expired"


def test_a_new_image_list_is_measured_by_the_time_the_director_tells(signers: Signers) -> None:
    old_image = signers.offer("1.0.0").image
    signers.now = NOW + timedelta(days=40)
    signers.image.sign(Layout.open(signers.releases), "1.0.0")
    offer = msgspec.structs.replace(signers.offer("1.0.0"), image=old_image)
    dead_clock = datetime.fromtimestamp(0, timezone.utc)
    assert refusal(offer, signers.trust(), now=dead_clock) == "expired"


def test_the_floor_of_time_comes_from_the_director_not_from_the_clock(signers: Signers) -> None:
    verified = verify(signers.offer("1.0.0"), signers.trust(), now=NOW + timedelta(days=3))
    assert verified.trust.floor.issued_at == NOW.timestamp()


def test_a_lower_security_counter_is_refused(signers: Signers) -> None:
    trust = msgspec.structs.replace(signers.trust(), floor=Floor(security_counter=2))
    assert refusal(signers.offer("1.0.0"), trust) == "counter"


def test_an_older_version_with_an_equal_counter_is_accepted(signers: Signers) -> None:
    signers.release("1.1.0")
    newer = verify(signers.offer("1.1.0"), signers.trust())
    assert verify(signers.offer("1.0.0"), newer.trust).facts.version == "1.0.0"


def test_an_accepted_offer_alone_does_not_raise_the_counter(signers: Signers) -> None:
    signers.release("1.1.0", security_counter=7)
    verified = verify(signers.offer("1.1.0"), signers.trust())
    assert verified.trust.floor.security_counter == 0


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "[" * 5000, '{"signed": {}}', "\x00"])
def test_garbage_instead_of_metadata_is_refused(signers: Signers, text: str) -> None:
    offer = signers.offer("1.0.0")
    for repository in ("image", "director"):
        files = {
            name: text if name == "timestamp.json" else kept
            for name, kept in getattr(offer, repository).items()
        }
        bad = msgspec.structs.replace(offer, **{repository: files})
        assert refusal(bad, signers.trust()) == "damaged"


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Offer, Trust]:
    signers = Signers(tmp_path_factory.mktemp("fixed"))
    signers.release("1.0.0")
    return signers.offer("1.0.0"), signers.trust()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_changed_file_is_ever_accepted_or_leaks_another_error(
    fixed: tuple[Offer, Trust], data: st.DataObject
) -> None:
    offer, trust = fixed
    repository = data.draw(st.sampled_from(["image", "director"]))
    files = dict(getattr(offer, repository))
    name = data.draw(st.sampled_from(sorted(files.keys() - {"1.root.json"})))
    text = files[name]
    at = data.draw(st.integers(0, len(text) - 1))
    files[name] = text[:at] + data.draw(st.text(max_size=3)) + text[at + 1 :]
    bad = msgspec.structs.replace(offer, **{repository: files})
    if says_the_same(files[name], text):
        return
    with pytest.raises(AsdicError):
        verify(bad, trust)


def says_the_same(changed: str, text: str) -> bool:
    """Return whether a change left the metadata as it was, as a space or ``12:0:00`` does."""
    try:
        return Metadata.from_bytes(changed.encode()) == Metadata.from_bytes(text.encode())
    except DeserializationError:
        return False


class TestDisagreement:
    """The director's keys sign something that the image repository does not say."""

    def sign(
        self,
        signers: Signers,
        change: Callable[[dict[str, Any]], None] = lambda _targets: None,
        **fields: str,
    ) -> Offer:
        """Return an offer whose director signs changed targets."""
        offer = signers.offer("1.0.0")
        name = next(name for name in offer.director if name.endswith("targets.json"))
        targets = json.loads(offer.director[name])["signed"]["targets"]
        change(targets)
        folder = MetadataFolder(signers.director.folder / "devices" / "box1")
        roots = RootChain(signers.director.folder)
        folder.publish(
            Signature(
                keys=KeyFolder(signers.director.folder / "keys"),
                root=roots.newest(),
                lifetimes=Lifetimes(),
            ),
            {path: TargetFile.from_dict(file, path) for path, file in targets.items()},
            NOW,
            targets_fields={"device": "box1"},
            timestamp_fields={"issued_at": "2026-11-24T12:00:00Z", **fields},
        )
        return msgspec.structs.replace(offer, director={**roots.texts(), **folder.texts()})

    def test_the_way_of_signing_here_is_right(self, signers: Signers) -> None:
        assert verify(self.sign(signers), signers.trust()).facts.version == "1.0.0"

    def test_two_releases_at_once_are_refused(self, signers: Signers) -> None:
        def add(targets: dict[str, Any]) -> None:
            (file,) = targets.values()
            targets["2.0.0/x.json"] = json.loads(json.dumps(file))

        assert refusal(self.sign(signers, add), signers.trust()) == "ambiguous"

    def test_other_bytes_are_refused(self, signers: Signers) -> None:
        def change(targets: dict[str, Any]) -> None:
            (file,) = targets.values()
            file["hashes"]["sha256"] = "0" * 64

        assert refusal(self.sign(signers, change), signers.trust()) == "disagreement"

    def test_other_facts_are_refused(self, signers: Signers) -> None:
        def change(targets: dict[str, Any]) -> None:
            (file,) = targets.values()
            file["custom"]["security_counter"] = 9

        assert refusal(self.sign(signers, change), signers.trust()) == "disagreement"

    def test_a_release_that_its_author_never_signed_is_refused(self, signers: Signers) -> None:
        def change(targets: dict[str, Any]) -> None:
            targets[f"9.9.9/{LITERT}.json"] = targets.pop(f"1.0.0/{LITERT}.json")

        assert refusal(self.sign(signers, change), signers.trust()) == "disagreement"

    def test_facts_that_are_none_are_refused(self, signers: Signers) -> None:
        def change(targets: dict[str, Any]) -> None:
            (file,) = targets.values()
            file["custom"] = {"version": 1}

        assert refusal(self.sign(signers, change), signers.trust()) == "damaged"

    def test_a_director_that_does_not_tell_the_time_is_refused(self, signers: Signers) -> None:
        offer = self.sign(signers, issued_at="yesterday")
        assert refusal(offer, signers.trust()) == "damaged"


class TestKeyRotation:
    """A role's keys change with a newer root."""

    def test_a_root_that_takes_a_key_away_lets_the_version_fall(self, signers: Signers) -> None:
        newer = verify(signers.offer("1.0.0"), signers.trust())
        floor = self.floor_with(newer, keys=("stolen",), root=0)
        offer = signers.offer("1.0.0")
        assert verify(offer, floor).facts.version == "1.0.0"

    def test_other_keys_under_the_same_root_do_not(self, signers: Signers) -> None:
        newer = verify(signers.offer("1.0.0"), signers.trust())
        floor = self.floor_with(newer, keys=("stolen",), root=1)
        assert refusal(signers.offer("1.0.0"), floor) == "replayed"

    def test_a_root_that_only_adds_a_key_does_not(self, signers: Signers) -> None:
        newer = verify(signers.offer("1.0.0"), signers.trust())
        keys = newer.trust.floor.director.roles["timestamp"].keys
        floor = self.floor_with(newer, keys=keys, root=0)
        assert refusal(signers.offer("1.0.0"), floor) == "replayed"

    def floor_with(self, verified: VerifiedOffer, *, keys: tuple[str, ...], root: int) -> Trust:
        """Return a trust that has accepted version 1000 of the director's timestamp."""
        director = verified.trust.floor.director
        role = msgspec.structs.replace(director.roles["timestamp"], version=1000, keys=keys)
        roles = {**director.roles, "timestamp": role}
        floor = msgspec.structs.replace(
            verified.trust.floor,
            director=msgspec.structs.replace(director, root=root, roles=roles),
        )
        return msgspec.structs.replace(verified.trust, floor=floor)
