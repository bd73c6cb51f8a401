"""The error tree. Every class says who has to act, and every message carries the facts.

Only ``main()`` of a command turns an ``AsdicError`` into one line on stderr and exit code 1.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from pathlib import Path


class AsdicError(Exception):
    """Something expected went wrong; the message is for the person at the keyboard."""


class ConfigError(AsdicError):
    """The operator has to act: a wrong option, path, file or a missing package."""


class DataError(ConfigError):
    """Images, masks or labels are missing, unreadable or do not fit the model."""


class MissingPackageError(ConfigError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install `asdic[{extra}]`")
        self.package = package
        self.extra = extra


class ReleaseError(AsdicError):
    """The release's author has to act: signature, digest, version, target or content is wrong."""


class IncompatibleTargetError(ReleaseError):
    """The release, or the variant, is for another kind of device."""


class DigestError(ReleaseError):
    """Bytes do not have the digest or the length that was promised for them."""


class LinkError(AsdicError):
    """The network or the other side did not answer; trying again later may help."""


class InstallError(AsdicError):
    """The device cannot take the release; it stays on what it runs and says why."""


class NoModelError(AsdicError):
    """There is no model to ask, so there is no result: the last one is not given again."""


class QuantizationError(AsdicError):
    """The model or the recipe has to change."""


class UnsupportedModelError(QuantizationError):
    """The model holds something that the target cannot run; the message names it."""


class AccuracyDropError(QuantizationError):
    """INT8 lost more than is allowed; ``reports`` are the folders that say what was found."""

    def __init__(self, message: str, reports: tuple[Path, ...]) -> None:
        super().__init__(message)
        self.reports = reports
