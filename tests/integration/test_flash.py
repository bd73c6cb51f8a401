"""``asdic flash`` over a real sshd, a real manager, real wheels and agents: cut, ended, undone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import InstallError, LinkError
from asdic.contract.files import write_file
from asdic.contract.release import Layout
from asdic.contract.variant import VARIANT_FILE, Limits, encode_variant, read_variant
from asdic.fleet.flash.shelf import Done, flash_all
from asdic.fleet.flash.verify import verify
from asdic.fleet.signing import ImageRepository
from tests.conftest import missing
from tests.integration.test_serve import serving
from tests.support.desk import until
from tests.support.flash_yard import (
    TARGET,
    FlashYard,
    light_wheels,
    open_door,
    other_version,
    wheels_for_here,
)
from tests.support.models import make_keyword_variant
from tests.support.ssh_cable import Cable

pytestmark = pytest.mark.slow

SMALL = {"release": None, "service": "runit", "run_options": ("--no-runner",)}
"""An agent alone, under runit: what the tests of the switch need."""

UNTIL_THE_SWITCH = {
    (step, moment)
    for step in ("find-python", "probe", "prepare", "missing", "receive", "build", "start")
    for moment in ("before", "amid", "after")
}


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[FlashYard]:
    folder = tmp_path_factory.mktemp("yard")
    _sign_releases(folder, shared_data)
    box = folder / "box"
    box.mkdir()
    with open_door(folder / "ssh") as door, serving(folder):
        yield FlashYard(folder=folder, box=box, door=door, wheels=wheels_for_here())


def _sign_releases(folder: Path, shared_data: Path) -> None:
    """Sign release 1.0.0, and 2.0.0, which is never fast enough."""
    variant = make_keyword_variant(folder / "variant", shared_data)
    layout = Layout.create(folder / "releases")
    repository = ImageRepository(folder / "releases", folder / "keys")
    layout.add_release("1.0.0", {TARGET: variant})
    repository.sign(layout, "1.0.0")
    slow = msgspec.structs.replace(read_variant(variant), limits=Limits(latency_ms=1e-6))
    write_file(variant / VARIANT_FILE, encode_variant(slow))
    layout.add_release("2.0.0", {TARGET: variant})
    repository.sign(layout, "2.0.0")


@pytest.fixture(scope="module")
def cuts(yard: FlashYard) -> list[tuple[str, str, str | None]]:
    """Pull the cable at every moment of a first flash, one run a moment; then let one run end.

    Returns step, moment, and what the box ran after each.
    """
    told, spent, words = [], set[tuple[str, str]](), list[str]()
    while True:
        cable = Cable(spent)
        try:
            yard.flash(cable=cable)
        except LinkError:
            assert cable.cut_at is not None
        words += cable.words
        if cable.cut_at is None:
            assert not [word for word in words if "--token" in word and word != "--token-file"]
            return told
        told.append((*cable.cut_at, yard.current))


def test_a_cable_that_is_pulled_at_any_step_leaves_a_box_that_the_next_run_finishes(
    yard: FlashYard, cuts: list[tuple[str, str, str | None]]
) -> None:
    steps = {step for step, _, _ in cuts}
    assert {"probe", "receive", "build", "tunnel", "as-user", "start", "decide", "tidy"} <= steps
    begun = next(number for number, cut in enumerate(cuts) if cut[:2] == ("start", "amid"))
    assert {current for _, _, current in cuts[:begun]} == {None}
    assert (yard.known.state, yard.known.release) == ("committed", "1.0.0")
    assert yard.activation == "confirmed"
    kept = {path.name for path in (yard.prefix / "incoming").iterdir()}
    assert kept == {file.digest.removeprefix("sha256:") for file in yard.wheels.files}
    assert len(list(yard.prefix.glob("*-*"))) == 1


def test_a_second_flash_changes_nothing(yard: FlashYard, cuts: object) -> None:
    before = yard.tree
    outcome = yard.flash()
    assert (outcome.done, outcome.sent_bytes, outcome.release) == ((), 0, "1.0.0")
    assert yard.tree == before


def test_the_devices_key_is_made_on_the_box_for_its_user_alone(
    yard: FlashYard, cuts: object
) -> None:
    key = yard.state / "identity" / "key.pem"
    assert key.stat().st_mode & 0o077 == 0


def test_a_box_is_as_here_until_somebody_changes_a_file(yard: FlashYard, cuts: object) -> None:
    compared = yard.with_flash(verify)
    assert compared.is_equal, list(compared.lines())
    assert compared.files > 1000
    site = next((yard.prefix / str(yard.current)).glob("lib/python3*/site-packages"))
    names = ("agent.py", "log.py", "stray.py")
    agent, other, stray = (site / "asdic" / "device" / name for name in names)
    text = agent.read_text()
    try:
        agent.write_text(text + "\n")
        other.rename(stray)
        compared = yard.with_flash(verify)
    finally:
        agent.write_text(text)
        stray.rename(other)
    assert [Path(name).name for name in compared.different] == ["agent.py"]
    assert [Path(name).name for name in compared.missing] == ["log.py"]
    assert [Path(name).name for name in compared.unexpected] == ["stray.py"]


def test_a_release_that_the_box_refuses_leaves_it_on_the_one_before(
    yard: FlashYard, cuts: object
) -> None:
    current = yard.current
    with pytest.raises(
        InstallError, match=f"put back, it runs {current} as before: .*an inference takes"
    ):
        yard.flash(release="2.0.0")
    assert yard.current == current
    assert yard.flash().release == "1.0.0"


@pytest.fixture(scope="module")
def small(yard: FlashYard) -> Iterator[FlashYard]:
    """Return a box whose agent runs under runit, and runs no model."""
    if shutil.which("runsvdir") is None:
        missing("runsvdir is not installed; install the Debian package runit")
    scan = yard.folder / "scan"
    scan.mkdir()
    box = yard.other("small", light_wheels(yard.wheels, yard.folder / "light"))
    with subprocess.Popen(["runsvdir", "-P", str(scan)], stderr=subprocess.DEVNULL) as process:
        try:
            outcome = box.flash(**SMALL)
            assert outcome.report_number > 0
            yield box
        finally:
            process.send_signal(signal.SIGHUP)


def test_a_service_starts_the_agent_and_stays(small: FlashYard) -> None:
    until(lambda: small.known.online)
    before = small.known.report_number
    assert small.flash(**SMALL).done == ()
    status = subprocess.run(
        ["sv", "status", str(small.box / "services" / "asdic-agent")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert status.stdout.startswith("run:")
    assert small.known.report_number == before


def test_a_newer_asdic_replaces_the_one_on_the_box_and_keeps_it_beside(small: FlashYard) -> None:
    old = small.current
    small.wheels = other_version(small.wheels, small.folder / "newer", "0.2.0")
    outcome = small.flash(**SMALL)
    assert outcome.sent_bytes == max(
        file.size_bytes for file in small.wheels.files if file.name.startswith("asdic-")
    )
    report = json.loads((small.state / "reports" / "last.json").read_text())
    assert (str(small.current)[:6], report["agent_version"]) == ("0.2.0-", "0.2.0")
    assert (small.prefix / "previous").readlink().name == old


def test_an_agent_that_does_not_report_gives_way_to_the_old_one(small: FlashYard) -> None:
    current, number = small.current, small.known.report_number
    changed = {"asdic/cli/agent_run.py": "raise SystemExit('this agent is broken')\n"}
    wheels = other_version(small.wheels, small.folder / "broken", "0.3.0", changed=changed)
    broken = replace(small, wheels=wheels)
    with pytest.raises(InstallError, match=f"it runs {current} as before: no signed report"):
        broken.flash(**SMALL, patience_s=3.0)
    assert small.current == current
    until(lambda: small.known.online and small.known.report_number > number)


def test_a_switch_that_nobody_confirms_is_undone_by_the_box_itself(small: FlashYard) -> None:
    current = small.current
    lost = replace(small, wheels=other_version(small.wheels, small.folder / "lost", "0.4.0"))
    with pytest.raises(LinkError):
        lost.flash(**SMALL, patience_s=1.0, cable=Cable(UNTIL_THE_SWITCH))
    until(lambda: small.activation == "reverted")
    assert small.current == current
    until(lambda: small.known.online)
    assert small.flash(**SMALL).done == ("remove what is of no use",)
    assert not list(small.prefix.glob("0.4.0-*"))


def test_one_box_that_fails_does_not_stop_the_others(small: FlashYard) -> None:
    wishes = [small.wish(**SMALL, address="nobody@127.0.0.1:9"), small.wish(**SMALL)]
    path = small.folder / "done.json"
    bad, good = flash_all(wishes, small.fulfil, done=Done(path), parallel=2)
    assert "does not answer" in bad.error
    assert good.text == "no change"
    bad, good = flash_all(wishes, small.fulfil, done=Done(path), resume=True)
    assert (bool(bad.error), good.text) == (True, "done before")


def asdic(yard: FlashYard, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb as a process, with the options that say where the box is."""
    site = msgspec.structs.asdict(yard.site())
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in site.items()
        if name != "address" and value
    ]
    return subprocess.run(
        [sys.executable, "-c", "from asdic.cli.main import main; main()", *words, *options],
        cwd=yard.folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(yard: FlashYard) -> None:
    bare = yard.other("bare", yard.wheels)
    address = bare.door.address
    words = ("flash", address, "--target", TARGET, "--release", "1.0.0", "--device", "bare")
    said = asdic(bare, *words, "--service", "none", "--dry-run", "--json")
    assert said.returncode == 0, said.stderr
    (plan,) = json.loads(said.stdout)
    assert [step["what"] for step in plan["steps"] if step["todo"]] == [
        *("asdic", "current", "fleet", "release", "report"),
    ]
    assert list(bare.box.iterdir()) == []
    said = asdic(bare, *words[:3], "arm64-litert-int8", "--dry-run")
    assert said.returncode == 1
    assert "arm64-litert-int8 is for arm64, this box is x86_64" in said.stderr


def test_unflash_removes_all_and_a_kept_identity_comes_back_as_itself(small: FlashYard) -> None:
    key = (small.state / "identity" / "key.pem").read_bytes()
    small.unflash(keep_identity=True)
    assert not small.prefix.exists()
    assert not (small.box / "services" / "asdic-agent").exists()
    small.flash(**SMALL)
    assert (small.state / "identity" / "key.pem").read_bytes() == key
    said = asdic(small, "unflash", small.door.address, "--yes")
    assert said.returncode == 0, said.stderr
    assert not small.prefix.exists()
    assert not small.state.exists()
    assert "nothing to remove" in asdic(small, "unflash", small.door.address).stdout
