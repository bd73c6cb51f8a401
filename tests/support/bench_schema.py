"""The published schema of a benchmark's result, made from the types.

``python -m tests.support.bench_schema docs/bench.schema.json`` writes it; a test compares it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from asdic.contract.bench import bench_schema


def published() -> str:
    """Return the text of docs/bench.schema.json."""
    return json.dumps(bench_schema(), indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(published())
