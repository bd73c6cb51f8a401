"""The demo's oracle sees each forbidden outcome when it is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert

from asdic.cli.demo.models import Place
from asdic.cli.demo.oracle import MEANINGS, Oracle
from asdic.contract.files import canonical_json
from asdic.contract.messages import REPORT_TYPE, Loaded, Report, UpdateState
from asdic.contract.release import FILE_NAME, Layout
from asdic.contract.trust import public_hex, sign_envelope
from asdic.fleet.database import Database, devices, reports, rollouts
from tests.support.fleet import LITERT, add_signed_release

NOTHING = dict.fromkeys(MEANINGS, 0)


@dataclass
class Scene:
    """One box that runs release 1.0.0, and the manager's records of it."""

    place: Place
    pid: int
    key: Ed25519PrivateKey
    database: Database
    number: int = 0

    def manifest(self, version: str) -> str:
        layout = Layout.open(self.place.releases)
        return layout.release(version).variants[LITERT].digest

    def install(self, version: str) -> None:
        """Put the files of a release on the box's disk and point ``current`` at them."""
        layout = Layout.open(self.place.releases)
        manifest = layout.manifest(layout.release(version), LITERT)
        name = self.manifest(version).removeprefix("sha256:")
        folder = self.place.box("box") / "releases" / name
        folder.mkdir(parents=True)
        for layer in manifest.layers:
            data = layout.blob_path(layer.digest).read_bytes()
            (folder / layer.annotations[FILE_NAME]).write_bytes(data)
        (folder / "variant.json").write_bytes(layout.read_blob(manifest.config.digest))
        current = self.place.box("box") / "current"
        current.unlink(missing_ok=True)
        current.symlink_to(f"releases/{name}")

    def report(
        self,
        version: str,
        *,
        state: UpdateState = UpdateState.COMMITTED,
        rollout: str | None = None,
        pid: int | None = None,
    ) -> None:
        """Let the box's signed report reach the manager's database."""
        self.number += 1
        manifest = self.manifest(version)
        message = Report(
            device="box",
            number=self.number,
            time_s=0.0,
            target=LITERT,
            state=state,
            rollout=rollout,
            loaded=Loaded(manifest=manifest, version=version, pid=pid or self.pid, inferences=5),
        )
        envelope = sign_envelope(canonical_json(message), REPORT_TYPE, self.key).decode()
        with self.database.writing() as connection:
            row = {"device": "box", "number": self.number, "received_s": 0.0, "envelope": envelope}
            connection.execute(insert(reports).values(**row))

    def counts(self, believed: str = "1.0.0") -> dict[str, int]:
        return Oracle(self.place, ("box",)).look({"box": self.manifest(believed)})


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    place = Place(tmp_path)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        add_signed_release(place.releases, version)
    key = Ed25519PrivateKey.generate()
    row = {"id": "box", "public_key": public_hex(key), "target": LITERT, "simulated": False}
    database = Database(place.fleet / "fleet.db")
    with database.writing() as connection:
        connection.execute(insert(devices).values(**row, tags={}, enrolled_s=0.0))
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "runner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        scene = Scene(place, process.pid, key, database)
        scene.install("1.0.0")
        yield scene
    database.close()


def flip_a_byte(scene: Scene) -> None:
    model = scene.place.box("box") / "current" / "model.bin"
    data = model.read_bytes()
    model.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def leave_a_stranger(scene: Scene) -> None:
    (scene.place.box("box") / "current" / "leftover.bin").touch()


def order_the_way_back(scene: Scene) -> None:
    values = {
        "id": "back",
        "version": "1.0.0",
        "state": "finished",
        "reason": "",
        "salt": "",
        "selection": "all",
        "created_s": 0.0,
        "policy": {},
        "stages": [],
        "unsupported": [],
    }
    with scene.database.writing() as connection:
        connection.execute(insert(rollouts).values(**values))
    scene.report("1.1.0")
    scene.report("1.0.0", rollout="back")


def test_a_box_that_does_what_it_should_counts_nothing(scene: Scene) -> None:
    scene.report("1.0.0")
    assert scene.counts() == NOTHING


def test_a_way_back_that_was_ordered_is_no_downgrade(scene: Scene) -> None:
    order_the_way_back(scene)
    assert scene.counts() == NOTHING


def test_a_dead_runner_is_a_brick(scene: Scene) -> None:
    scene.report("1.0.0", pid=2**22 + 1)
    assert scene.counts()["brick"] == 1


@pytest.mark.parametrize("harm", [flip_a_byte, leave_a_stranger])
def test_files_of_no_one_release_are_mixed(scene: Scene, harm: Callable[[Scene], None]) -> None:
    scene.report("1.0.0")
    harm(scene)
    assert scene.counts()["mixed"] == 1


def test_a_release_that_no_gate_passed_is_unverified(scene: Scene) -> None:
    scene.report("1.2.0")
    scene.report("1.0.0")
    assert scene.counts()["unverified_ran"] == 1


def test_an_older_model_without_an_order_is_a_downgrade(scene: Scene) -> None:
    scene.report("1.1.0")
    scene.report("1.0.0")
    assert scene.counts()["downgraded"] == 1


def test_an_update_without_an_end_is_stuck(scene: Scene) -> None:
    scene.report("1.0.0", state=UpdateState.PROBATION)
    assert scene.counts()["stuck"] == 1


def test_a_belief_that_the_box_does_not_share_is_a_lie(scene: Scene) -> None:
    scene.report("1.0.0")
    assert scene.counts(believed="1.1.0")["lied"] == 1


def test_a_forged_report_is_not_believed(scene: Scene) -> None:
    scene.report("1.0.0")
    with scene.database.writing() as connection:
        row = connection.execute(reports.select()).one()
        forged = json.loads(row.envelope) | {"payload": "e30="}
        connection.execute(reports.update().values(envelope=json.dumps(forged)))
    with pytest.raises(Exception, match="not signed"):
        scene.counts()
