"""What wheels bring is known by their own digests; what pip makes is known by name."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from asdic.contract.errors import ConfigError
from asdic.fleet.flash.cargo import File, Version
from asdic.fleet.flash.verify import compare, expected_files

SITE = "lib/python3.11/site-packages"
MEMBERS = {
    "asdic/agent.py": b"print()",
    "asdic-0.1.0.data/scripts/asdic-helper": b"#!python",
    "asdic-0.1.0.data/data/share/asdic/LICENSE": b"free",
    "asdic-0.1.0.data/purelib/extra.py": b"",
    "asdic-0.1.0.dist-info/entry_points.txt": b"[console_scripts]\nasdic-agent = a:b\n[x]\ny = z\n",
}


def wheel(folder: Path, members: dict[str, bytes], *, record: str | None = None) -> Version:
    path = folder / "asdic-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        lines = "".join(
            f"{name},sha256={encoded(data)},{len(data)}\n" for name, data in members.items()
        )
        archive.writestr("asdic-0.1.0.dist-info/RECORD", record or lines)
    file = File(path=path, name=f"d/{path.name}", sha256="d" * 64, size_bytes=1)
    return Version(asdic="0.1.0", python="3.11", wheels=(file,), pip=file, system_packages=False)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_each_file_of_a_wheel_has_its_place_and_its_digest(tmp_path: Path) -> None:
    assert expected_files(wheel(tmp_path, MEMBERS)) == {
        f"{SITE}/asdic/agent.py": sha(b"print()"),
        "bin/asdic-helper": None,
        "share/asdic/LICENSE": sha(b"free"),
        f"{SITE}/extra.py": sha(b""),
        f"{SITE}/asdic-0.1.0.dist-info/entry_points.txt": sha(
            MEMBERS["asdic-0.1.0.dist-info/entry_points.txt"]
        ),
        "bin/asdic-agent": None,
    }


def test_a_wheel_that_is_no_wheel_is_damaged(tmp_path: Path) -> None:
    version = wheel(tmp_path, MEMBERS)
    version.wheels[0].path.write_bytes(b"no zip")
    with pytest.raises(ConfigError, match=r"asdic-0.1.0-py3-none-any.whl is damaged"):
        expected_files(version)


def test_a_weak_digest_is_not_taken_for_one(tmp_path: Path) -> None:
    version = wheel(tmp_path, MEMBERS, record="asdic/agent.py,md5=AAAA,7\n")
    with pytest.raises(ConfigError, match="lists digests by md5"):
        expected_files(version)


def test_what_differs_is_named_and_what_pip_makes_is_not(tmp_path: Path) -> None:
    expected = expected_files(wheel(tmp_path, MEMBERS))
    found = {
        **{name: digest or "whatever" for name, digest in expected.items()},
        f"{SITE}/asdic/agent.py": sha(b"changed"),
        f"{SITE}/asdic-0.1.0.dist-info/INSTALLER": "x",
        "bin/python3.11": "x",
        "bin/activate.fish": "x",
        "asdic-flash.json": "x",
        f"{SITE}/asdic/stray.py": "x",
        "bin/curl": "x",
    }
    del found[f"{SITE}/extra.py"]
    compared = compare("box7", expected, found, ("enrol as box7",))
    assert list(compared.lines()) == [
        f"missing: {SITE}/extra.py",
        f"different: {SITE}/asdic/agent.py",
        "unexpected: bin/curl",
        f"unexpected: {SITE}/asdic/stray.py",
        "undone: enrol as box7",
    ]
    assert not compared.is_equal


def test_equal_is_equal(tmp_path: Path) -> None:
    expected = expected_files(wheel(tmp_path, MEMBERS))
    found = {name: digest or "whatever" for name, digest in expected.items()}
    assert compare("box7", expected, found).is_equal
