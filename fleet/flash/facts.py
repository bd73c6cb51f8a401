"""What a preflight finds on a box, as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from asdic.contract.errors import ConfigError, InstallError
from asdic.contract.target import Architecture

SERIAL_GROUP: Final = "dialout"
"""Whose members open serial ports on Debian, Ubuntu and JetPack."""

ARCHITECTURES: Final = {"x86_64": Architecture.X86_64, "aarch64": Architecture.ARM64}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that is there, or would be: its room, and whether we may write there."""

    path: str
    free_bytes: int
    read_only: bool
    writable: bool
    device: int


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """What there is beside the processor; empty where there is none.

    ``tensorrt_binding`` says whether the interpreter that was found can import it.
    """

    model: str = ""
    l4t: str = ""
    jetpack: str = ""
    tensorrt: str = ""
    tensorrt_binding: bool = False
    openvino: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def text(self) -> str:
        """Return it in few words."""
        words = (
            self.model,
            self.l4t,
            self.jetpack and f"JetPack {self.jetpack}",
            self.tensorrt and f"TensorRT {self.tensorrt}",
            *self.openvino,
        )
        return ", ".join(word for word in words if word) or "none found"


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was made of, as ``asdic-flash.json`` in its folder says: wheels by digest."""

    asdic: str
    python: str
    wheels: dict[str, str]


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What earlier flashes left on the box.

    ``incoming`` are the folders of what arrived, which digests name; ``busy_s`` is how long an
    exam may still take.
    """

    current: str = ""
    previous: str = ""
    versions: dict[str, Marker] = {}
    folders: tuple[str, ...] = ()
    incoming: tuple[str, ...] = ()
    activation: dict[str, Any] | None = None
    activating: bool = False
    service_files: dict[str, str] = {}
    agent_toml: str = ""
    agent_runs: bool = False
    busy_s: float = 0.0
    is_device: bool = False

    @property
    def service(self) -> str:
        """The kind of service that a flash has set up, as its files say."""
        kinds = ["systemd" if one.endswith(".service") else "runit" for one in self.service_files]
        return kinds[0] if kinds else "none"

    @property
    def switching_to(self) -> str:
        """The version of a switch whose process is at work, or nothing."""
        return str((self.activation or {}).get("version", "")) if self.activating else ""

    @property
    def was_interrupted(self) -> bool:
        """Whether the process of a switch has ended before the switch did."""
        state = (self.activation or {}).get("state", "")
        return not self.activating and state in {"running", "waiting"}

    @property
    def agent(self) -> AgentFacts | None:
        """Who the box is in the fleet, or None where it has not joined one.

        Raises:
            ConfigError: The agent's configuration is damaged.
        """
        if not self.agent_toml:
            return None
        try:
            return msgspec.toml.decode(self.agent_toml.encode(), type=AgentFacts)
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigError(f"agent.toml on the box is damaged: {error}") from error


class BrokerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent looks for the broker, and whom it trusts there."""

    host: str = ""
    port: int = 0
    ca: str = ""


class FirmwareFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent looks for its microcontroller, if it has one."""

    link: str = ""
    without_test_boot: str = "refuse"


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The part of ``agent.toml`` that says who the box is."""

    device: str
    target: str
    simulated: bool = False
    broker: BrokerFacts = BrokerFacts()
    tags: dict[str, str] = {}
    firmware: FirmwareFacts = FirmwareFacts()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a preflight looks at. Sizes are bytes, ``time_s`` is the box's own clock.

    ``sudo`` is ``yes``, or why it cannot be used; ``service`` is what shall start the agent, and
    ``service_places`` are the folders where services of each kind are put; ``broker`` is empty
    where the fleet's broker answers the box, or says why it does not; ``serial_ports`` are those
    that are there, each with the group that may open it.
    """

    architecture: str
    os: str
    libc: str
    host: str
    cpu_features: tuple[str, ...]
    cpus: int
    memory_bytes: int
    available_bytes: int
    python: str
    executable: str
    uid: int
    user: str
    sudo: str
    time_s: float
    prefix: Place
    state: Place
    service_manager: str
    runit_scan: str
    accelerator: Accelerator
    broker: str
    installed: Installed
    service_places: dict[str, Place] = {}
    service: str = "none"
    serial_ports: dict[str, str] = {}

    def lines(self, now_s: float) -> Iterator[tuple[str, str]]:
        """Yield names and values for a person; ``now_s`` is the time here."""
        features = " ".join(self.cpu_features) or "no features that matter"
        off_s = self.time_s - now_s
        yield "machine", f"{self.architecture}, {self.cpus} CPUs ({features})"
        yield "system", f"{self.os}, {self.libc or 'no glibc'}, {self.service_manager}"
        yield "python", f"{self.python} ({self.executable})"
        yield "memory", f"{_mib(self.memory_bytes)}, {_mib(self.available_bytes)} available"
        for place in (self.prefix, self.state):
            yield "disk", f"{place.path}: {_mib(place.free_bytes)} free"
        yield "clock", f"{abs(off_s):.0f} s {'ahead' if off_s > 0 else 'behind'}"
        yield "accelerator", self.accelerator.text()
        if self.serial_ports:
            yield "serial", ", ".join(self.serial_ports)
        yield "login", f"{self.user}{', through sudo' if self.needs_root else ''}"

    @property
    def places(self) -> tuple[Place, ...]:
        """All folders that are written to: prefix, state, and that of the service, if any."""
        service = self.service_places.get(self.service)
        return (self.prefix, self.state, *((service,) if service else ()))

    @property
    def needs_root(self) -> bool:
        """Whether the user who logged in may not write where asdic goes."""
        return self.uid != 0 and not all(one.writable for one in self.places)

    @property
    def python_minor(self) -> str:
        """The interpreter's version as ``3.11``."""
        return ".".join(self.python.split(".")[:2])


def _mib(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB"


def parse_facts(answer: Any, name: str) -> Facts:
    """Return what the probe answered.

    Raises:
        InstallError: It is not what a probe answers.
    """
    try:
        return msgspec.convert(answer, Facts)
    except msgspec.ValidationError as error:
        raise InstallError(f"{name}: the preflight's answer is not readable: {error}") from error
