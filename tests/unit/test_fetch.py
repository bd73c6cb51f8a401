"""Fetching in chunks: what is asked for, what is kept, and what a restart finds."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from asdic.contract.errors import InstallError
from asdic.contract.messages import CHUNK_BYTES, REPAIR_AFTER_S, Missing, Progress
from asdic.contract.release import FILE_TYPE, Descriptor, digest_of, hex_of
from asdic.device.update.disk import RealDisk, Space
from asdic.device.update.fetch import Download, PartialBlob, check_space
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store

DATA = bytes(range(256)) * 8 * 1024 + b"tail"  # eight chunks and four bytes
CHUNKS = 9


class Notes:
    """A source that writes down what it is asked, and gives nothing."""

    def __init__(self) -> None:
        self.followed: list[str] = []
        self.left: list[str] = []
        self.progress: list[Progress] = []
        self.missing: list[Missing] = []

    def follow(self, blob: Descriptor) -> None:
        self.followed.append(blob.digest)

    def leave(self, blob: Descriptor) -> None:
        self.left.append(blob.digest)

    def send_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def send_missing(self, missing: Missing) -> None:
        self.missing.append(missing)


class FullDisk(Storage):
    """A disk with almost nothing left on it."""

    def space(self, folder: Path) -> Space:  # noqa: ARG002
        return Space(bytes=17 << 20, files=1 << 20)


class FewFiles(Storage):
    """A disk with room, but for hardly any file."""

    def space(self, folder: Path) -> Space:  # noqa: ARG002
        return Space(bytes=1 << 40, files=10)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def descriptor(data: bytes = DATA) -> Descriptor:
    return Descriptor(media_type=FILE_TYPE, digest=digest_of(data), size=len(data))


def chunk(number: int) -> bytes:
    return DATA[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


def partial(folder: Path, blob: Descriptor | None = None) -> PartialBlob:
    storage = Storage()
    return PartialBlob(blob or descriptor(), Store(folder, storage).prepare(), storage)


def download(folder: Path, clock: Clock) -> tuple[Download, Notes]:
    storage, notes = Storage(), Notes()
    store = Store(folder, storage).prepare()
    return Download([descriptor()], store, storage, notes, clock=clock), notes


def give(target: Download, *numbers: int) -> None:
    for number in numbers:
        target.take(hex_of(descriptor().digest), number, chunk(number))


def test_all_chunks_make_the_blob(tmp_path: Path) -> None:
    blob = partial(tmp_path)
    for number in reversed(range(CHUNKS)):
        blob.take(number, chunk(number))
    blob.sync()
    store = Store(tmp_path, Storage()).prepare()
    store.admit(descriptor())
    assert store.blob_path(descriptor().digest).read_bytes() == DATA


def test_a_restart_finds_the_chunks_that_were_synced(tmp_path: Path) -> None:
    blob = partial(tmp_path)
    for number in (0, 1, 5):
        blob.take(number, chunk(number))
    blob.sync()
    blob.take(7, chunk(7))
    again = partial(tmp_path)
    assert [number for number in range(CHUNKS) if again.has(number)] == [0, 1, 5]


@pytest.mark.parametrize("bitmap", [b"", b"\xff", b"\xff\xff", b"\x01\x00\x00"])
def test_a_bitmap_that_does_not_fit_counts_for_nothing(tmp_path: Path, bitmap: bytes) -> None:
    store = Store(tmp_path, Storage()).prepare()
    store.partial_path(descriptor().digest).write_bytes(DATA)
    store.bitmap_path(descriptor().digest).write_bytes(bitmap)
    assert partial(tmp_path).have == 0


def test_a_bitmap_without_its_file_counts_for_nothing(tmp_path: Path) -> None:
    Store(tmp_path, Storage()).prepare().bitmap_path(descriptor().digest).write_bytes(b"\xff\x01")
    assert partial(tmp_path).have == 0


@pytest.mark.parametrize(
    ("number", "data"), [(-1, b""), (CHUNKS, b"tail"), (0, b"short"), (8, b"tails")]
)
def test_a_chunk_of_a_wrong_number_or_length_is_dropped(
    tmp_path: Path, number: int, data: bytes
) -> None:
    assert not partial(tmp_path).take(number, data)


def test_the_same_chunk_twice_counts_once(tmp_path: Path) -> None:
    blob = partial(tmp_path)
    blob.take(3, chunk(3))
    assert not blob.take(3, chunk(3))
    assert blob.have == 1


def test_progress_names_the_first_chunk_that_is_missing(tmp_path: Path) -> None:
    blob = partial(tmp_path)
    for number in (0, 1, 3):
        blob.take(number, chunk(number))
    assert blob.progress() == Progress(
        blob=hex_of(descriptor().digest), chunks=CHUNKS, have=3, first_missing=2
    )


def test_missing_names_ranges(tmp_path: Path) -> None:
    blob = partial(tmp_path)
    for number in (0, 3, 4):
        blob.take(number, chunk(number))
    assert blob.missing().ranges == ((1, 2), (5, 8))


def test_a_repair_asks_for_a_bounded_number_of_chunks(tmp_path: Path) -> None:
    blob = Descriptor(media_type=FILE_TYPE, digest=digest_of(b"big"), size=1000 * CHUNK_BYTES)
    assert partial(tmp_path, blob).missing().ranges == ((0, 63),)


def test_an_empty_blob_is_complete_at_once(tmp_path: Path) -> None:
    assert partial(tmp_path, descriptor(b"")).is_complete


def test_a_download_subscribes_and_says_so_at_once(tmp_path: Path) -> None:
    target, notes = download(tmp_path, Clock())
    target.start()
    assert notes.followed == [descriptor().digest]
    assert [progress.have for progress in notes.progress] == [0]


def test_progress_is_said_after_every_fourth_chunk(tmp_path: Path) -> None:
    target, notes = download(tmp_path, Clock())
    target.start()
    give(target, *range(CHUNKS))
    assert [progress.have for progress in notes.progress] == [0, 4, 8, 9]


def test_progress_is_said_from_time_to_time(tmp_path: Path) -> None:
    clock = Clock()
    target, notes = download(tmp_path, clock)
    target.start()
    clock.now_s += 2.5
    target.tick()
    target.tick()
    assert len(notes.progress) == 2


def test_missing_chunks_are_asked_for_when_nothing_comes(tmp_path: Path) -> None:
    clock = Clock()
    target, notes = download(tmp_path, clock)
    target.start()
    give(target, 0, 2)
    target.tick()
    assert not notes.missing
    clock.now_s += REPAIR_AFTER_S
    target.tick()
    assert [missing.ranges for missing in notes.missing] == [((1, 1), (3, 8))]


def test_a_complete_blob_is_not_listened_to_any_more(tmp_path: Path) -> None:
    target, notes = download(tmp_path, Clock())
    target.start()
    give(target, *range(CHUNKS))
    assert target.is_complete
    assert notes.left == [descriptor().digest]


def test_a_stopped_download_keeps_what_came(tmp_path: Path) -> None:
    target, _ = download(tmp_path, Clock())
    target.start()
    give(target, 0)
    target.close()
    assert partial(tmp_path).have == 1


def test_chunks_of_a_blob_that_nobody_asked_for_are_dropped(tmp_path: Path) -> None:
    target, _ = download(tmp_path, Clock())
    target.take("f" * 64, 0, chunk(0))
    assert list((tmp_path / "store" / "partial").iterdir()) == []


def test_a_release_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path) -> None:
    storage = FullDisk()
    with pytest.raises(InstallError, match="needs 18 MiB on the disk, 17 MiB are free"):
        check_space(Store(tmp_path, storage).prepare(), storage, [descriptor()])


def test_a_release_of_more_files_than_the_disk_takes_is_refused(tmp_path: Path) -> None:
    storage = FewFiles()
    with pytest.raises(InstallError, match="needs 67 files on the disk, 10 are free"):
        check_space(Store(tmp_path, storage).prepare(), storage, [descriptor()])


class ForgetfulDisk(RealDisk):
    """A disk that fails to write what it was given, once."""

    fails = True

    def sync(self, path: Path) -> None:
        if self.fails:
            self.fails = False
            raise OSError(errno.EIO, "lost")
        super().sync(path)


def test_chunks_that_the_disk_lost_are_fetched_again(tmp_path: Path) -> None:
    storage = Storage(ForgetfulDisk())
    store = Store(tmp_path, Storage()).prepare()
    blob = PartialBlob(descriptor(), store, storage)
    blob.take(0, chunk(0))
    with pytest.raises(OSError, match="lost"):
        blob.sync()
    assert blob.have == 0
    assert not store.partial_path(descriptor().digest).exists()


def test_what_was_fetched_needs_no_space_again(tmp_path: Path) -> None:
    storage = FullDisk()
    blob = partial(tmp_path)
    for number in range(CHUNKS):
        blob.take(number, chunk(number))
    check_space(Store(tmp_path, storage).prepare(), storage, [descriptor()])
