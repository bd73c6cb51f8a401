"""``asdic flash`` of an arm64 box, as an operator types it: bare, then a member of the fleet.

The box is emulated (``tests/support/ssh_box.py``): its own shell, Python, runit and wheels, behind
a real sshd.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from asdic.contract.errors import LinkError
from asdic.contract.messages import Report
from asdic.contract.release import Layout
from asdic.fleet.flash.shore import Shore
from asdic.fleet.flash.wheelhouse import build_wheelhouse
from asdic.fleet.signing import ImageRepository
from asdic.fleet.view import DeviceView
from tests.conftest import missing
from tests.integration.test_serve import serving
from tests.support import arm64_system, litert_outputs
from tests.support.desk import until
from tests.support.models import keyword_inputs, make_keyword_variant
from tests.support.ssh_box import ArmSshBox, arm_ssh_box

# An emulated pip takes minutes where the machine has other work.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TARGET: Final = "arm64-litert-int8"
DEVICE: Final = "arm-1"
CACHE: Final = Path("~/.cache/asdic/wheelhouse").expanduser()
SERVICE: Final = "/etc/sv/asdic-agent"
ASDIC: Final = "from asdic.cli.main import main; main()"


@dataclass(frozen=True)
class Desk:
    """Where the operator sits: the manager's folders, and the box that is to be flashed."""

    folder: Path
    box: ArmSshBox

    def asdic(self, verb: str, *words: str) -> Any:
        """Run a command of the operator's about the box, and return what it says."""
        done = subprocess.run(
            [
                *(sys.executable, "-c", ASDIC, verb, self.box.door.address),
                *("--fleet", "fleet", *self.box.site, "--json", *words),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def flash(self, *words: str) -> Any:
        """Flash the box and return what the command says of it."""
        (said,) = self.asdic(
            *("flash", "--target", TARGET, "--release", "1.0.0", "--tag", "ward=icu"),
            *("--device", DEVICE, "--user", getpass.getuser(), "--service", "runit"),
            *("--cache", str(CACHE), *words),
        )
        return said

    @property
    def known(self) -> DeviceView:
        """What the manager knows of the box."""
        known = Shore(self.folder / "fleet", self.folder / "releases").device(DEVICE)
        assert known is not None
        return known

    @property
    def report(self) -> Report:
        """The last report that the box signed."""
        return msgspec.json.decode(
            (self.box.state / "reports" / "last.json").read_bytes(), type=Report
        )

    @property
    def agent(self) -> int:
        """The process of the agent, as the box's own runit knows it."""
        said = self.box.run("/usr/bin/sv", "status", SERVICE).stdout
        found = re.match(r"run: .*?\(pid (\d+)\)", said)
        return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Desk]:
    reason = arm64_system.unavailable_reason() or _absence()
    if reason is not None:
        missing(reason)
    folder = tmp_path_factory.mktemp("desk")
    variant = make_keyword_variant(folder / "variant", shared_data, target=TARGET)
    layout = Layout.create(folder / "releases")
    layout.add_release("1.0.0", {TARGET: variant}, security_counter=1)
    ImageRepository(folder / "releases", folder / "keys").sign(layout, "1.0.0")
    with arm_ssh_box(folder / "box") as box, serving(folder):
        yield Desk(folder, box)


def _absence() -> str | None:
    """Return why the box or its wheels cannot be brought, or None."""
    try:
        build_wheelhouse(
            CACHE,
            architecture="aarch64",
            python=arm64_system.python_of(arm64_system.arm64_system()),
            runtime="litert",
            progress=lambda _words: None,
        )
    except (arm64_system.Arm64SystemError, LinkError) as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def planned(desk: Desk) -> Any:
    """What a dry run says of the bare box."""
    return desk.flash("--dry-run")


@pytest.fixture(scope="module")
def flashed(desk: Desk, planned: object) -> Any:
    """What the first flash says."""
    assert not desk.box.prefix.exists(), "the box is bare"
    return desk.flash()["outcome"]


def test_a_dry_run_finds_an_arm_box_and_changes_nothing(desk: Desk, planned: Any) -> None:
    assert planned["problems"] == []
    assert planned["needs"]["build"]
    assert not desk.box.prefix.exists()
    assert not desk.box.state.exists()


def test_a_bare_box_ends_with_a_committed_signed_report(desk: Desk, flashed: Any) -> None:
    assert (flashed["device"], flashed["release"]) == (DEVICE, "1.0.0")
    assert flashed["report_number"] > 0
    known = desk.known
    assert (known.state, known.release, known.tags) == ("committed", "1.0.0", {"ward": "icu"})


def test_the_report_is_of_int8_inference_on_an_arm_core(desk: Desk, flashed: object) -> None:
    report = desk.report
    assert report.target == TARGET
    assert report.runtime is not None
    assert (report.runtime.runtime, report.runtime.cpu_features) == ("litert", ("asimd",))
    assert report.loaded is not None
    assert report.loaded.inferences > 0


def test_outputs_recorded_on_x86_pass_its_gate_exactly(desk: Desk, flashed: object) -> None:
    gate = desk.report.gate
    assert gate is not None
    assert (gate.outputs_checked, gate.worst_difference) == (8, 0.0)


def test_what_was_installed_there_infers_the_same_bits_as_here(
    desk: Desk, flashed: object, shared_data: Path
) -> None:
    folder = desk.box.folder / "bits"
    folder.mkdir()
    inputs, _ = keyword_inputs(shared_data, count=64)
    model = shared_data / "models" / "kws_int8.tflite"
    np.savez(folder / "inputs.npz", inputs=inputs)
    for path in (model, Path(litert_outputs.__file__)):
        shutil.copy(path, folder)
    names = ("litert_outputs.py", "kws_int8.tflite", "inputs.npz", "outputs.npz")
    python = desk.box.prefix / "current" / "bin" / "python"
    done = desk.box.run(str(python), *(str(folder / name) for name in names))
    assert done.returncode == 0, done.stderr
    expected = litert_outputs.litert_outputs(model, inputs)
    assert all(np.ptp(array) > 0 for array in expected.values()), "the model does answer"
    with np.load(folder / "outputs.npz", allow_pickle=False) as answers:
        assert {name: answers[name].tobytes() for name in answers.files} == {
            name: array.tobytes() for name, array in expected.items()
        }


def test_a_second_flash_changes_nothing(desk: Desk, flashed: Any) -> None:
    agent = desk.agent
    outcome = desk.flash()["outcome"]
    assert (outcome["done"], outcome["sent_bytes"]) == ([], 0)
    assert outcome["version"] == flashed["version"]
    assert desk.agent == agent != 0


def test_runit_starts_a_killed_agent_again(desk: Desk, flashed: object) -> None:
    agent, number = desk.agent, desk.known.report_number
    os.kill(agent, signal.SIGKILL)
    until(lambda: desk.agent not in {0, agent}, patience_s=60.0)
    until(lambda: desk.known.report_number > number, patience_s=120.0)
    assert desk.known.state == "committed"


def test_unflash_leaves_nothing_that_runs_and_nothing_that_lies(
    desk: Desk, flashed: object
) -> None:
    desk.asdic("unflash", "--yes")
    assert desk.agent == 0
    assert not any(path.exists() for path in (desk.box.prefix, desk.box.state))
    assert not (desk.box.folder / "etc" / "sv" / "asdic-agent").exists()
