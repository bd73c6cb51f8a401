"""A refusal: why a device does not take a release, as an error and as data in its report."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from asdic.contract.errors import (
    AsdicError,
    ConfigError,
    DigestError,
    IncompatibleTargetError,
    InstallError,
    LinkError,
    ReleaseError,
)
from asdic.contract.messages import Refusal

MESSAGE_LIMIT: Final = 500

CODES: Final = MappingProxyType(
    {
        DigestError: "damaged",
        IncompatibleTargetError: "wrong-target",
        ReleaseError: "release",
        InstallError: "device",
        LinkError: "link",
        ConfigError: "device",
        AsdicError: "device",
    }
)
"""Code of an error that says no more than its class; the first class that fits wins."""


class RefusedReleaseError(ReleaseError):
    """The release's author or its manager has to act; ``code`` says what is wrong in one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RefusedInstallError(InstallError):
    """The device cannot take the release; ``code`` says why in one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def refusal_for(error: AsdicError) -> Refusal:
    """Return what the report says about ``error``."""
    if isinstance(error, RefusedReleaseError | RefusedInstallError):
        code = error.code
    else:
        code = next(code for kind, code in CODES.items() if isinstance(error, kind))
    return Refusal(code=code, message=str(error)[:MESSAGE_LIMIT])
