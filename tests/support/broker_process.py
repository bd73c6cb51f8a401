"""The embedded broker in a process of its own, so that it can be stopped and killed.

``python -m tests.support.broker_process FOLDER`` runs one until SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from asdic.contract.mqtt import check_broker
from asdic.fleet.broker import open_broker
from tests.support.paper_box import wait_for

PATIENCE_S = 20.0


class BrokerProcess:
    """A broker that comes back on the same port, and remembers nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with open_broker(folder, None) as address:
            self.address = address
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.broker_process", str(self._folder)],
            stdin=subprocess.DEVNULL,
        )
        wait_for(self._answers, "the broker answers", PATIENCE_S)

    def stop(self) -> None:
        """Ask it to end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with ``kill -9``."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> BrokerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE_S)

    def _answers(self) -> bool:
        try:
            check_broker(self.address, timeout_s=1.0)
        except Exception:  # noqa: BLE001 - it will be asked again
            return False
        return True


def main(folder: Path) -> None:
    """Run a broker until SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with open_broker(folder, None):
        stopped.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
