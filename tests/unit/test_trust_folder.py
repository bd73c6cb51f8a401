"""What a device remembers of its repositories, when files of it are damaged or gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import ConfigError
from asdic.device.update.sealed import SCHEMA, NewerSchemaError, seal
from asdic.device.update.storage import Storage
from asdic.device.update.trust import (
    Floor,
    RepositoryFloor,
    RepositoryTrust,
    RoleFloor,
    Trust,
    TrustFolder,
)

FLOOR = Floor(
    image=RepositoryFloor(root=2, roles={"targets": RoleFloor(version=7, keys=("aa",))}),
    security_counter=3,
    issued_at=1.5,
)
TRUST = Trust(
    image=RepositoryTrust(bootstrap='{"image": 1}', files={"timestamp.json": "t"}),
    director=RepositoryTrust(bootstrap='{"director": 1}', files={"snapshot.json": "s"}),
    floor=FLOOR,
)
SEALED = ("image-root.json", "director-root.json", "floor.json")

Harm = Callable[[Path], None]


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def folder(tmp_path: Path) -> TrustFolder:
    made = TrustFolder(tmp_path / "trust", Storage())
    made.bootstrap(image_root=TRUST.image.bootstrap, director_root=TRUST.director.bootstrap)
    made.write(TRUST)
    return made


def test_trust_is_read_as_it_was_written(folder: TrustFolder) -> None:
    assert folder.read() == TRUST


@pytest.mark.parametrize("name", SEALED)
@pytest.mark.parametrize("harm", [remove, flip, empty])
def test_what_one_file_loses_comes_back_from_the_copy(
    folder: TrustFolder, name: str, harm: Harm
) -> None:
    harm(folder.folder / name)
    assert folder.read() == TRUST


@pytest.mark.parametrize("harm", [remove, flip, empty])
def test_lost_copies_cost_metadata_and_nothing_else(folder: TrustFolder, harm: Harm) -> None:
    harm(folder.folder / "metadata.json")
    read = folder.read()
    assert read.floor == FLOOR
    assert (read.image.bootstrap, read.director.bootstrap) == (
        TRUST.image.bootstrap,
        TRUST.director.bootstrap,
    )
    assert (read.image.files, read.director.files) == ({}, {})


@pytest.mark.parametrize("name", SEALED)
def test_what_is_lost_in_both_places_is_an_error_and_no_guess(
    folder: TrustFolder, name: str
) -> None:
    flip(folder.folder / name)
    flip(folder.folder / "metadata.json")
    with pytest.raises(ConfigError, match=name):
        folder.read()


def test_the_security_counter_comes_back_from_the_copy(folder: TrustFolder) -> None:
    flip(folder.folder / "floor.json")
    assert folder.security_counter == FLOOR.security_counter


def test_the_security_counter_never_falls(folder: TrustFolder) -> None:
    folder.raise_counter(2)
    assert folder.security_counter == 3
    folder.raise_counter(4)
    assert folder.security_counter == 4


@pytest.mark.parametrize("harm", [None, remove])
def test_enrolling_again_does_not_make_a_device_forget(
    folder: TrustFolder, harm: Harm | None
) -> None:
    if harm is not None:
        harm(folder.folder / "floor.json")
    folder.bootstrap(image_root="{}", director_root="{}")
    assert folder.read().floor == FLOOR


@pytest.mark.parametrize("name", ["floor.json", "metadata.json"])
def test_what_a_newer_agent_wrote_is_not_made_up_for_by_a_copy(
    folder: TrustFolder, name: str
) -> None:
    (folder.folder / name).write_bytes(seal(msgspec.structs.replace(FLOOR, schema=SCHEMA + 1)))
    for question in (folder.read, folder.check_schema, lambda: folder.security_counter):
        with pytest.raises(NewerSchemaError):
            question()


def test_a_lost_floor_is_no_question_of_its_schema(folder: TrustFolder) -> None:
    flip(folder.folder / "floor.json")
    flip(folder.folder / "metadata.json")
    folder.check_schema()
