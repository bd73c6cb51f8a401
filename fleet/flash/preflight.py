"""What stands against flashing a box, and what a person should know. Rules alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from asdic.contract.target import Runtime
from asdic.fleet.flash.cargo import runtime_of
from asdic.fleet.flash.facts import ARCHITECTURES, SERIAL_GROUP, Facts, Installed, Place
from asdic.fleet.flash.situation import Situation
from asdic.fleet.flash.wish import Wish, serial_port

MEMORY_BYTES: Final = 256 << 20
"""An agent (42 MB), a runner with LiteRT (129 MB), and the system: less than that cannot work."""

CLOCK_S: Final = 300.0
COMPILED: Final = 1.3
"""Python's caches take about a third of what the wheels hold again."""

_MIB: Final = 1 << 20


def problems(situation: Situation, service: str) -> Iterator[str]:
    """Yield what stands against flashing the box, each with what to do about it."""
    yield from _machine_problems(situation)
    yield from _permission_problems(situation.wish, situation.facts)
    yield from _space_problems(situation)
    yield from _fleet_problems(situation)
    yield from _serial_problems(situation.wish, situation.facts)
    yield from _service_problems(situation.wish, situation.facts, service)


def _machine_problems(situation: Situation) -> Iterator[str]:
    wish, facts = situation.wish, situation.facts
    target = wish.kind
    found = ARCHITECTURES.get(facts.architecture)
    if found is not target.architecture and not (wish.simulate and found is not None):
        yield (
            f"{wish.target} is for {target.architecture.value}, this box is {facts.architecture}; "
            "choose another --target"
        )
    libc, _, number = facts.libc.partition("-")
    parts = tuple(int(part) for part in re.findall(r"[0-9]+", number)[:2])
    if libc != "glibc" or parts < situation.version.glibc:
        needed = "{}.{}".format(*situation.version.glibc)
        yield (
            f"the box has {facts.libc or 'no glibc'}, the wheels need glibc {needed} or newer; "
            "install a newer system on it"
        )
    if facts.memory_bytes and facts.memory_bytes < MEMORY_BYTES:
        yield (
            f"the box has {facts.memory_bytes // _MIB} MiB of memory, the agent and its runner "
            f"need {MEMORY_BYTES // _MIB}"
        )
    runtime = runtime_of(target, simulate=wish.simulate)
    if runtime is None and not facts.accelerator.tensorrt:
        yield "TensorRT is not installed on the box; install JetPack's: apt install tensorrt"
    elif runtime is None and not facts.accelerator.tensorrt_binding:
        yield (
            f"{facts.executable} does not find TensorRT's binding; install JetPack's (apt install "
            "python3-libnvinfer), or name the Python that has it with --python"
        )
    needs_gpu = target.execution_device == "gpu" and runtime is Runtime.OPENVINO
    if needs_gpu and not facts.accelerator.openvino:
        yield "the box shows no GPU (/dev/dri/renderD*); install its driver"


def _permission_problems(wish: Wish, facts: Facts) -> Iterator[str]:
    for place in facts.places:
        if place.read_only:
            yield f"{place.path} is on a read-only file system; {_elsewhere(place, facts)}"
    if facts.needs_root and facts.sudo != "yes":
        closed = " and ".join(one.path for one in facts.places if not one.writable)
        yield (
            f"{facts.user} may not write {closed}, and sudo does not help ({facts.sudo}); allow "
            "sudo without a password, log in as root, or name a --prefix and a --state that the "
            "user may write, and --service none"
        )
    if facts.uid != 0 and not facts.needs_root and wish.user not in {None, facts.user}:
        yield f"only root lets {wish.user} run the agent; log in as root, or leave --user out"


def _elsewhere(place: Place, facts: Facts) -> str:
    """Return what to do about a place that cannot be written to by anybody."""
    if place in {facts.prefix, facts.state}:
        return "name one on a data partition with --prefix and --state"
    return "let it be written while you flash, name a --service-folder, or --service none"


def _space_problems(situation: Situation) -> Iterator[str]:
    facts, version, release = situation.facts, situation.version, situation.release
    at_prefix = at_state = 0
    if version.name not in facts.installed.versions:
        absent = (one for one in version.files if one.sha256 not in facts.installed.incoming)
        at_prefix += sum(one.size_bytes for one in absent)
        at_prefix += round(version.unpacked_bytes * COMPILED)
    if release is not None and not situation.runs_release:
        at_prefix += release.size_bytes
        at_state += 2 * release.size_bytes
    if facts.prefix.device == facts.state.device:
        at_prefix, at_state = at_prefix + at_state, 0
    for place, need in ((facts.prefix, at_prefix), (facts.state, at_state)):
        if place.free_bytes < need:
            yield (
                f"{place.path} has {place.free_bytes // _MIB} MiB free, this takes "
                f"{-(-need // _MIB)}; make room, or name another partition"
            )


def _fleet_problems(situation: Situation) -> Iterator[str]:
    agent, device = situation.facts.installed.agent, situation.device
    if agent is not None:
        simulated = situation.wish.simulate
        if agent.device != device:
            yield (
                f"the box is {agent.device!r} already; `asdic unflash` it before it becomes "
                f"{device!r}"
            )
        elif (agent.target, agent.simulated) != (situation.wish.target, simulated):
            kind = f"{agent.target}{' (simulated)' if agent.simulated else ''}"
            yield f"the box is enrolled as {kind}; `asdic unflash` it before it becomes another"
    if agent is None and situation.known is not None and situation.known.online:
        yield f"another box is online as {device!r}; choose another --device"
    if situation.facts.broker:
        yield (
            f"the box cannot reach the fleet's broker at {situation.broker} "
            f"({situation.facts.broker}); give the manager one that boxes reach: "
            "`asdic serve --broker HOST:PORT [--broker-ca CA.pem]`"
        )


def _serial_problems(wish: Wish, facts: Facts) -> Iterator[str]:
    """Yield what keeps the agent from the wished serial port; no other link can be looked at."""
    port = serial_port(wish.firmware or "")
    if port is None:
        return
    group = facts.serial_ports.get(port)
    if group is None:
        yield (
            f"the box has no {port} (it has {', '.join(facts.serial_ports) or 'no serial port'}); "
            "plug the microcontroller in, or name another one with --firmware"
        )
    elif group != SERIAL_GROUP and (facts.uid == 0 or facts.needs_root) and wish.user != "root":
        yield (
            f"{port} on the box belongs to the group {group or 'of nobody'}, and the agent will be "
            f"in {SERIAL_GROUP}; end what else uses it, and give it that group by a udev rule"
        )


def activation_problems(situation: Situation, service: str) -> Iterator[str]:
    """Yield what stands against stopping and starting the agent."""
    installed = situation.facts.installed
    yield from exam_problem(installed, now=situation.wish.now)
    is_ours = installed.activating or (service != "none" and installed.service_files)
    if installed.agent_runs and not is_ours:
        yield (
            "an agent runs on the box that no service of ours has started; stop it first, and let "
            "a service start it: --service systemd or runit"
        )


def exam_problem(installed: Installed, *, now: bool) -> Iterator[str]:
    """Yield that an exam is in progress, which nothing but a person's word may disturb."""
    if installed.busy_s and not now:
        yield (
            f"an exam is in progress on the box, for {installed.busy_s / 60:.0f} min at most; "
            "try again later, or disturb it with --now"
        )


def _service_problems(wish: Wish, facts: Facts, service: str) -> Iterator[str]:
    if service == "systemd" and facts.service_manager != "systemd":
        yield "the box has no systemd; leave --service out"
    if service == "runit" and not (wish.runit_scan or facts.runit_scan):
        yield "runsvdir looks in no folder that is known; name it with --runit-scan"
    installed = facts.installed
    if installed.service_files and installed.service != service:
        yield f"the box has a {installed.service} service of asdic's; `asdic unflash` it first"


def warnings(facts: Facts, now_s: float) -> Iterator[str]:
    """Yield what a person should know, though it stands against nothing."""
    off_s = facts.time_s - now_s
    if abs(off_s) > CLOCK_S:
        direction = "ahead" if off_s > 0 else "behind"
        yield (
            f"the box's clock is {abs(off_s) / 3600:.1f} h {direction}; it works, "
            "but its logs will mislead"
        )
    if facts.memory_bytes and facts.available_bytes < MEMORY_BYTES:
        yield f"only {facts.available_bytes // _MIB} MiB of memory are available now"
