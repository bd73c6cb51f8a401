"""Steps on a box: a script and its arguments over a session, as root where the prefix needs it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from asdic.contract.errors import ConfigError, InstallError
from asdic.fleet.flash.on_box import BOOT, script
from asdic.fleet.flash.session import Session

STEP_S: Final = 120.0
_FINDER: Final = """\
for name in ${1:-python3 python3.13 python3.12 python3.11 python3.10}; do
  path=$(command -v "$name") && "$path" -I -c '
import sys
print("%s %d.%d" % (sys.executable, *sys.version_info[:2]))'
done
exit 0
"""
OLDEST: Final = (3, 10)
NEWEST: Final = (3, 13)


class Interpreter(msgspec.Struct, frozen=True):
    """A Python on the box: its path, and its version as ``3.11``."""

    path: str
    version: str


def find_python(session: Session, wanted: str | None) -> Interpreter:
    """Return the box's own ``python3``, another one if asdic does not run on it, or the wanted one.

    What the system's packages bring, as TensorRT's binding, is for its own ``python3`` alone.

    Raises:
        ConfigError: There is none.
    """
    answer = session.run(["sh", "-c", _FINDER, "sh", wanted or ""], timeout_s=STEP_S)
    found = [Interpreter(*line.rsplit(" ", 1)) for line in answer.out.decode().splitlines() if line]
    for one in found:
        if OLDEST <= _numbers(one.version) <= NEWEST:
            return one
    seen = ", ".join(sorted({f"{one.path} {one.version}" for one in found})) or "none"
    raise ConfigError(
        f"{session.name}: asdic needs Python 3.10 to 3.13 on the box; it has: "
        f"{seen}; install one beside it, and name it with --python"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


class Remote:
    """The scripts of ``on_box``, run by one interpreter of the box."""

    def __init__(self, session: Session, python: str, *, as_root: bool = False) -> None:
        self.session = session
        self._python = python
        self._as_root = as_root

    def as_root(self) -> Remote:
        """Return the same, through sudo."""
        return Remote(self.session, self._python, as_root=True)

    def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        payload: Iterable[bytes] = (),
        timeout_s: float = STEP_S,
    ) -> Any:
        """Return what a script answers.

        Raises:
            LinkError: The connection broke; whether the script has had an effect is not known.
            InstallError: The script failed on the box, which the message explains.
        """
        source, options = script(name), json.dumps(arguments).encode()
        words = [self._python, "-I", "-c", BOOT, str(len(source)), str(len(options))]
        answer = self.session.run(
            ["sudo", "-n", "--", *words] if self._as_root else words,
            stdin=_joined(source, options, payload),
            timeout_s=timeout_s,
        )
        if answer.code != 0:
            raise InstallError(f"{self.session.name}: {answer.complaint}")
        try:
            return json.loads(answer.out)
        except ValueError as error:
            raise InstallError(
                f"{self.session.name}: its answer is not readable; does a login script of "
                f"{self.session.name} print something?"
            ) from error


def _joined(source: bytes, options: bytes, payload: Iterable[bytes]) -> Iterable[bytes]:
    yield source
    yield options
    yield from payload
