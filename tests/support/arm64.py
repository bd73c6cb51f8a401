"""An arm64 box without hardware: asdic's own commands, run by an emulated Cortex-A72.

``proot`` gives each process the arm64 system as its root and starts it, and all that it starts,
under qemu. Processes, network, clock and kernel are the host's. Three things are easily missed,
each measured with qemu 7.2: without an ARM ``/proc/cpuinfo`` LiteRT ends with signal 11, as it
reads the host's; without ``/sys``, or with ``QEMU_CPU=max``, its outputs are others. An emulated
time says nothing about a device.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.conftest import REPOSITORY
from tests.support.arm64_system import WHEELS, arm64_system, python_of

COMMANDS: Final = MappingProxyType(
    {
        "python": (),
        "asdic-agent": ("-m", "asdic.cli.agent"),
        "asdic-runner": ("-m", "asdic.cli.runner"),
    }
)
PARTS: Final = ("cli", "contract", "device", "firmware_bridge")
CPU: Final = "cortex-a72"
PROCESSOR: Final = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""What Linux says of one core of a Cortex-A72."""

STOP_TIMEOUT_S: Final = 20.0


class ArmBox:
    """One emulated box. It sees the host's ``folder`` and ``visible``, by their own names.

    Args:
        folder: Where it may write; its home and its temporary files lie there.
        visible: More files and folders of the host, such as test data.
    """

    def __init__(self, folder: Path, *, visible: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._root = arm64_system()
        self._python = f"/usr/bin/python{python_of(self._root)}"
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        cpu_info = folder / "cpuinfo"
        count = os.cpu_count() or 1
        cpu_info.write_text("".join(PROCESSOR.format(number=n) for n in range(count)))
        metadata = _metadata_folder(folder)
        self._bound = {
            **{str(path): str(path) for path in (folder, *visible)},
            **{name: name for name in ("/dev", "/proc", "/sys")},
            **{str(REPOSITORY / part): f"/{WHEELS}/asdic/{part}" for part in PARTS},
            str(metadata): f"/{WHEELS}/{metadata.name}",
            str(cpu_info): "/proc/cpuinfo",
        }

    def run(
        self, *words: str | Path, timeout_s: float = 120.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the box, as ``asdic-agent``, to its end; its exit code may be any."""
        return subprocess.run(
            self._command(words),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env={**self._environment(), **environment},
        )

    @contextmanager
    def running(self, *words: str | Path, log: Path, **environment: str) -> Iterator[ArmProcess]:
        """Keep a command of the box running while the block runs, its output in ``log``."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                self._command(words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**self._environment(), **environment},
            )
        try:
            yield ArmProcess(process)
        finally:
            _end(process)

    def _command(self, words: Sequence[str | Path]) -> list[str]:
        name, *rest = map(str, words)
        binds = [word for pair in self._bound.items() for word in ("-b", ":".join(pair))]
        return [
            *("proot", "-q", "qemu-aarch64-static", "-r", str(self._root), *binds),
            *("-w", str(self.folder), self._python, *COMMANDS[name], *rest),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"/{WHEELS}",
            "PYTHONUNBUFFERED": "1",
            "QEMU_CPU": CPU,
            "TMPDIR": str(self.folder / "tmp"),
        }


class ArmProcess:
    """A command that runs in the box. proot itself takes no signals: its child does."""

    def __init__(self, proot: subprocess.Popen[bytes]) -> None:
        self._proot = proot

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask the command to end, as a service manager would, and return its exit code."""
        for child in _children(self._proot.pid):
            os.kill(child, signal.SIGTERM)
        return self._proot.wait(timeout_s)

    def has_ended(self) -> bool:
        """Return whether it runs no more."""
        return self._proot.poll() is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask for an end, then insist: the session holds all that the command started."""
    if process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            ArmProcess(process).terminate()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _metadata_folder(folder: Path) -> Path:
    """Write what pip would note of asdic into ``folder``, for what asks for its version."""
    asdic = distribution("asdic")
    # An editable install may leave an egg-info beside the sources, which says the same.
    text = asdic.read_text("METADATA") or asdic.read_text("PKG-INFO")
    assert text is not None
    metadata = folder / f"asdic-{asdic.version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(text)
    return metadata
