"""What runs on the box itself: scripts of Python's standard library alone, sent over SSH.

A script defines ``main(arguments, payload)`` and returns what JSON can hold; an expected failure is
``SystemExit`` with a sentence. Nothing has to be installed on the box for them, and nothing of them
stays there.
"""

from __future__ import annotations

import json
from importlib.resources import files
from types import MappingProxyType
from typing import Final

PARTS: Final = MappingProxyType(
    {
        "probe": ("own", "probe"),
        "stage": ("durable", "stage"),
        "activate": ("durable", "own", "service", "activate"),
    }
)
"""The modules of each script, each after those that it imports."""

BOOT: Final = """\
import json, sys, types
stdin = sys.stdin.buffer
for name, source in json.loads(stdin.read(int(sys.argv[1]))):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
arguments = json.loads(stdin.read(int(sys.argv[2])))
try:
    answer = module.main(arguments, stdin)
except OSError as error:
    sys.exit(f"{error.filename or 'the box'}: {error.strerror or error}")
sys.stdout.write(json.dumps(answer))
"""
"""Reads a script and its arguments from stdin, which no process list shows, and runs it."""


def script(name: str) -> bytes:
    """Return a script as ``BOOT`` reads it: the names and sources of its modules."""
    folder = files(__name__)
    parts = [(part, folder.joinpath(f"{part}.py").read_text("utf-8")) for part in PARTS[name]]
    return json.dumps([(f"{__name__}.{part}", source) for part, source in parts]).encode()
