"""A box's interpreter, as far as it decides which wheels fit it."""

from __future__ import annotations

from typing import Final

import msgspec

from asdic.contract.errors import ConfigError

PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13")
ARCHITECTURES: Final = ("x86_64", "aarch64", "armv7l")
_GLIBC: Final = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36)
"""Minor versions of glibc 2 that wheels are built for; 2.31 is Debian 11's and JetPack 5's, 2.35
JetPack 6's, 2.36 Debian 12's."""


class BoxPython(msgspec.Struct, frozen=True, kw_only=True):
    """CPython ``python`` (``3.11``) on a Linux with glibc on ``architecture`` (``aarch64``)."""

    architecture: str
    python: str

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags that fit, those first that run on the oldest C library."""
        manylinux = (f"manylinux_2_{minor}_{self.architecture}" for minor in _GLIBC)
        old = (f"{name}_{self.architecture}" for name in ("manylinux2010", "manylinux2014"))
        # Wheels of indexes for 32-bit ARM say no more than this.
        plain = ("linux_armv7l",) if self.architecture == "armv7l" else ()
        return (*old, *manylinux, *plain)

    @property
    def pip_options(self) -> tuple[str, ...]:
        """What makes pip choose for this interpreter instead of its own."""
        platforms = (word for name in self.platforms for word in ("--platform", name))
        return ("--implementation", "cp", "--python-version", self.python, *platforms)

    @property
    def markers(self) -> dict[str, str]:
        """The environment of its markers (PEP 508): pip would take those of the machine it is on.

        Measured with pip 23.2 and 26.3: on Python 3.11, ``--python-version 3.10`` leaves out what
        is required ``python_version < "3.11"``.
        """
        full = f"{self.python}.0"
        return {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": self.architecture,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full,
            "python_version": self.python,
            "sys_platform": "linux",
        }


def box_python(architecture: str, python: str) -> BoxPython:
    """Return the interpreter of a box.

    Raises:
        ConfigError: asdic runs on no such box.
    """
    for what, value, known in (
        ("processor", architecture, ARCHITECTURES),
        ("Python", python, PYTHONS),
    ):
        if value not in known:
            raise ConfigError(
                f"asdic brings no wheels for {what} {value}; it knows {', '.join(known)}"
            )
    return BoxPython(architecture=architecture, python=python)
