"""``asdic flash`` of a box that a real systemd runs: what the unit allows, forbids and survives.

The box is ``tests/support/systemd_box.py``: the host's programs, everything else its own. Nothing
is said to the flash of where asdic goes, who runs it and what starts it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from asdic.contract.errors import InstallError, LinkError
from asdic.contract.files import write_file
from asdic.contract.messages import Report
from asdic.contract.release import Layout
from asdic.contract.variant import VARIANT_FILE, Limits, encode_variant, read_variant
from asdic.firmware_bridge.ring import SHARED_MEMORY
from asdic.fleet.flash.cargo import Wheels
from asdic.fleet.signing import ImageRepository
from asdic.fleet.view import DeviceView
from tests.conftest import missing
from tests.integration.test_serve import serving
from tests.support.desk import until
from tests.support.flash_yard import TARGET, FlashYard, other_version, wheels_for_here
from tests.support.models import make_keyword_variant
from tests.support.systemd_box import SystemdBox, systemd_box

pytestmark = pytest.mark.slow

DEVICE: Final = "box"
"""The box's host name, since the flash is told no other."""

UNIT: Final = "asdic-agent.service"
ASDIC: Final = "from asdic.cli.main import main; main()"
WISH: Final = ("--target", TARGET)
SCORE: Final = re.compile(r"systemd-analyze security: ([\d.]+) \(OK\)")

BARE: Final = {
    **{"prefix": "/opt/asdic", "state": "/var/lib/asdic", "service": "auto"},
    **dict.fromkeys(("service_folder", "runit_scan", "user", "python")),
    "tags": {},
}
"""What the command line says where nothing is said."""


@dataclass(frozen=True)
class Desk:
    """Where the operator sits: the manager's side, and the box that is to be flashed."""

    yard: FlashYard
    box: SystemdBox

    def asdic(self, *words: str) -> str:
        """Run a command of the operator's, and return what it says."""
        done = self.attempt(*words)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.journal}"
        return done.stdout

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the operator's."""
        return subprocess.run(
            [sys.executable, "-c", ASDIC, *words, "--fleet", "fleet"],
            cwd=self.yard.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def flash(self, *words: str) -> str:
        """Flash the box."""
        return self.asdic("flash", self.box.door.address, *WISH, *self.box.site, *words)

    @property
    def known(self) -> DeviceView:
        """What the manager knows of the box."""
        return self.yard.known

    @property
    def report(self) -> Report:
        """The last report that the box signed."""
        path = self.box.root / "var" / "lib" / "asdic" / "reports" / "last.json"
        return msgspec.json.decode(path.read_bytes(), type=Report)

    @property
    def agent(self) -> str:
        """The process of the agent, as the box's systemd knows it."""
        return self.unit("MainPID")

    @property
    def journal(self) -> str:
        """What the agent said since the box was switched on."""
        return self.box.run("journalctl", "--no-pager", "--unit", UNIT).stdout

    def unit(self, name: str) -> str:
        """Return a property of the agent's unit."""
        return self.box.run("systemctl", "show", "--property", name, "--value", UNIT).stdout.strip()

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command where the agent is: among the files that it sees."""
        return self.box.run("nsenter", "--target", self.agent, "--mount", *words)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with systemd_box(folder / "box") as box:
        _sign_releases(folder, shared_data)
        yard = FlashYard(
            folder=folder,
            box=box.root,
            door=box.door,
            wheels=_wheels(box.python),
            device=DEVICE,
        )
        with serving(folder):
            yield Desk(yard, box)


def _sign_releases(folder: Path, shared_data: Path) -> None:
    """Sign 1.0.0 and 1.1.0, which are good, and 2.0.0, which is never fast enough."""
    variant = make_keyword_variant(folder / "variant", shared_data)
    layout = Layout.create(folder / "releases")
    repository = ImageRepository(folder / "releases", folder / "keys")
    for number, version in enumerate(("1.0.0", "1.1.0", "2.0.0")):
        if version == "2.0.0":
            slow = msgspec.structs.replace(read_variant(variant), limits=Limits(latency_ms=1e-6))
            write_file(variant / VARIANT_FILE, encode_variant(slow))
        layout.add_release(version, {TARGET: variant}, security_counter=number)
        repository.sign(layout, version)


def _wheels(python: str) -> Wheels:
    try:
        return wheels_for_here(python)
    except LinkError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def flashed(desk: Desk) -> Any:
    """What the first flash of the bare box says."""
    (said,) = json.loads(desk.flash("--release", "1.0.0", "--json"))
    return said["outcome"]


def test_a_bare_box_ends_with_a_committed_signed_report_of_inference(
    desk: Desk, flashed: Any
) -> None:
    assert (flashed["device"], flashed["release"]) == (DEVICE, "1.0.0")
    assert (desk.known.state, desk.known.release) == ("committed", "1.0.0")
    report = desk.report
    assert report.runtime is not None
    assert report.runtime.runtime == "litert"
    assert report.loaded is not None
    assert report.loaded.inferences > 0


def test_systemd_runs_the_agent_now_and_after_every_start(desk: Desk, flashed: Any) -> None:
    assert "set up systemd" in flashed["done"]
    for question in ("is-active", "is-enabled"):
        assert desk.box.run("systemctl", question, UNIT).returncode == 0
    assert desk.unit("NRestarts") == "0"


def test_the_agent_has_no_privilege_and_may_get_none(desk: Desk, flashed: object) -> None:
    text = desk.box.run("cat", f"/proc/{desk.agent}/status").stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    user = desk.box.run("id", "--user", "asdic").stdout.strip()
    assert status["Uid"].split() == [user] * 4
    assert user != "0"
    assert {status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_the_agent_can_write_its_state_alone(desk: Desk, flashed: object) -> None:
    assert desk.inside("test", "-w", "/var/lib/asdic/agent.toml").returncode == 0
    for place in ("/opt/asdic", "/etc", "/var/lib", "/proc/irq"):
        assert desk.box.run("test", "-w", place).returncode == 0, place
        assert desk.inside("test", "-w", place).returncode == 1, place


def test_the_agent_sees_no_homes_and_no_devices(desk: Desk, flashed: object) -> None:
    (desk.box.root / "root" / "letter").write_text("dear")
    desk.box.run("mknod", "/dev/stray", "c", "1", "7")
    for path in ("/root/letter", "/dev/stray"):
        assert desk.box.run("test", "-e", path).returncode == 0
        assert desk.inside("test", "-e", path).returncode == 1


def test_frames_in_shared_memory_reach_the_agent(desk: Desk, flashed: object) -> None:
    ring = str(SHARED_MEMORY / "asdic-probe")
    desk.box.run("touch", ring)
    assert desk.inside("test", "-e", ring).returncode == 0


def test_a_second_flash_changes_nothing_and_says_how_exposed_the_unit_is(
    desk: Desk, flashed: Any
) -> None:
    agent = desk.agent
    said = desk.flash("--release", "1.0.0")
    assert "no change" in said
    assert desk.agent == agent
    score = SCORE.search(said)
    assert score is not None
    assert {"exposure": float(score[1]), "level": "OK", "notes": []} == flashed["security"]


def test_a_release_over_the_air_is_tried_as_confined_as_without_a_unit(
    desk: Desk, flashed: object
) -> None:
    desk.asdic("push", "1.1.0", "--wait")
    assert (desk.known.state, desk.known.release) == ("committed", "1.1.0")
    log = (desk.box.root / "opt" / "asdic" / "activation.log").read_text()
    assert _given_up(desk.journal) == _given_up(log)
    assert {"network", "capabilities", "new-privileges"} <= set(_given_up(log))


def _given_up(log: str) -> list[str]:
    """Return what the last trial of a log ran without."""
    return re.findall(r"the trial ran without: (.*)", log)[-1].split(", ")


def test_a_release_that_the_box_refuses_leaves_the_old_agent_to_systemd(
    desk: Desk, flashed: object
) -> None:
    done = desk.attempt("flash", desk.box.door.address, *WISH, *desk.box.site, "--release", "2.0.0")
    assert done.returncode == 1
    assert "was put back" in done.stderr
    until(lambda: desk.known.online)
    assert desk.unit("ActiveState") == "active"


def test_an_agent_that_does_not_start_gives_way_to_the_old_one(desk: Desk, flashed: object) -> None:
    yard, number = desk.yard, desk.known.report_number
    broken = {"asdic/cli/agent_run.py": "raise SystemExit('this agent is broken')\n"}
    wheels = other_version(yard.wheels, yard.folder / "broken", "0.3.0", changed=broken)
    with pytest.raises(InstallError, match="as before: no signed report of the new agent"):
        replace(yard, wheels=wheels).flash(**BARE, release=None, patience_s=3.0)
    assert "this agent is broken" in desk.journal
    until(lambda: desk.known.online and desk.known.report_number > number)
    assert desk.unit("ActiveState") == "active"


def test_a_killed_agent_is_started_again(desk: Desk, flashed: object) -> None:
    agent, number = desk.agent, desk.known.report_number
    desk.box.run("kill", "-KILL", agent)
    until(lambda: desk.known.report_number > number)
    assert desk.agent not in {"0", agent}
    assert desk.unit("NRestarts") == "1"


def test_after_a_power_cut_the_agent_comes_back_by_itself(desk: Desk, flashed: object) -> None:
    number = desk.known.report_number
    desk.box.cut_power()
    desk.box.start()
    until(lambda: desk.known.online and desk.known.report_number > number)


def test_unflash_leaves_nothing_for_systemd_to_start(desk: Desk, flashed: object) -> None:
    agent = desk.agent
    desk.asdic("unflash", desk.box.door.address, *desk.box.site, "--yes")
    assert desk.box.run("test", "-d", f"/proc/{agent}").returncode == 1
    assert desk.unit("LoadState") == "not-found"
    # What was in /var/tmp when the power was cut is for systemd-tmpfiles to remove.
    left = [path for path in desk.box.root.rglob("*asdic*") if path.parent.name != "tmp"]
    assert left == []
    assert "asdic" not in (desk.box.root / "etc" / "passwd").read_text()
