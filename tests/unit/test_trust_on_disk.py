"""The trust of a device on its disk, with what real offers leave in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from asdic.contract.errors import AsdicError
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder
from tests.support.signers import Signers, refusal, verify


@pytest.fixture
def signers(tmp_path: Path) -> Signers:
    made = Signers(tmp_path)
    made.release("1.0.0")
    return made


class TestTrustFolder:
    """The trust on disk."""

    def folder(self, signers: Signers, path: Path) -> TrustFolder:
        folder = TrustFolder(path / "trust", Storage())
        folder.bootstrap(
            image_root=signers.image.signed.first_root(),
            director_root=signers.director.first_root(),
        )
        return folder

    def test_what_was_written_is_read(self, signers: Signers, tmp_path: Path) -> None:
        folder = self.folder(signers, tmp_path)
        verified = verify(signers.offer("1.0.0"), folder.read())
        folder.write(verified.trust)
        assert folder.read() == verified.trust

    def test_damaged_copies_are_forgotten_and_the_floor_holds(
        self, signers: Signers, tmp_path: Path
    ) -> None:
        folder = self.folder(signers, tmp_path)
        older = signers.offer("1.0.0")
        folder.write(verify(signers.offer("1.0.0"), folder.read()).trust)
        (folder.folder / "metadata.json").write_bytes(b'{"image": {')
        assert refusal(older, folder.read()) == "replayed"

    def test_a_damaged_floor_is_no_empty_floor(self, signers: Signers, tmp_path: Path) -> None:
        folder = self.folder(signers, tmp_path)
        (folder.folder / "floor.json").write_bytes(b"{")
        with pytest.raises(AsdicError, match=r"floor\.json is damaged"):
            folder.read()

    def test_enrolling_again_keeps_the_floor(self, signers: Signers, tmp_path: Path) -> None:
        folder = self.folder(signers, tmp_path)
        folder.raise_counter(5)
        again = self.folder(signers, tmp_path)
        assert again.read().floor.security_counter == 5

    def test_the_counter_never_falls(self, signers: Signers, tmp_path: Path) -> None:
        folder = self.folder(signers, tmp_path)
        folder.raise_counter(5)
        folder.raise_counter(3)
        assert folder.read().floor.security_counter == 5
