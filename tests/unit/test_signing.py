"""The image repository and the director, judged by python-tuf's own client."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.release import Layout, digest_of
from asdic.contract.trust import Offer, ReleaseFacts, parse_offer
from asdic.fleet.director import Director, encode_offer
from asdic.fleet.metadata import utc_now
from asdic.fleet.signing import ImageRepository
from tests.support.fleet import LITERT, OPENVINO, add_release, add_signed_release


class BundleFetcher(FetcherInterface):
    """Serves the files of one half of an offer to python-tuf's client."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = Path(urlsplit(url).path).name
        if name not in self.files:
            raise DownloadHTTPError(f"{name} is not in the offer", 404)
        return iter([self.files[name].encode()])


def refreshed(folder: Path, files: dict[str, str]) -> Updater:
    """Return a stock TUF client that accepted ``files``, bootstrapped from their first root."""
    folder.mkdir()
    client = Updater(
        str(folder),
        "http://offer.invalid/",
        bootstrap=files["1.root.json"].encode(),
        fetcher=BundleFetcher(files),
    )
    client.refresh()
    return client


def offer_of(director: Director, layout: Layout, version: str = "1.0.0") -> Offer:
    return director.offer_for(
        device="box-1",
        target=LITERT,
        release=layout.release(version),
        layout=layout,
        rollout="r1",
    )


def test_a_stock_tuf_client_accepts_both_halves_of_an_offer(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    offer = offer_of(Director(tmp_path / "director"), layout)
    halves = (("image", offer.image), ("director", offer.director))
    found = [
        refreshed(tmp_path / f"{name}-client", files).get_targetinfo(f"1.0.0/{LITERT}.json")
        for name, files in halves
    ]
    assert found[0] is not None
    assert found[0] == found[1]


def test_an_offer_names_its_device_its_time_and_exactly_one_target(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases", targets=(LITERT, OPENVINO))
    now = utc_now()
    offer = offer_of(Director(tmp_path / "director", clock=lambda: now), layout)
    targets = msgspec.json.decode(offer.director["1.targets.json"])["signed"]
    timestamp = msgspec.json.decode(offer.director["timestamp.json"])["signed"]
    assert targets["device"] == "box-1"
    assert list(targets["targets"]) == [f"1.0.0/{LITERT}.json"]
    assert timestamp["issued_at"] == now.isoformat().replace("+00:00", "Z")


def test_an_offer_carries_the_manifest_and_the_description(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    offer = parse_offer(encode_offer(offer_of(Director(tmp_path / "director"), layout)))
    manifest = layout.release("1.0.0").variants[LITERT].digest
    assert manifest in offer.documents
    assert len(offer.documents) == 2
    assert all(digest_of(text.encode()) == digest for digest, text in offer.documents.items())


def test_the_facts_of_a_release_are_signed_in_both_halves(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases", security_counter=7)
    offer = offer_of(Director(tmp_path / "director"), layout)
    facts = ReleaseFacts(version="1.0.0", hardware=(LITERT,), security_counter=7)
    for text in (offer.image["1.targets.json"], offer.director["1.targets.json"]):
        entry = msgspec.json.decode(text)["signed"]["targets"][f"1.0.0/{LITERT}.json"]
        assert msgspec.convert(entry["custom"], ReleaseFacts) == facts


def test_versions_of_a_device_grow_and_survive_a_restart(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    offer_of(Director(tmp_path / "director"), layout)
    again = offer_of(Director(tmp_path / "director"), layout)
    assert {"2.targets.json", "2.snapshot.json"} <= set(again.director)
    assert msgspec.json.decode(again.director["timestamp.json"])["signed"]["version"] == 2


def test_signing_twice_changes_nothing(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    before = (tmp_path / "releases" / "metadata" / "timestamp.json").read_bytes()
    repository = ImageRepository(tmp_path / "releases", tmp_path / "keys")
    assert repository.sign(layout, "1.0.0") == ()
    assert (tmp_path / "releases" / "metadata" / "timestamp.json").read_bytes() == before


def test_a_second_release_keeps_the_first_one_signed(tmp_path: Path) -> None:
    add_signed_release(tmp_path / "releases", "1.0.0")
    layout = add_signed_release(tmp_path / "releases", "1.1.0")
    director = Director(tmp_path / "director")
    assert offer_of(director, layout, "1.0.0").image.keys() >= {"2.targets.json"}
    assert offer_of(director, layout, "1.1.0").image.keys() >= {"2.targets.json"}


def test_private_keys_are_for_their_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    add_signed_release(tmp_path / "releases", "1.0.0")
    before = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    add_signed_release(tmp_path / "releases", "1.1.0")
    assert {path.name for path in before} == {
        f"{role}.pem" for role in ("root", "targets", "snapshot", "timestamp")
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in before)
    assert {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before


def test_another_persons_keys_cannot_sign_the_same_folder(tmp_path: Path) -> None:
    add_signed_release(tmp_path / "releases", "1.0.0")
    layout = add_release(tmp_path / "releases", "1.1.0")
    add_signed_release(tmp_path / "other" / "releases", "1.0.0")
    with pytest.raises(ConfigError, match="is not the targets key that the root names"):
        ImageRepository(tmp_path / "releases", tmp_path / "other" / "keys").sign(layout, "1.1.0")


def test_a_missing_key_is_named_and_not_made_again(tmp_path: Path) -> None:
    add_signed_release(tmp_path / "releases", "1.0.0")
    layout = add_release(tmp_path / "releases", "1.1.0")
    with pytest.raises(ConfigError, match=r"the targets key is missing: expected it at .*empty"):
        ImageRepository(tmp_path / "releases", tmp_path / "empty").sign(layout, "1.1.0")


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases", "1.0.0")
    add_release(tmp_path / "releases", "1.1.0")
    (tmp_path / "keys" / "targets.pem").write_text("no key")
    with pytest.raises(ConfigError, match=r"targets\.pem is not an unencrypted private key"):
        ImageRepository(tmp_path / "releases", tmp_path / "keys").sign(layout, "1.1.0")


def test_a_key_of_another_kind_is_named(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases", "1.0.0")
    add_release(tmp_path / "releases", "1.1.0")
    other = CryptoSigner.generate_ecdsa().private_bytes
    (tmp_path / "keys" / "targets.pem").write_bytes(other)
    with pytest.raises(ConfigError, match=r"targets\.pem holds another kind of key"):
        ImageRepository(tmp_path / "releases", tmp_path / "keys").sign(layout, "1.1.0")


def test_a_signed_manifest_that_was_changed_is_not_offered(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    release = layout.release("1.0.0")
    forged = msgspec.structs.replace(release, security_counter=9)
    with pytest.raises(ReleaseError, match="differs from what was signed"):
        Director(tmp_path / "director").offer_for(
            device="box-1", target=LITERT, release=forged, layout=layout, rollout="r"
        )


def test_damaged_metadata_is_named(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    metadata = tmp_path / "releases" / "metadata"
    for name, data in (("timestamp.json", b"{"), ("1.snapshot.json", b"[]")):
        before = (metadata / name).read_bytes()
        (metadata / name).write_bytes(data)
        with pytest.raises(ReleaseError, match=rf"{name} is not readable TUF metadata"):
            offer_of(Director(tmp_path / "director"), layout)
        (metadata / name).write_bytes(before)
    (metadata / "timestamp.json").write_bytes((metadata / "1.snapshot.json").read_bytes())
    with pytest.raises(ReleaseError, match="is TUF metadata of role snapshot"):
        offer_of(Director(tmp_path / "director"), layout)


def test_an_unsigned_release_is_not_offered(tmp_path: Path) -> None:
    add_signed_release(tmp_path / "releases", "1.0.0")
    layout = add_release(tmp_path / "releases", "1.1.0")
    with pytest.raises(ReleaseError, match=r"release 1\.1\.0 is not signed; .*asdic sign"):
        offer_of(Director(tmp_path / "director"), layout, "1.1.0")


def test_a_folder_that_nobody_signed_is_not_offered(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    with pytest.raises(ReleaseError, match="is not signed"):
        offer_of(Director(tmp_path / "director"), layout)


def test_metadata_of_another_author_is_refused_before_it_is_offered(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    add_signed_release(tmp_path / "other" / "releases")
    for name in ("1.targets.json", "1.snapshot.json", "timestamp.json"):
        stolen = (tmp_path / "other" / "releases" / "metadata" / name).read_bytes()
        (tmp_path / "releases" / "metadata" / name).write_bytes(stolen)
    with pytest.raises(ReleaseError, match="signed by another key"):
        offer_of(Director(tmp_path / "director"), layout)


def test_expired_metadata_is_not_offered_until_it_is_signed_again(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    in_40_days = utc_now() + timedelta(days=40)
    director = Director(tmp_path / "director", clock=lambda: in_40_days)
    with pytest.raises(ReleaseError, match=r"timestamp .* expired on .*asdic sign"):
        offer_of(director, layout)
    ImageRepository(tmp_path / "releases", tmp_path / "keys", clock=lambda: in_40_days).sign(
        layout, "1.0.0"
    )
    assert offer_of(director, layout).image


def test_targets_are_signed_again_before_they_expire(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    in_310_days = utc_now() + timedelta(days=310)
    repository = ImageRepository(
        tmp_path / "releases", tmp_path / "keys", clock=lambda: in_310_days
    )
    assert repository.sign(layout, "1.0.0") == ()
    targets = repository.signed.targets()
    assert (targets.version, list(targets.targets)) == (2, [f"1.0.0/{LITERT}.json"])


def test_a_timestamp_is_renewed_without_the_targets_key(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    for role in ("root", "targets"):
        (tmp_path / "keys" / f"{role}.pem").unlink()
    in_20_days = utc_now() + timedelta(days=20)
    ImageRepository(tmp_path / "releases", tmp_path / "keys", clock=lambda: in_20_days).sign(
        layout, "1.0.0"
    )
    in_40_days = utc_now() + timedelta(days=40)
    assert offer_of(Director(tmp_path / "director", clock=lambda: in_40_days), layout).image


def test_a_root_is_renewed_by_its_own_key_before_it_expires(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    in_320_days = utc_now() + timedelta(days=320)
    ImageRepository(tmp_path / "releases", tmp_path / "keys", clock=lambda: in_320_days).sign(
        layout, "1.0.0"
    )
    Director(tmp_path / "director")
    offer = offer_of(Director(tmp_path / "director", clock=lambda: in_320_days), layout)
    assert {"1.root.json", "2.root.json"} <= offer.image.keys()
    assert {"1.root.json", "2.root.json"} <= offer.director.keys()
    assert refreshed(tmp_path / "client", offer.image)


def test_a_truncated_blob_is_named_and_nothing_is_signed(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    blob = layout.variant(layout.release("1.0.0"), LITERT).files[0].digest
    layout.blob_path(blob).write_bytes(b"a mo")
    repository = ImageRepository(tmp_path / "releases", tmp_path / "keys")
    with pytest.raises(ReleaseError, match=f"{blob.removeprefix('sha256:')} has 4 bytes"):
        repository.sign(layout, "1.0.0")
    assert not (tmp_path / "releases" / "metadata" / "timestamp.json").exists()
