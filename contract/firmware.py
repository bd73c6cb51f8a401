"""Versions of firmware as MCUboot counts them, and the ranges that a release states.

A version is ``major.minor.revision``, perhaps with a build number (``1.4.2+7``; Zephyr also prints
``1.4.2.7``). https://docs.mcuboot.com/design.html#image-format
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Final, Literal

from asdic.contract.errors import ConfigError

TestBootPolicy = Literal["refuse", "re-upload"]
"""What to do with firmware where the microcontroller cannot boot an image on trial."""

TERMS_LIMIT: Final = 8
_BITS: Final = (8, 8, 16, 32)
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,5})(?:[+.](\d{1,10}))?")
_TERM: Final = re.compile(r"\s*(==|>=|<=|<|>)?\s*([0-9.+]+)\s*")

_Compare = Callable[[tuple[int, ...], tuple[int, ...]], bool]
_COMPARISONS: Final = MappingProxyType[str, _Compare](
    {
        "==": operator.eq,
        ">=": operator.ge,
        "<=": operator.le,
        ">": operator.gt,
        "<": operator.lt,
    }
)


def firmware_version(text: str) -> tuple[int, ...]:
    """Return a version as numbers: three, or four with a build number.

    Raises:
        ConfigError: It is no version that MCUboot can hold.
    """
    found = _VERSION.fullmatch(text)
    numbers = tuple(int(one) for one in found.groups() if one is not None) if found else ()
    if not numbers or any(one >> bits for one, bits in zip(numbers, _BITS, strict=False)):
        raise ConfigError(
            f"{text!r} is not a firmware version; write it like 1.4.2 or 1.4.2+7 (at most 255, "
            "255, 65535 and 32 bits)"
        )
    return numbers


def check_firmware_range(text: str) -> None:
    """Check that ``text`` is a range, like ``>=1.4.0,<2.0.0``.

    Raises:
        ConfigError: It is not.
    """
    _terms(text)


def is_in_firmware_range(version: str, text: str) -> bool:
    """Return whether all terms of a range hold; one without a build number disregards builds.

    Raises:
        ConfigError: One of the two cannot be read.
    """
    numbers = (*firmware_version(version), 0)[: len(_BITS)]
    return all(compare(numbers[: len(bound)], bound) for compare, bound in _terms(text))


def _terms(text: str) -> list[tuple[_Compare, tuple[int, ...]]]:
    terms = text.split(",")
    found = [_TERM.fullmatch(term) for term in terms[:TERMS_LIMIT]]
    if len(terms) > TERMS_LIMIT or not all(found):
        raise ConfigError(
            f"{text!r} is not a range of firmware versions; write it like '>=1.4.0,<2.0.0', or "
            "'1.4.2' for that one alone"
        )
    return [
        (_COMPARISONS[one[1] or "=="], firmware_version(one[2])) for one in found if one is not None
    ]
