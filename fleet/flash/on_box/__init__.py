"""What runs on the box itself: scripts of Python's standard library alone, sent over SSH.

A script defines ``main(arguments, payload)`` and returns what JSON can hold; an expected failure is
``SystemExit`` with a sentence. Nothing has to be installed on the box for them, and nothing of them
stays there.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

BOOT: Final = """\
import json, sys
stdin = sys.stdin.buffer
source = stdin.read(int(sys.argv[1]))
arguments = json.loads(stdin.read(int(sys.argv[2])))
room = {"__name__": "asdic_on_box"}
exec(compile(source, "asdic on the box", "exec"), room)
try:
    answer = room["main"](arguments, stdin)
except OSError as error:
    sys.exit(f"{error.filename or 'the box'}: {error.strerror or error}")
sys.stdout.write(json.dumps(answer))
"""
"""Reads a script and its arguments from stdin, which no process list shows, and runs it."""


def script(name: str) -> bytes:
    """Return the source of a script of this package."""
    return files(__name__).joinpath(f"{name}.py").read_bytes()
