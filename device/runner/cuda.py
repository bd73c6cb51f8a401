"""The dozen functions of CUDA's runtime that an inference needs, through ctypes.

``libcudart`` comes with JetPack as TensorRT does; a package of bindings would be one more thing
that has to fit both.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, InstallError

LIBRARIES: Final = ("libcudart.so", "libcudart.so.12", "libcudart.so.13", "libcudart.so.11.0")

# enum cudaMemcpyKind and cudaDeviceAttr of driver_types.h.
_TO_DEVICE: Final = 1
_TO_HOST: Final = 2
_MAJOR: Final = 75
_MINOR: Final = 76


class Cuda:
    """Memory and one stream on the first CUDA device.

    Args:
        library: ``libcudart`` as ctypes loads it.

    Raises:
        InstallError: CUDA finds no device, or fails.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p
        self._memory: list[int] = []
        self._stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(self._stream))

    @classmethod
    def load(cls) -> Cuda:
        """Return CUDA as it is installed.

        Raises:
            ConfigError: There is no ``libcudart``.
            InstallError: CUDA finds no device, or fails.
        """
        for name in LIBRARIES:
            with suppress(OSError):
                return cls(ctypes.CDLL(name))
        raise ConfigError(
            "CUDA's runtime (libcudart.so) is not found; on a Jetson it comes with JetPack"
        )

    @property
    def stream(self) -> int:
        """The stream's handle, which all work goes to in order."""
        return self._stream.value or 0

    @property
    def chip(self) -> str:
        """The compute capability: ``sm_87`` is an Orin."""
        return f"sm_{self._attribute(_MAJOR)}{self._attribute(_MINOR)}"

    @property
    def driver(self) -> str:
        """The newest CUDA that the driver can run, and the CUDA that is installed."""
        return f"{self._version('cudaDriverGetVersion')}/{self._version('cudaRuntimeGetVersion')}"

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new memory on the device."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        self._memory.append(address.value or 0)
        return address.value or 0

    def copy_in(self, address: int, array: NDArray[np.float32]) -> None:
        """Queue a copy of a contiguous array to the device; it must not change before ``wait``."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def copy_out(self, array: NDArray[np.float32], address: int) -> None:
        """Queue a copy from the device into a contiguous array, which holds it after ``wait``."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def wait(self) -> None:
        """Wait until all that is queued has been done."""
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free all memory and the stream; a second time does nothing."""
        while self._memory:
            self._call("cudaFree", ctypes.c_void_p(self._memory.pop()))
        if self._stream.value:
            self._call("cudaStreamDestroy", self._stream)
            self._stream = ctypes.c_void_p()

    def _copy(self, to: int, source: int, size_bytes: int, kind: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size_bytes),
            ctypes.c_int(kind),
            self._stream,
        )

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), 0)
        return value.value

    def _version(self, function: str) -> int:
        value = ctypes.c_int()
        self._call(function, ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            reason = (self._library.cudaGetErrorString(ctypes.c_int(code)) or b"").decode()
            raise InstallError(f"CUDA's {function} failed with error {code}: {reason}")
