"""Which wheels a box needs, from what wheels say of themselves; nothing is fetched."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from asdic.contract.errors import ConfigError
from asdic.fleet.flash.box_python import BoxPython, box_python
from asdic.fleet.flash.gather import Gathering, Pins, required, requirements_of

JETSON = BoxPython(architecture="aarch64", python="3.10")
NEWER = BoxPython(architecture="x86_64", python="3.12")


class Index:
    """A package index in a folder: of each name the versions that it has, oldest first."""

    def __init__(self, folder: Path, packages: dict[str, dict[str, Sequence[str]]]) -> None:
        self._folder = folder
        self._packages = packages
        self.asked: list[list[str]] = []

    def __call__(self, words: Sequence[str]) -> list[Path]:
        self.asked.append(sorted(words))
        return [self._wheel(Requirement(word)) for word in words]

    def _wheel(self, wanted: Requirement) -> Path:
        versions = self._packages[wanted.name]
        version = max(one for one in versions if wanted.specifier.contains(one))
        return write_wheel(self._folder, wanted.name, version, versions[version])


def write_wheel(folder: Path, name: str, version: str, requires: Sequence[str]) -> Path:
    name = name.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines))
    return path


@pytest.fixture
def gathered(tmp_path: Path) -> Callable[..., set[str]]:
    """Return the names of the wheels that requirements lead to."""

    def gather(
        requirements: Sequence[str],
        packages: dict[str, dict[str, Sequence[str]]],
        *,
        box: BoxPython = JETSON,
        pins: str = "",
        extra: str = "",
        provided: Sequence[str] = (),
    ) -> set[str]:
        gathering = Gathering(box, Pins(pins, box), provided=provided)
        gathering.gather(requirements, Index(tmp_path, packages), extras=(extra,))
        return {path.name.removesuffix("-py3-none-any.whl") for path in tmp_path.glob("*.whl")}

    return gather


def test_what_a_wheel_requires_comes_too(gathered: Callable[..., set[str]]) -> None:
    packages = {"a": {"1": ["b"]}, "b": {"1": ["c>=2"]}, "c": {"1": [], "2": []}}
    assert gathered(["a"], packages) == {"a-1", "b-1", "c-2"}


def test_markers_are_those_of_the_box_and_not_of_this_machine(
    gathered: Callable[..., set[str]],
) -> None:
    packages: dict[str, dict[str, Sequence[str]]] = {
        "a": {"1": ["old; python_version < '3.11'", "arm; platform_machine == 'aarch64'"]},
        "old": {"1": []},
        "arm": {"1": []},
    }
    assert gathered(["a"], packages, box=JETSON) == {"a-1", "old-1", "arm-1"}


def test_what_another_box_requires_stays_away(gathered: Callable[..., set[str]]) -> None:
    packages: dict[str, dict[str, Sequence[str]]] = {
        "a": {"1": ["old; python_version < '3.11'", "arm; platform_machine == 'aarch64'"]}
    }
    assert gathered(["a"], packages, box=NEWER) == {"a-1"}


def test_only_the_chosen_runtime_comes(gathered: Callable[..., set[str]]) -> None:
    wanted = ["a; extra == 'litert'", "b; extra == 'openvino'"]
    assert gathered(wanted, {"a": {"1": []}, "b": {"1": []}}, extra="litert") == {"a-1"}


def test_extras_of_what_is_required_come(gathered: Callable[..., set[str]]) -> None:
    packages: dict[str, dict[str, Sequence[str]]] = {
        "a": {"1": ["b"]},
        "b": {"1": ["a[more]"]},
        "more": {"1": []},
    }
    packages["a"]["1"] = ["b", "more; extra == 'more'"]
    assert gathered(["a"], packages) == {"a-1", "b-1", "more-1"}


def test_a_pin_decides_where_it_fits(gathered: Callable[..., set[str]]) -> None:
    packages: dict[str, dict[str, Sequence[str]]] = {"a": {"1": [], "2": [], "3": []}}
    pins = "a==1; python_version < '3'\na==2  # measured\na==3"
    assert gathered(["a>=1"], packages, pins=pins) == {"a-2"}


def test_a_pin_that_does_not_fit_is_passed_over(gathered: Callable[..., set[str]]) -> None:
    packages: dict[str, dict[str, Sequence[str]]] = {"a": {"1": [], "2": []}}
    assert gathered(["a<2"], packages, pins="a==2") == {"a-1"}


def test_what_the_box_has_itself_is_not_brought(gathered: Callable[..., set[str]]) -> None:
    packages: dict[str, dict[str, Sequence[str]]] = {"a": {"1": ["NumPy"]}}
    assert gathered(["a"], packages, provided=["numpy"]) == {"a-1"}


def test_what_does_not_go_together_is_named(gathered: Callable[..., set[str]]) -> None:
    packages = {"a": {"1": ["b"]}, "b": {"1": ["c"]}, "c": {"1": ["a>=2"]}}
    with pytest.raises(ConfigError, match=r"a 1 does not go together with what c requires \(a>=2"):
        gathered(["a"], packages)


def test_a_requirement_by_address_is_refused(gathered: Callable[..., set[str]]) -> None:
    with pytest.raises(ConfigError, match="which no package index has"):
        gathered(["b @ file:///b.whl"], {})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_wheel_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no wheel, or is damaged"):
        list(requirements_of(path))


def test_a_line_that_is_no_requirement_is_refused() -> None:
    with pytest.raises(ConfigError, match="'=1' is no requirement"):
        required(["=1"], JETSON, extras=())


@pytest.mark.parametrize(
    ("architecture", "python", "words"),
    [
        ("riscv64", "3.11", "processor riscv64; it knows x86_64, aarch64, armv7l"),
        ("x86_64", "3.9", "Python 3.9; it knows 3.10, 3.11, 3.12, 3.13"),
    ],
)
def test_a_box_that_asdic_does_not_run_on_is_refused(
    architecture: str, python: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        box_python(architecture, python)


def test_a_wheel_for_an_older_system_comes_first() -> None:
    platforms = JETSON.platforms
    assert platforms.index("manylinux_2_17_aarch64") < platforms.index("manylinux_2_28_aarch64")


def test_what_has_no_wheels_is_stood_in_for_and_its_versions_count_no_more(
    gathered: Callable[..., set[str]],
) -> None:
    packages: dict[str, dict[str, Sequence[str]]] = {
        "smp": {"4": ["crcmod<2,>=1.7"]},
        "crcmod-plus": {"2.3.5": [], "2.3.6": []},
    }
    assert gathered(["smp"], packages, pins="crcmod-plus==2.3.5") == {"smp-4", "crcmod_plus-2.3.5"}
