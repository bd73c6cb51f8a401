"""The scripts that run on a box: of Python 3.10's own library alone, and careful with files."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from asdic.fleet.flash.on_box import PARTS, activate, own, probe, script, stage
from asdic.fleet.flash.on_box.service import exposure_of, remarks_of

VERSION = "0.1.0-0123456789ab"


def arguments(tmp_path: Path, step: str, **fields: Any) -> dict[str, Any]:
    return {"step": step, "prefix": str(tmp_path / "opt"), **fields}


def send(tmp_path: Path, data: bytes, *, promised: bytes | None = None) -> None:
    whole = data if promised is None else promised
    order = arguments(
        tmp_path,
        "receive",
        folder=str(tmp_path / "opt" / "incoming"),
        name="d/file",
        sha256=hashlib.sha256(whole).hexdigest(),
        size_bytes=len(whole),
    )
    stage.main(order, io.BytesIO(data))


@pytest.mark.parametrize("name", PARTS)
def test_a_script_needs_nothing_but_python_3_10_and_what_travels_with_it(name: str) -> None:
    here: set[str] = set()
    for part, source in json.loads(script(name)):
        wanted = imports(ast.parse(source, feature_version=(3, 10)))
        ours = {one for one in wanted if one.startswith("asdic.")}
        assert ours <= here
        assert {one.split(".")[0] for one in wanted - ours} <= set(sys.stdlib_module_names)
        assert "tomllib" not in wanted
        here.add(part)


def imports(tree: ast.Module) -> set[str]:
    return {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def test_a_file_that_arrives_whole_has_its_name(tmp_path: Path) -> None:
    send(tmp_path, b"wheel")
    assert (tmp_path / "opt/incoming/d/file").read_bytes() == b"wheel"


@pytest.mark.parametrize("data", [b"whee", b"wheex", b""])
def test_a_file_that_does_not_arrive_whole_has_none(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SystemExit, match="did not arrive whole; run the same command again"):
        send(tmp_path, data, promised=b"wheel")
    assert list((tmp_path / "opt/incoming/d").iterdir()) == []


def test_what_is_there_with_its_size_is_not_missing(tmp_path: Path) -> None:
    send(tmp_path, b"wheel")
    order = arguments(
        tmp_path,
        "missing",
        folder=str(tmp_path / "opt/incoming"),
        files=[("d/file", 5), ("d/file", 6), ("e/file", 5)],
    )
    assert stage.main(order, io.BytesIO()) == ["d/file", "e/file"]


def test_tidying_keeps_what_runs_what_ran_before_and_what_is_not_ours(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    names = ("0.1.0-0123456789ab", "0.2.0-0123456789ab", "0.3.0-0123456789ab", "photos")
    for name in (*names, "incoming/aa", "incoming/bb", "incoming/release-1"):
        (prefix / name).mkdir(parents=True)
    (prefix / names[1] / "asdic-flash.json").write_text('{"wheels": {"x.whl": "aa"}}')
    (prefix / "current").symlink_to(names[1])
    (prefix / "previous").symlink_to(names[0])
    removed = stage.main(arguments(tmp_path, "tidy"), io.BytesIO())
    assert removed == ["0.3.0-0123456789ab", "bb", "release-1"]
    assert [path.name for path in (prefix / "incoming").iterdir()] == ["aa"]
    assert (prefix / "photos").is_dir()


def test_removing_leaves_what_is_not_ours_and_a_state_folder_that_is_no_devices(
    tmp_path: Path,
) -> None:
    prefix, state = tmp_path / "opt", tmp_path / "home"
    for folder in (prefix / VERSION, prefix / "photos", state):
        folder.mkdir(parents=True)
    (state / "letter.txt").write_text("dear")
    order = arguments(tmp_path, "remove", state=str(state), keep_identity=False)
    assert stage.main(order, io.BytesIO()) == [str(prefix / VERSION), str(prefix / "flash.lock")]
    assert (prefix / "photos").is_dir()
    assert (state / "letter.txt").exists()


def test_a_build_that_fails_leaves_no_version(tmp_path: Path) -> None:
    order = arguments(
        tmp_path,
        "build",
        version=VERSION,
        python="/bin/false",
        system_packages=False,
        timeout_s=10,
        folder=str(tmp_path / "opt/incoming"),
        wheels=[],
    )
    with pytest.raises(SystemExit, match="cannot make an environment: exit 1"):
        stage.main(order, io.BytesIO())
    assert not (tmp_path / "opt" / VERSION).exists()


def test_a_wheel_that_was_damaged_on_the_box_is_removed_and_brought_again(tmp_path: Path) -> None:
    send(tmp_path, b"wheel")
    wheel = tmp_path / "opt/incoming/d/file"
    wheel.write_bytes(b"whEel")
    sha256 = hashlib.sha256(b"wheel").hexdigest()
    order = arguments(
        tmp_path,
        "build",
        version=VERSION,
        folder=str(tmp_path / "opt/incoming"),
        wheels=[("d/file", sha256)],
    )
    with pytest.raises(SystemExit, match="file was damaged on the box; run the same command again"):
        stage.main(order, io.BytesIO())
    assert not wheel.exists()


def test_a_switch_that_a_power_cut_ended_is_put_back(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    prefix.mkdir()
    (prefix / "current").symlink_to("0.2.0-0123456789ab")
    before = {"current": VERSION, "files": {}}
    order = arguments(
        tmp_path,
        "undo",
        version="0.2.0-0123456789ab",
        service={"kind": "none", "files": [], "scan": ""},
        state=str(tmp_path),
        now=False,
    )
    activate.Record(prefix, "0.2.0-0123456789ab", before).say("waiting", "waiting")
    found = activate.main(order, io.BytesIO())
    assert (found["state"], found["alive"]) == ("reverted", False)
    assert (prefix / "current").readlink() == Path(VERSION)


def test_what_a_service_manager_refuses_keeps_nothing_from_being_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, unit = tmp_path / "opt", tmp_path / "asdic-agent.service"
    prefix.mkdir()
    (prefix / "current").symlink_to("0.2.0-0123456789ab")
    unit.write_text("new")
    before = {"current": VERSION, "files": {str(unit): "old"}}
    service = {"kind": "systemd", "files": [[str(unit), "new", 0o644]], "scan": ""}
    order = arguments(tmp_path, "undo", service=service, state=str(tmp_path), now=False)
    activate.Record(prefix, "0.2.0-0123456789ab", before).say("running", "starting the agent")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = activate.main(order, io.BytesIO())
    assert (prefix / "current").readlink() == Path(VERSION)
    assert unit.read_text() == "old"
    assert found["state"] == "reverted"
    assert "interrupted on the box; while putting back: " in found["reason"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("OK 🙂", {"exposure": 2.2, "level": "OK"}),
        ("OK :-)", {"exposure": 2.2, "level": "OK"}),
        ("OK", {"exposure": 2.2, "level": "OK"}),
        ("", {}),
    ],
)
def test_a_score_is_read_whatever_smiles_beside_it(said: str, expected: dict[str, Any]) -> None:
    line = f"\n→ Overall exposure level for asdic-agent.service: 2.2 {said}\n"
    table = "✗ RootDirectory=/RootImage=  Service runs within the host's root directory  0.1\n"
    assert exposure_of(table + line) == expected


def test_no_score_is_made_of_another_units_or_of_an_error() -> None:
    assert exposure_of("→ Overall exposure level for ssh.service: 9.6 UNSAFE 😨") == {}
    assert exposure_of("Unit asdic-agent.service does not exist, ignoring.") == {}


def test_what_is_said_of_our_unit_alone_is_a_remark() -> None:
    ours = "/etc/systemd/system/asdic-agent.service:15: Unknown lvalue 'OOMPolicy', ignoring"
    other = "/lib/systemd/system/rsyslog.service:9: Standard output type syslog is obsolete"
    assert remarks_of(f"{other}\n{ours}\n") == [f"systemd-analyze verify: {ours}"]


def test_a_box_without_systemd_analyze_is_not_judged_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [[str(tmp_path / "asdic-agent.service"), "unit", 0o644]]
    order = arguments(tmp_path, "judge", service={"kind": "systemd", "files": files, "scan": ""})
    monkeypatch.setenv("PATH", str(tmp_path))
    judged = activate.main(order, io.BytesIO())
    assert "exposure" not in judged
    (note,) = judged["notes"]
    assert note.startswith("systemd-analyze security gives no score: ")
    assert "No such file or directory: 'systemd-analyze'" in note


def test_the_agents_folder_cannot_lead_root_astray(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    os.mkfifo(reports / "last.json")
    assert own.report_number(tmp_path) == 0
    (reports / "last.json").unlink()
    (tmp_path / "elsewhere").write_text('{"number": 7}')
    (reports / "last.json").symlink_to(tmp_path / "elsewhere")
    assert own.report_number(tmp_path) == 0
    os.mkfifo(tmp_path / "agent.toml")
    assert probe.read(tmp_path / "agent.toml") == ""


def test_a_folder_that_may_not_be_looked_into_holds_nothing_to_see() -> None:
    assert not probe.is_there(Path("/", "x" * 5000))


def test_a_serial_port_is_a_device_and_comes_with_its_group(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") not in probe.serial_ports(str(tmp_path / "file"))
    assert probe.serial_ports("/dev/null")["/dev/null"] == Path("/dev/null").group()
    assert "/dev/null" not in probe.serial_ports(None)
