"""TensorRT-RTX as a gate for a Jetson's graph: does it read the file, and can it build of it?

Both work without a GPU. It is not the TensorRT of a Jetson. It is native code that may crash, so
it runs in a process of its own: ``python -m asdic.quantization.backends.rtx FILE``.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from asdic.contract.errors import QuantizationError

TIMEOUT_S: Final = 600.0
_MODULE: Final = "tensorrt_rtx"
_REASONS_LIMIT: Final = 20


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What TensorRT-RTX has against a graph: nothing where it read the file and built of it."""

    errors: tuple[str, ...]


def try_rtx(path: Path) -> tuple[str, ...] | None:
    """Return what TensorRT-RTX's parser and builder have against an ONNX file.

    Nothing: it accepts it. None where the wheel ``tensorrt-rtx`` is not installed.

    Raises:
        QuantizationError: It did not end in ``TIMEOUT_S``.
    """
    if importlib.util.find_spec(_MODULE) is None:
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise QuantizationError(f"TensorRT-RTX did not end within {TIMEOUT_S:.0f} s") from error
    if done.returncode < 0:
        return (f"it died of {signal.Signals(-done.returncode).name}",)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return ("it ended without an answer",)
    return msgspec.json.decode(lines[-1], type=Tried).errors


def main(path: Path) -> None:
    """Print what TensorRT-RTX has against the file, as JSON in the last line."""
    rtx: Any = importlib.import_module(_MODULE)

    class Log(rtx.ILogger):  # type: ignore[misc]
        """Keeps what the builder complains about; the parser has a list of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Take note of an error."""
            if severity in {rtx.ILogger.ERROR, rtx.ILogger.INTERNAL_ERROR}:
                self.errors.append(message)

    log = Log()
    builder = rtx.Builder(log)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        found = [parser.get_error(number) for number in range(parser.num_errors)]
        errors = [f"{one.node_operator()} {one.node_name()}: {one.desc()}" for one in found]
        _say(errors or ["the parser refuses it without a reason"])
        return
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    _say([] if engine is not None else log.errors or ["the builder fails without a reason"])


def _say(errors: list[str]) -> None:
    answer = msgspec.json.encode(Tried(errors=tuple(errors[:_REASONS_LIMIT])))
    sys.stdout.write(f"\n{answer.decode()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
