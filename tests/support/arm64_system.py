"""A Debian for arm64 with asdic's base install and LiteRT, unpacked without root and kept.

Debian's own packages come through apt with a private state, the rest as aarch64 wheels. Building
takes half a minute; the folder is kept in the user's cache under a hash of its recipe, and never
written to afterwards. asdic itself is not in it: ``arm64.py`` shows the machine this checkout.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import tomllib

from asdic.contract.errors import AsdicError
from asdic.contract.files import new_folder
from tests.conftest import REPOSITORY

NEEDED: Final = MappingProxyType(
    {
        "apt-get": "apt",
        "dpkg-deb": "dpkg",
        "proot": "proot",
        "qemu-aarch64-static": "qemu-user-static",
    }
)
"""Command -> the Debian package that has it."""

PACKAGES: Final = (
    *("python3-minimal", "libpython3-stdlib", "libstdc++6", "zlib1g"),
    # What somebody who logs in finds: a shell, its commands, a service manager.
    *("dash", "coreutils", "runit", "base-files"),
)
WHEELS: Final = "opt/asdic"
PLATFORMS: Final = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
CONSTRAINTS: Final = REPOSITORY / "constraints" / "dev.txt"
BUILD_TIMEOUT_S: Final = 600.0


class Arm64SystemError(AsdicError):
    """The system could not be built; the message says which step failed and why."""


def unavailable_reason() -> str | None:
    """Return why this machine cannot run the stand-in, or None."""
    if platform.machine() != "x86_64":
        return f"the arm64 stand-in compares with x86-64; this machine is {platform.machine()}"
    packages = [package for command, package in NEEDED.items() if shutil.which(command) is None]
    if packages:
        return f"no arm64 stand-in; install the Debian packages {', '.join(packages)}"
    return None


def arm64_system() -> Path:
    """Return the root folder of the system, built if this recipe was not built before.

    Raises:
        Arm64SystemError: A step of the build failed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asdic"
    root = cache / f"arm64-{_recipe_hash()}"
    with _locked(root):
        if not root.is_dir():
            with new_folder(root) as folder:
                _build(folder)
    return root


def device_requirements(extra: str = "litert") -> list[str]:
    """Return what a device installs from the registry: the base install and one runtime."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def install_arm64_wheels(
    folder: Path, requirements: Sequence[str], *, python: str = "3.11"
) -> None:
    """Install the aarch64 wheels of ``requirements`` into ``folder``, with what they need.

    Raises:
        Arm64SystemError: A wheel is missing or cannot be fetched.
    """
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)),
        *("--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *(*platforms, "-c", str(CONSTRAINTS), *requirements),
    )


def python_of(root: Path) -> str:
    """Return the version of the system's Python, like ``3.11``."""
    names = [path.name for path in (root / "usr" / "bin").glob("python3.*")]
    return next(match[1] for name in names if (match := re.fullmatch(r"python(3\.\d+)", name)))


def _recipe_hash() -> str:
    """Return a hash of all that decides what is built, but for what Debian publishes today."""
    parts = (
        Path(__file__).read_bytes(),
        CONSTRAINTS.read_bytes(),
        "\n".join(device_requirements()).encode(),
        platform.freedesktop_os_release().get("VERSION_ID", "").encode(),
        sys.version.encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one process build; a second one waits and finds the folder."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(root: Path) -> None:
    for package in _fetch_packages(root / "apt"):
        _run("dpkg-deb", "-x", str(package), str(root))
    shutil.rmtree(root / "apt")
    for name in ("bin", "lib", "sbin"):
        # Debian 13 keeps these as links, which its package base-files makes when it is configured.
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    if not (root / "bin" / "sh").exists():
        (root / "bin" / "sh").symlink_to("dash")
    python = python_of(root)
    if not (root / "usr" / "bin" / "python3").exists():
        (root / "usr" / "bin" / "python3").symlink_to(f"python{python}")
    install_arm64_wheels(root / WHEELS, device_requirements(), python=python)
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        # Compiled here, each start there takes 0.3 s instead of 0.8.
        library = root / "usr" / "lib" / f"python{python}"
        _run(sys.executable, "-m", "compileall", "-q", "-j", "2", str(library))


def _fetch_packages(state: Path) -> list[Path]:
    """Fetch ``PACKAGES`` and what they depend on for arm64, verified by apt, installing nothing."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "Dir::Cache": str(state / "cache"),
        "Dir::State": str(state),
        "Dir::State::status": str(state / "status"),
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _run(*apt, "update")
    if not any((state / "lists").glob("*binary-arm64_Packages*")):
        raise Arm64SystemError(
            "the arm64 system was not built: apt's sources hold no arm64 packages, or cannot be "
            "reached"
        )
    _run(*apt, "install", "--yes", "--download-only", *PACKAGES)
    return sorted((state / "cache" / "archives").glob("*.deb"))


def _run(*words: str) -> None:
    try:
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Arm64SystemError(f"the arm64 system was not built: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise Arm64SystemError(
            f"the arm64 system was not built: {words[0]} failed: {' '.join(last)}"
        )
