"""Real Zephyr firmware without hardware, from the sdist of smpclient: boards that speak SMP.

* ``zephyr_board``: Zephyr's native_sim, a process that serves SMP in datagrams.
* ``zephyr_console``: the same on a serial port, a pseudo-terminal.
* ``mcuboot_board``: MCUboot and a Zephyr program on an emulated Arm MPS2 with a Cortex-M3 (qemu),
  on a serial console over TCP. MCUboot was built to run from RAM: it boots the higher version,
  tests nothing, and checks no signature.

The sdist is fetched by pip, checked against its pinned digest, and kept in the user's cache; no
file of it is in this repository.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asdic.contract.errors import AsdicError
from asdic.contract.files import new_folder, sha256_of
from asdic.firmware_bridge.image import parse_image, payload_of
from asdic.firmware_bridge.image_making import ImageSpec, make_image

SDIST: Final = "smpclient-7.3.0"
SDIST_DIGEST: Final = "sha256:86aa4bc1c621805d97f449793a4077f049aa88a98a1e916bf59423d072bd2a3b"
FIXTURES: Final = f"{SDIST}/tests/fixtures/smp-server"
_SERVER: Final = "zephyr_4.4.0_smp_server_0eae053d"
NATIVE: Final = f"{_SERVER}_native_sim_udp.exe"
CONSOLE: Final = f"{_SERVER}_native_sim_serial_bigrx.exe"
BOOTLOADER: Final = f"{_SERVER}_mps2_an385_serial_recovery_buf2048.hex"
PROGRAM: Final = f"{_SERVER}_mps2_an385_serial_recovery_buf2048.signed.bin"
FILES: Final = (NATIVE, CONSOLE, BOOTLOADER, PROGRAM)
PROGRAM_ADDRESS: Final = 0x20050000
QEMU: Final = "mps2/an385"
LOAD_ADDRESS: Final = 0x20240000
SLOT_BYTES: Final = 0x40000
LOADER_32_BIT: Final = Path("/lib/ld-linux.so.2")
FETCH_TIMEOUT_S: Final = 300.0
START_TIMEOUT_S: Final = 30.0
LOG: Final = "board.log"


class ZephyrError(AsdicError):
    """The boards could not be fetched or started; the message says which step failed and why."""


def unavailable_native() -> str | None:
    """Return why this machine cannot run native_sim, or None."""
    if platform.machine() != "x86_64":
        return f"Zephyr's native_sim is for x86; this machine is {platform.machine()}"
    if not LOADER_32_BIT.exists():
        return "no Zephyr board; install the Debian packages libc6-i386 lib32gcc-s1"
    return None


def unavailable_network() -> str | None:
    """Return why a process may not have a network of its own here, or None."""
    alone = subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True)
    if alone.returncode:
        return "no Zephyr board: it listens everywhere, and may have no network of its own here"
    return None


def unavailable_mcuboot() -> str | None:
    """Return why this machine cannot run MCUboot in qemu, or None."""
    if shutil.which("qemu-system-arm") is None:
        return "no MCUboot board; install the Debian package qemu-system-arm"
    return None


def zephyr_files() -> Path:
    """Return the folder with the firmware, fetched if it is not in the cache.

    Raises:
        ZephyrError: It cannot be fetched, or is another than the pinned one.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asdic"
    recipe = hashlib.sha256(" ".join((SDIST_DIGEST, *FILES)).encode()).hexdigest()
    folder = cache / f"zephyr-{recipe[:16]}"
    with _locked(folder):
        if not folder.is_dir():
            with new_folder(folder) as new:
                _fetch(new)
    return folder


@contextmanager
def zephyr_board(workspace: Path) -> Iterator[str]:
    """Yield the address of a native_sim board that serves until the end.

    It serves on port 1337 of every interface, so it gets a network of its own, and a relay carries
    datagrams between that and a free port of loopback.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outer:
        outer.bind(("127.0.0.1", 0))
        port = outer.getsockname()[1]
        relay = [sys.executable, str(Path(__file__).with_name("zephyr_relay.py"))]
        server = [str(zephyr_files() / NATIVE), "-flash_in_ram", "-stop_at=900"]
        command = ["unshare", "-rn", *relay, str(outer.fileno()), *server]
        with _running(command, workspace, keep=[outer.fileno()]):
            yield f"udp://127.0.0.1:{port}"


@contextmanager
def zephyr_console(workspace: Path) -> Iterator[str]:
    """Yield the address of a native_sim board on a serial port that serves until the end."""
    command = [str(zephyr_files() / CONSOLE), "-flash_in_ram", "-stop_at=900"]
    with _running(command, workspace) as process:
        terminal = _wait_for(re.compile(r"pseudotty: (/dev/\S+)"), workspace / LOG, process)
        yield f"serial://{terminal}"


@contextmanager
def mcuboot_board(workspace: Path) -> Iterator[str]:
    """Yield the address of an emulated board with MCUboot that serves until the end."""
    files = zephyr_files()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *("qemu-system-arm", "-cpu", "cortex-m3", "-machine", "mps2-an385"),
        *("-display", "none", "-monitor", "none", "-serial", "chardev:console", "-serial", "null"),
        *("-chardev", f"socket,id=console,host=127.0.0.1,port={port},server=on,wait=off"),
        *("-device", f"loader,file={files / BOOTLOADER}"),
        *("-device", f"loader,file={files / PROGRAM},addr={PROGRAM_ADDRESS:#x}"),
    ]
    with _running(command, workspace) as process:
        _wait_for_port(port, workspace / LOG, process)
        yield f"socket://127.0.0.1:{port}"


@contextmanager
def _running(
    command: Sequence[str], workspace: Path, *, keep: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    with (workspace / LOG).open("wb") as output:
        process = subprocess.Popen(
            command, cwd=workspace, stdout=output, stderr=output, pass_fds=keep
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(said: re.Pattern[str], log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return what the board says in its log, in the pattern's first group."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if found := said.search(log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise ZephyrError(f"the board did not start: {log.read_text(errors='replace')[-500:]}")


def _wait_for_port(port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise ZephyrError(f"the board did not start: {log.read_text(errors='replace')[-500:]}")


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="asdic-zephyr-") as place:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", "smpclient", "--dest", place, SDIST.replace("-", "==")),
        ]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S
        )
        archive = Path(place) / f"{SDIST}.tar.gz"
        if done.returncode or not archive.is_file():
            last = done.stderr.strip().splitlines()[-1:]
            raise ZephyrError(f"pip did not fetch {SDIST}: {' '.join(last)}")
        if (found := sha256_of(archive)) != SDIST_DIGEST:
            raise ZephyrError(f"{SDIST} has digest {found}, {SDIST_DIGEST} is pinned")
        with tarfile.open(archive) as tar:
            for name in FILES:
                _extract(tar, name, folder)


def _extract(tar: tarfile.TarFile, name: str, folder: Path) -> None:
    source = tar.extractfile(f"{FIXTURES}/{name}")
    if source is None:
        raise ZephyrError(f"{SDIST} holds no {name}")
    path = folder / name
    path.write_bytes(source.read())
    path.chmod(0o755 if name.endswith(".exe") else 0o644)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process fetch; a second one waits and finds the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def next_version(key: Path | None = None) -> bytes:
    """Return the program of the board in qemu as its version 1.2.0, signed or not."""
    old = (zephyr_files() / PROGRAM).read_bytes()
    facts = parse_image(old)
    spec = ImageSpec(
        version="1.2.0",
        slot_bytes=SLOT_BYTES,
        header_bytes=facts.header_bytes,
        board=QEMU,
        load_address=LOAD_ADDRESS,
        overwrite_only=True,
    )
    return make_image(bytes(facts.header_bytes) + payload_of(old, facts), spec, key=key)
