"""The published schema of a quantization's report, made from the types.

``python -m tests.support.report_schema docs/report.schema.json`` writes it; a test compares it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from asdic.quantization.report import report_schema


def published() -> str:
    """Return the text of docs/report.schema.json."""
    return json.dumps(report_schema(), indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(published())
