"""The doctor on whole, working and damaged boxes; the bundle, opened; the agent's log."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from asdic.contract.broker import BrokerAddress
from asdic.contract.messages import UpdateState
from asdic.device.application import Application
from asdic.device.bundle import PARTS, write_bundle
from asdic.device.case import Level
from asdic.device.checks import CHECKS
from asdic.device.config import write_config
from asdic.device.doctor import Diagnosis, Finding, diagnose
from asdic.device.log import FILE_LIMIT_BYTES, WarningsFile, log_file, log_files, read_log
from asdic.device.update.journal import Finished, Journal, JournalFile
from asdic.device.update.storage import Storage
from asdic.fleet.broker import open_broker
from tests.support.boxes import Box
from tests.support.yard import Yard

YEAR_S = 365 * 86_400.0


@pytest.fixture(scope="module")
def template(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a box that runs 1.0.0."""
    box = Box.make(tmp_path_factory.mktemp("doctor") / "box1", roots=yard.roots)
    assert box.install(yard.stick("1.0.0")).returncode == 0
    return box.state.path


@pytest.fixture
def box(template: Path, tmp_path: Path) -> Box:
    shutil.copytree(
        template, tmp_path / "box1", symlinks=True, ignore=shutil.ignore_patterns("*.sock")
    )
    return Box(tmp_path / "box1")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerAddress]:
    with open_broker(tmp_path / "broker", None) as address:
        yield address


def said(diagnosis: Diagnosis, check: str) -> list[Finding]:
    return [one for one in diagnosis.findings if one.check == check]


def worst(diagnosis: Diagnosis, check: str) -> Finding:
    return max(said(diagnosis, check), key=lambda one: list(Level).index(one.level))


def write_journal(box: Box, journal: Journal) -> None:
    JournalFile(box.state.journal, Storage()).write(journal)


def test_a_box_whose_agent_runs_has_nothing_to_be_done(box: Box) -> None:
    with box:
        box.start()
        box.wait_until_runs("1.0.0")
        found = diagnose(box.state)
        assert found.errors == (), found
        assert worst(found, "runs").found.startswith("1.0.0, ")
        assert box.call("doctor").returncode == 0
        assert box.is_running


def test_a_box_whose_agent_does_not_run_says_what_ran_last(box: Box) -> None:
    finding = worst(diagnose(box.state), "runs")
    assert finding.level is Level.ERROR
    assert "no agent runs" in finding.found
    assert "has 1.0.0 running" in finding.found
    assert "asdic-agent run" in finding.advice


def test_an_error_is_exit_code_1_after_the_whole_answer(box: Box) -> None:
    done = box.call("doctor", "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["format"] == "asdic-doctor/1"
    assert [one["check"] for one in answer["findings"] if one["level"] == "error"] == ["runs"]
    assert done.stderr == "asdic-agent: something has to be done: runs\n"


def test_a_folder_that_is_no_box_is_examined_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = Box(tmp_path / "empty").call("doctor")
    assert done.returncode == 1
    assert "is not an enrolled device" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("agent.toml", "identity"),
        ("identity/key.pem", "identity"),
        ("journal.json", "files"),
        ("journal.json", "update"),
        ("trust/floor.json", "files"),
        ("trust/metadata.json", "files"),
        ("trust/image-root.json", "files"),
        ("reports/number", "files"),
        ("store/schema.json", "files"),
    ],
)
@pytest.mark.parametrize("damage", [b"", b"\xff\x00", b"[]"])
def test_a_damaged_file_is_a_finding(box: Box, name: str, check: str, damage: bytes) -> None:
    (box.state.path / name).write_bytes(damage)
    assert worst(diagnose(box.state), check).level is Level.ERROR


def damaged_everywhere(box: Box, damage: Callable[[Path], object]) -> Iterator[Path]:
    """Damage one file of the box after the other, for as long as the damage is looked at."""
    for path in sorted(path for path in box.state.path.rglob("*") if path.is_file()):
        aside = path.with_name("aside")
        path.rename(aside)
        damage(path)
        yield path
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        aside.rename(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\x00\xff" * 99),
        lambda path: path.write_bytes(b'{"schema": 2}\n'),
        lambda path: path.symlink_to("/nowhere"),
        lambda path: path.mkdir(),
        lambda path: path.unlink(missing_ok=True),
    ],
    ids=["rubbish", "json", "dangling-link", "folder", "missing"],
)
def test_no_damage_ends_the_examination(
    box: Box, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    for path in damaged_everywhere(box, damage):
        found = diagnose(box.state)
        assert {one.check for one in found.findings} == set(CHECKS), path
        assert "doctor.json" in write_bundle(tmp_path / "b.tar.gz", box.state, found)


def test_a_newer_agents_journal_is_a_finding_that_says_what_to_do(box: Box) -> None:
    write_journal(box, Journal(schema=99))
    finding = worst(diagnose(box.state), "update")
    assert finding.level is Level.ERROR
    assert "install the newer agent" in finding.found


def test_a_key_that_others_may_read_is_a_finding(box: Box) -> None:
    box.state.key.chmod(0o644)
    finding = worst(diagnose(box.state), "identity")
    assert finding.level is Level.ERROR
    assert "0600" in finding.found


def test_a_damaged_model_is_a_finding(box: Box) -> None:
    model = next((box.state.path / "current").resolve().glob("model.*"))
    data = bytearray(model.read_bytes())
    model.unlink()
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    finding = worst(diagnose(box.state), "store")
    assert finding.level is Level.ERROR
    assert "the current release is damaged" in finding.found


def test_a_pointer_to_nothing_is_a_finding(box: Box) -> None:
    shutil.rmtree((box.state.path / "current").resolve())
    finding = worst(diagnose(box.state), "files")
    assert finding.level is Level.ERROR
    assert "current points to a release that is not there" in finding.found


@pytest.mark.parametrize(
    ("later_s", "level", "words"),
    [
        (0.0, Level.OK, "later than the newest signed time"),
        (-10 * YEAR_S, Level.WARNING, "too early"),
        (10 * YEAR_S, Level.ERROR, "implausibly late"),
    ],
)
def test_the_clock_is_compared_with_the_newest_signed_time(
    box: Box, later_s: float, level: Level, words: str
) -> None:
    finding = worst(diagnose(box.state, now_s=time.time() + later_s), "clock")
    assert finding.level is level
    assert words in finding.found


def test_a_broker_that_answers_is_said_to(box: Box, broker: BrokerAddress) -> None:
    assert worst(diagnose(box.state), "link").level is Level.WARNING
    write_config(box.state, msgspec.structs.replace(box.config, broker=broker))
    assert worst(diagnose(box.state), "link").level is Level.OK


def test_a_refused_release_is_told_with_its_reason(yard: Yard, box: Box) -> None:
    assert box.install(yard.stick("1.2.0")).returncode == 1
    finding = worst(diagnose(box.state), "update")
    assert finding.level is Level.WARNING
    assert finding.found.startswith("1.2.0 failed: golden input 0: an output differs")


def test_a_rollout_that_failed_before_is_remembered_aloud(box: Box) -> None:
    failed = Finished(rollout="bad-1", offer="x", manifest=None, state=UpdateState.FAILED)
    write_journal(box, msgspec.structs.replace(box.status.journal, finished=(failed,)))
    assert "bad-1" in worst(diagnose(box.state), "update").found


def test_an_update_that_waits_for_an_exam_says_until_when(box: Box) -> None:
    with box:
        box.start("--no-runner")
        box.wait_for(lambda _: (box.state.application / "agent.sock").exists())
        with Application.connect(box.state.path) as program:
            program.busy(3600.0)
        box.stop()
    write_journal(box, Journal(state=UpdateState.DEFERRED, version="1.1.0"))
    finding = worst(diagnose(box.state), "update")
    later = time.strftime("%Y-%m-%d %H:", time.gmtime(time.time() + 3600))
    assert finding.found.startswith(f"1.1.0 waits for the end of an exam, until {later}")


def hang_up(listening: socket.socket) -> None:
    listening.accept()[0].close()


def test_an_agent_that_hangs_up_is_a_finding(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(box.state.application)  # the kernel takes at most 107 bytes of path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind("agent.sock")
        listening.listen(1)
        threading.Thread(target=hang_up, args=(listening,), daemon=True).start()
        finding = worst(diagnose(box.state), "runs")
    assert finding.level is Level.ERROR
    assert "the agent is gone" in finding.found


def bundled(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        assert all(member.isfile() and member.mode == 0o600 for member in members)
        return {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def test_the_bundle_holds_what_its_table_says_and_nothing_of_the_patients(
    box: Box, tmp_path: Path
) -> None:
    folder = (box.state.path / "current").resolve()
    golden = next(folder.glob("golden*")).read_bytes()
    model = next(folder.glob("model.*")).read_bytes()
    key = box.state.key.read_bytes()
    path = tmp_path / "support.tar.gz"
    done = box.call("doctor", "--bundle", str(path))
    assert str(path) in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    parts = bundled(path)
    assert list(parts) == [f"asdic-support/{name}" for name in ("doctor.json", *PARTS)]
    everything = b"".join(parts.values())
    for secret in (golden, model, key):
        pieces = [secret[at : at + 24] for at in range(0, len(secret) - 24, 24)]
        assert pieces
        assert not any(piece in everything for piece in pieces)


def test_the_bundle_lists_the_store_and_says_what_is_damaged(box: Box, tmp_path: Path) -> None:
    model = next((box.state.path / "current").resolve().glob("model.*"))
    model.unlink()
    model.write_bytes(b"rubbish")
    write_bundle(tmp_path / "b.tar.gz", box.state, diagnose(box.state))
    listed = json.loads(bundled(tmp_path / "b.tar.gz")["asdic-support/store.json"])
    damaged = [one["name"] for one in listed if one["ok"] is not True]
    assert damaged == [str(model.relative_to(box.state.path))]


def test_the_bundle_has_no_password_of_the_managers_address(box: Box, tmp_path: Path) -> None:
    server = "http://support:hush@fleet.example:8470"
    write_config(box.state, msgspec.structs.replace(box.config, server=server))
    diagnosis = diagnose(box.state)
    write_bundle(tmp_path / "b.tar.gz", box.state, diagnosis)
    parts = bundled(tmp_path / "b.tar.gz")
    assert b"fleet.example:8470" in parts["asdic-support/agent.toml"]
    assert b"hush" not in b"".join(parts.values())


def test_the_same_box_gives_the_same_bundle(box: Box, tmp_path: Path) -> None:
    diagnosis = diagnose(box.state)
    for name in ("one", "two"):
        write_bundle(tmp_path / name, box.state, diagnosis)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_damaged_part_is_left_out_of_the_bundle(box: Box, tmp_path: Path) -> None:
    box.state.journal.write_bytes(b"an image, by a broken disk")
    parts = write_bundle(tmp_path / "b.tar.gz", box.state, diagnose(box.state))
    assert "journal.json" not in parts
    assert "store.json" in parts


def test_an_agents_warnings_are_kept_and_shown(box: Box) -> None:
    with box:
        box.start()
        box.wait_for(lambda _: "cannot be reached" in read_log(box.state))
        box.stop()
    assert any("cannot be reached" in line for line in diagnose(box.state).last_errors)


def record(message: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("asdic.test", level, __file__, 1, message, None, None)


def test_the_log_is_bounded(box: Box) -> None:
    handler = WarningsFile(log_file(box.state))
    for _ in range(900):
        handler.handle(record("x" * 5_000))
    handler.close()
    sizes = [path.stat().st_size for path in log_files(box.state)]
    assert all(0 < size <= FILE_LIMIT_BYTES for size in sizes)
    assert len(list(log_file(box.state).parent.iterdir())) == 2


def test_a_line_of_the_log_is_one_line(box: Box) -> None:
    handler = WarningsFile(log_file(box.state))
    handler.handle(record("one\nERROR two\x1b[31m"))
    handler.close()
    (line,) = read_log(box.state).splitlines()
    assert line.endswith("WARNING asdic.test: one ERROR two [31m")


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null/none"])
def test_a_disk_that_takes_no_log_stops_nobody(
    box: Box, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log_file(box.state).parent.mkdir()
    log_file(box.state).symlink_to(place)
    handler = WarningsFile(log_file(box.state))
    handler.handle(record("lost"))
    handler.close()
    assert capsys.readouterr().err == ""


def test_the_doctor_changes_nothing(box: Box) -> None:
    def listing() -> str:
        return subprocess.run(
            ["find", box.state.path, "-printf", "%p %s %T@ %m\n"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    before = listing()
    assert box.call("doctor", "--json").returncode == 1
    assert listing() == before
