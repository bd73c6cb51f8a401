"""What an sshd runs instead of a shell (``ForceCommand``): the command, inside the arm64 box.

``python arm64_login.py CONFIG``, with the command in ``SSH_ORIGINAL_COMMAND``. proot traces what
it started, so it lives as long as a process that the command left behind; a login must not wait
for that. So the command's exit code comes through a pipe of its own, and proot is left alone.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

CODE_PIPE: Final = 9
LOGIN: Final = f'/bin/sh -c "$1" {CODE_PIPE}>&-; echo "$?" >&{CODE_PIPE}'
PIECE_BYTES: Final = 1 << 16


def main() -> int:
    """Run the command and return its exit code."""
    config: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    command = os.environ.get("SSH_ORIGINAL_COMMAND")
    if command is None:
        sys.exit("this box has no terminal: give a command")
    code, code_in_box = os.pipe()
    os.dup2(code_in_box, CODE_PIPE)
    os.close(code_in_box)
    process = subprocess.Popen(
        [*config["words"], "/bin/sh", "-c", LOGIN, "sh", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=config["environment"],
        pass_fds=(CODE_PIPE,),
        start_new_session=True,
    )
    os.close(CODE_PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    ways = {process.stdout.fileno(): 1, process.stderr.fileno(): 2}
    said = carry(ways, code)
    return int(said) if said else process.wait()


def carry(ways: dict[int, int], code: int) -> bytes:
    """Pass on what the command says until its exit code comes, and what it had said before."""
    said = b""
    while not said:
        ready, _, _ = select.select([*ways, code], [], [])
        for source in ready:
            if source == code:
                said = os.read(code, 16) or b" "
            else:
                pass_on(source, ways)
    while ways and (ready := select.select([*ways], [], [], 0.0)[0]):
        for source in ready:
            pass_on(source, ways)
    return said.strip()


def pass_on(source: int, ways: dict[int, int]) -> None:
    """Pass one piece on; a source that has ended is waited for no more."""
    piece = os.read(source, PIECE_BYTES)
    if not piece:
        del ways[source]
        return
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(ways[source], rest) :]


if __name__ == "__main__":
    sys.exit(main())
