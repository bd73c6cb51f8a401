"""The wheelhouse, brought by a real pip from an index in a folder; and asdic's own wheel."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.files import sha256_of
from asdic.fleet.flash.box_python import box_python
from asdic.fleet.flash.gather import Pins
from asdic.fleet.flash.own_wheel import PARTS, own_wheel
from asdic.fleet.flash.pip_download import WheelMissingError
from asdic.fleet.flash.wheelhouse import Wheelhouse, build_wheelhouse
from tests.conftest import REPOSITORY
from tests.support.paper_box import wait_for

BOX: Final = box_python("aarch64", "3.10")
COMPILED: Final = {"cryptography", "numpy", "msgspec", "psutil", "opencv-python-headless"}
RUNTIME: Final = "ai-edge-litert"
LINK: Final = {
    "smpclient": ("smp",),
    "smp": ("crcmod<2,>=1.7",),
    "crcmod-plus": (),
    "pyserial": (),
}
"""What speaks with a microcontroller, and what that requires."""


def add_wheel(
    index: Path, name: str, version: str, *requires: str, platform: str = "manylinux_2_28_aarch64"
) -> Path:
    """Put a wheel of one line of Python into an index."""
    tag = f"cp310-cp310-{platform}" if name in COMPILED else "py3-none-any"
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {one}" for one in requires]
    path = index / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", "\n".join(metadata))
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that has everything for Python 3.10 on arm64, as pip's only one."""
    folder = tmp_path / "index"
    folder.mkdir()
    pins = Pins((REPOSITORY / "fleet" / "flash" / "device.txt").read_text(), BOX)
    base = [line for line in own_wheel().requires if "extra ==" not in line]
    for requirement in (*base, "pip", RUNTIME):
        name = canonicalize_name(Requirement(requirement).name)
        add_wheel(folder, name, pins.choose(name, SpecifierSet()).partition("==")[2])
    for name, requires in LINK.items():
        add_wheel(folder, name, pins.choose(name, SpecifierSet()).partition("==")[2], *requires)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def build(index: Path, cache: Path, said: list[str]) -> Callable[..., Wheelhouse]:
    """Build the wheelhouse of a Jetson's Python, out of the index."""

    def build_it(**changes: Any) -> Wheelhouse:
        wish = {"architecture": "aarch64", "python": "3.10", "runtime": "litert"}
        return build_wheelhouse(cache, progress=said.append, **{**wish, **changes})

    return build_it


def names(house: Wheelhouse) -> set[str]:
    return {file.name.partition("-")[0] for file in house.files}


def test_it_holds_what_the_box_needs_and_nothing_of_the_server(
    build: Callable[..., Wheelhouse],
) -> None:
    assert names(build()) == {
        *("ai_edge_litert", "asdic", "click", "cryptography", "msgspec", "numpy"),
        *("opencv_python_headless", "paho_mqtt", "pip", "psutil", "tomli", "tuf"),
        "typing_extensions",
    }


def test_a_box_with_a_microcontroller_gets_its_link_and_nothing_that_makes_images(
    build: Callable[..., Wheelhouse],
) -> None:
    link = {name.replace("-", "_") for name in LINK}
    assert names(build(firmware=True)) == names(build()) | link


def test_each_file_has_the_digest_that_is_said(build: Callable[..., Wheelhouse]) -> None:
    house = build()
    assert {file.name: file.digest for file in house.files} == {
        path.name: sha256_of(path) for path in house.folder.glob("*.whl")
    }
    assert house.size_bytes == sum(path.stat().st_size for path in house.folder.glob("*.whl"))


def test_a_second_time_needs_no_index(
    build: Callable[..., Wheelhouse], index: Path, said: list[str]
) -> None:
    first = build()
    shutil.rmtree(index)
    said.clear()
    assert build() == first
    assert said == []


def test_another_box_has_a_wheelhouse_of_its_own(build: Callable[..., Wheelhouse]) -> None:
    assert "ai_edge_litert" not in names(build(runtime=None))
    assert "ai_edge_litert" in names(build())


def test_a_32_bit_box_gets_the_wheels_that_an_index_for_32_bit_arm_has(
    build: Callable[..., Wheelhouse], index: Path
) -> None:
    texts = ("device-tflite-runtime.txt", "device.txt")
    pins = Pins("".join((REPOSITORY / "fleet/flash" / name).read_text() for name in texts), BOX)
    for name in (*COMPILED, "tflite-runtime"):
        version = pins.choose(name, SpecifierSet()).partition("==")[2]
        add_wheel(index, name, version, platform="linux_armv7l")
    house = build(architecture="armv7l", runtime="tflite-runtime")
    files = {file.name.partition("-")[0]: file.name for file in house.files}
    assert files["numpy"] == "numpy-1.26.4-cp310-cp310-linux_armv7l.whl"
    assert files["tflite_runtime"].startswith("tflite_runtime-2.14.0-")
    assert not [name for name in files.values() if "aarch64" in name]


def test_a_damaged_file_is_brought_again(build: Callable[..., Wheelhouse], said: list[str]) -> None:
    house = build()
    numpy = next(house.folder.glob("numpy-*.whl"))
    content = numpy.read_bytes()
    numpy.write_bytes(content[:-1] + b"x")
    said.clear()
    assert build() == house
    assert numpy.read_bytes() == content
    assert any("anew: numpy-" in line for line in said)


def test_all_missing_wheels_are_named_and_nothing_is_kept(
    build: Callable[..., Wheelhouse], index: Path, cache: Path
) -> None:
    for name in ("numpy", "msgspec"):
        next(index.glob(f"{name}-*.whl")).unlink()
    with pytest.raises(WheelMissingError, match=r"no wheel of msgspec==\S+, numpy==\S+ for Python"):
        build()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


def test_what_the_box_has_itself_is_not_brought(
    build: Callable[..., Wheelhouse], index: Path
) -> None:
    next(index.glob("numpy-*.whl")).unlink()
    assert "numpy" not in names(build(provided=("numpy",)))


def test_an_index_that_does_not_answer_may_be_tried_again(
    build: Callable[..., Wheelhouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(LinkError, match="the package index does not answer"):
        build()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "mips"}, "no wheels for processor mips"),
        ({"python": "3.9"}, "no wheels for Python 3.9"),
        ({"runtime": "caffe"}, "no runtime 'caffe'; there are litert"),
    ],
)
def test_a_box_that_asdic_does_not_know_is_refused(
    build: Callable[..., Wheelhouse], changes: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build(**changes)


BUILD: Final = """
import sys
from pathlib import Path
from asdic.fleet.flash.wheelhouse import build_wheelhouse
wish = {"architecture": "aarch64", "python": "3.10", "runtime": "litert"}
build_wheelhouse(Path(sys.argv[1]), progress=lambda words: print(words, flush=True), **wish)
"""


def start_build(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(cache)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_processes_bring_it_once(cache: Path, index: Path) -> None:
    both = [start_build(cache) for _ in range(2)]
    outputs = [one.communicate(timeout=60)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sum("brings litert" in output for output in outputs) == 1


def test_a_killed_one_leaves_nothing_behind(
    build: Callable[..., Wheelhouse], cache: Path, index: Path
) -> None:
    with start_build(cache) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("brings litert")
        wait_for(lambda: any(cache.glob(".wheels-*/*.whl")), "the first wheel is here", 30.0)
        os.killpg(process.pid, signal.SIGKILL)
    assert list(cache.glob(".wheels-*"))
    build()
    assert list(cache.glob(".*")) == []


# asdic's own wheel


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel as it is packed, and the one that the build backend makes of the same files."""
    folder = tmp_path_factory.mktemp("built")
    sources = folder / "sources"
    ignore = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, sources / part, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    packed = own_wheel()
    path = folder / "packed" / packed.name
    path.parent.mkdir()
    path.write_bytes(packed.data)
    words = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run(
        [sys.executable, "-m", "pip", *words, "--wheel-dir", folder, sources], check=True
    )
    return path, next(folder.glob("asdic-*.whl"))


def test_the_packed_wheel_holds_what_the_build_backend_puts_into_one(
    both: tuple[Path, Path],
) -> None:
    packed, built = both
    assert packed.name == built.name
    assert contents(packed) == contents(built)


def contents(wheel: Path) -> dict[str, bytes]:
    """Return what a wheel holds, but for what names its maker and what pip noted of a README."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if not name.endswith(("/RECORD", "/WHEEL", "/METADATA"))
        }


def test_the_same_files_give_the_same_bytes() -> None:
    assert own_wheel().data == own_wheel().data


def test_the_record_lists_each_file_with_its_digest(tmp_path: Path) -> None:
    packed = own_wheel()
    path = tmp_path / packed.name
    path.write_bytes(packed.data)
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        digests = {name: digest for name, digest, _ in rows if name != record}
        assert digests == {
            name: "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
            for name in archive.namelist()
            if name != record
            for digest in (hashlib.sha256(archive.read(name)).digest(),)
        }


def test_pip_installs_it_and_an_installed_asdic_packs_the_same(tmp_path: Path) -> None:
    packed = own_wheel()
    path = tmp_path / packed.name
    path.write_bytes(packed.data)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    words = ("install", "--quiet", "--no-deps", "--no-index", path)
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *words], check=True)
    assert (environment / "bin" / "asdic-agent").is_file()
    # What the packing itself needs comes from this environment.
    script = (
        "import sys, hashlib; sys.path.append(sys.argv[1]);"
        "from asdic.fleet.flash.own_wheel import own_wheel;"
        "import asdic.contract; print(asdic.contract.__file__);"
        "print(hashlib.sha256(own_wheel().data).hexdigest())"
    )
    packages = Path(sys.executable).parent.parent / "lib"
    done = subprocess.run(
        [python, "-c", script, next(packages.glob("python3*/site-packages"))],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    where, digest = done.stdout.split()
    assert where.startswith(str(environment))
    assert digest == hashlib.sha256(packed.data).hexdigest()


def run_elsewhere(tmp_path: Path, *, pyproject: str | None) -> subprocess.CompletedProcess[str]:
    """Pack in a process for which asdic is installed from a checkout in ``tmp_path``."""
    site, checkout = tmp_path / "site", tmp_path / "checkout"
    site.mkdir()
    checkout.mkdir()
    if pyproject is not None:
        (checkout / "pyproject.toml").write_text(pyproject)
        info = site / "asdic-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: asdic\nVersion: 0.1.0\n")
        origin = {"dir_info": {"editable": True}, "url": checkout.as_uri()}
        (info / "direct_url.json").write_text(json.dumps(origin))
    script = (
        "import sys; from importlib.metadata import MetadataPathFinder as Finder;"
        "from asdic.fleet.flash import own_wheel as module;"
        "import importlib.metadata as metadata;"
        "module.distributions = lambda name: metadata.distributions(name=name, path=sys.argv[1:]);"
        "from asdic.contract.errors import ConfigError\n"
        "try: module.own_wheel()\n"
        "except ConfigError as error: sys.exit(str(error))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, site], capture_output=True, text=True, check=False
    )


def test_an_asdic_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    done = run_elsewhere(tmp_path, pyproject=None)
    assert "asdic runs here without being installed" in done.stderr


def test_a_checkout_that_requires_something_else_by_now_is_refused(tmp_path: Path) -> None:
    pyproject = "[project]\nversion = '0.1.0'\ndependencies = ['click']\nscripts = {}\n"
    done = run_elsewhere(tmp_path, pyproject=pyproject)
    assert "has changed since asdic was installed (requirements); install it again" in done.stderr
