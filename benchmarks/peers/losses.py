"""What would be tried next where asdic misses an aim: by aim, and by network and format."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LOSSES: Final[Mapping[tuple[str, str], str]] = MappingProxyType({})
