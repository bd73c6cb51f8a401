"""Raw latencies, kept compactly, so that others can compute every figure again.

With numpy: ``np.frombuffer(zlib.decompress(base64.b64decode(data)), "<u4") * unit_ns / 1e6``.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import PackedSamples
from asdic.contract.errors import ConfigError

SAMPLES_LIMIT: Final = 1 << 14
STEPS_IN_MEDIAN: Final = 1_000
_LARGEST: Final = (1 << 32) - 1


class Series:
    """Latencies as they are measured; when it is full, every second one goes."""

    def __init__(self) -> None:
        self.seen = 0
        self.every = 1
        self._kept_ns: list[int] = []

    def __len__(self) -> int:
        return len(self._kept_ns)

    def append(self, latency_ns: int) -> None:
        """Keep a latency, if it is one of those to be kept."""
        if self.seen % self.every == 0:
            self._kept_ns.append(latency_ns)
        self.seen += 1
        if len(self._kept_ns) > SAMPLES_LIMIT:
            del self._kept_ns[1::2]
            self.every *= 2

    def pack(self) -> PackedSamples:
        """Return the kept samples in steps of at most a thousandth of their median."""
        kept = np.asarray(self._kept_ns, np.int64)
        typical = int(np.median(kept)) if kept.size else 0
        longest = int(kept.max(initial=0))
        unit = max(1, typical // STEPS_IN_MEDIAN, -(-longest // _LARGEST))
        steps = np.rint(kept / unit).astype("<u4")
        return PackedSamples(
            count=kept.size,
            unit_ns=unit,
            every=self.every,
            data=base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode(),
        )


def unpack_ms(packed: PackedSamples) -> NDArray[np.float64]:
    """Return the latencies in ms.

    Raises:
        ConfigError: The samples are damaged, or more than ``SAMPLES_LIMIT``.
    """
    size = packed.count * 4
    if not 0 <= packed.count <= SAMPLES_LIMIT:
        raise ConfigError(f"a result holds up to {SAMPLES_LIMIT} samples, not {packed.count}")
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(packed.data, validate=True), size)
    except (binascii.Error, zlib.error) as error:
        raise ConfigError(f"the raw samples are damaged: {error}") from error
    if len(data) != size:
        raise ConfigError(f"{packed.count} samples are promised, {len(data) // 4} are there")
    return np.frombuffer(data, "<u4") * packed.unit_ns / 1e6
