"""What starts the agent on a box and keeps it running: a systemd unit, or a runit service.

The unit takes from the agent what it does not need, and leaves, on purpose:

- ``RestrictNamespaces=user net`` and Landlock's calls, which no group of systemd's but ``@known``
  holds: with them the agent confines the trial of a model that it does not trust yet. Without
  them a trial would silently run less confined.
- The view of other processes: whoever runs the model is looked up in ``/proc`` (``witness.py``).
  So no ``ProtectProc``, no ``ProcSubset``; and no ``PrivateUsers``, under which the box's own
  program would be nobody on the agent's socket. ``UMask`` lets that program read the model.
- Restarts without an end, and no wait for a network, which may be away for weeks. A trial that
  runs out of memory is a refused model: ``OOMPolicy=continue`` keeps the agent.
- No watchdog: the agent does not notify systemd.

Device files are the target's (``_devices``). Memory that is written and then run is refused where
the runtime compiles nothing: OpenVINO and TensorRT do, LiteRT does not (seen with Linux's own
``PR_SET_MDWE``). ``systemd-analyze security`` of systemd 252 counts 2.1 (LiteRT) to 2.5 (Jetson)
of 10 for the running unit, and up to 0.2 more for its file alone; a unit with ``User=`` alone has
9.2.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from asdic.contract.target import Runtime, Target, target_named
from asdic.fleet.flash.facts import SERIAL_GROUP
from asdic.fleet.flash.layout import SERVICE, Layout

RESTART_S: Final = 5
STOP_S: Final = 45
_HOMES: Final = tuple(map(PurePosixPath, ("/home", "/root", "/run/user")))
_LANDLOCK: Final = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
_SERIAL: Final = ("ttyACM", "ttyUSB", "ttyS", "ttyAMA", "ttyTHS", "ttymxc")

_CONFINEMENT: Final = MappingProxyType(
    {
        "AmbientCapabilities": "",
        "CapabilityBoundingSet": "",
        "LimitCORE": "0",
        "LockPersonality": "yes",
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectControlGroups": "yes",
        "ProtectHostname": "yes",
        "ProtectKernelLogs": "yes",
        "ProtectKernelModules": "yes",
        "ProtectKernelTunables": "yes",
        "ProtectSystem": "strict",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        "RestrictNamespaces": "user net",
        "RestrictRealtime": "yes",
        "RestrictSUIDSGID": "yes",
        "SystemCallArchitectures": "native",
        "SystemCallErrorNumber": "EPERM",
        "SystemCallFilter": f"@system-service {_LANDLOCK}",
        "UMask": "0022",
    }
)
"""What is the same on every box. A core dump could hold a patient's image, hence none."""


def systemd_unit(layout: Layout) -> str:
    """Return the text of ``asdic-agent.service``."""
    target = target_named(layout.target)
    confinement = {
        **_CONFINEMENT,
        **_devices(target, layout.groups),
        "MemoryDenyWriteExecute": "yes" if target.runtime is Runtime.LITERT else "no",
        "ProtectHome": "read-only" if any(map(_is_in_a_home, _paths(layout))) else "yes",
        "ReadWritePaths": _word(str(layout.state)),
    }
    sections = (
        (
            "Unit",
            (
                ("Description", f"asdic agent ({layout.target})"),
                ("After", "network.target"),
                ("RequiresMountsFor", f"{_word(str(layout.prefix))} {_word(str(layout.state))}"),
                ("StartLimitIntervalSec", "0"),
            ),
        ),
        (
            "Service",
            (
                ("Type", "exec"),
                ("ExecStart", " ".join(map(_word, layout.run_command))),
                ("User", layout.user),
                *((("SupplementaryGroups", " ".join(layout.groups)),) if layout.groups else ()),
                ("Environment", "LANG=C.UTF-8 PYTHONUNBUFFERED=1"),
                ("Restart", "always"),
                ("RestartSec", str(RESTART_S)),
                ("TimeoutStopSec", str(STOP_S)),
                ("KillMode", "mixed"),
                ("OOMPolicy", "continue"),
                *sorted(confinement.items()),
            ),
        ),
        ("Install", (("WantedBy", "multi-user.target"),)),
    )
    return "\n".join(_section(name, settings) for name, settings in sections)


def runit_script(layout: Layout) -> str:
    """Return the text of the runit service's ``run``."""
    return _script(
        "exec 2>&1",
        "umask 022",
        "ulimit -c 0",
        "export LANG=C.UTF-8 PYTHONUNBUFFERED=1",
        "cd /",
        *_as_user(layout, shlex.join(layout.run_command)),
    )


def runit_files(layout: Layout) -> dict[str, str]:
    """Return the executable files of the runit service by their names in its folder.

    ``log/run`` keeps at most ten files of 1 MB, which is svlogd's default, beside the agent's own
    short log in the state folder; ``finish`` lets a service that crashes rest.
    """
    log = shlex.quote(str(layout.state / "log" / "service"))
    return {
        "run": runit_script(layout),
        "finish": _script(f'[ "$1" = 0 ] || sleep {RESTART_S}'),
        "log/run": _script(
            "umask 027",
            *_as_user(layout, f'sh -c \'mkdir -p "$0" && exec svlogd -tt "$0"\' {log}'),
        ),
    }


def _devices(target: Target, groups: Iterable[str]) -> dict[str, str]:
    """Return which device files the agent and its runner see.

    A processor needs none but a serial port for the microcontroller. A GPU's render nodes have a
    name in ``/proc/devices``. Those of a Jetson differ from one JetPack to the next, so there file
    permissions decide (group ``video``), and ``ProtectClock`` is left out: it implies a
    ``DeviceAllow``, which would shut all others. What it guards, the lack of capabilities and the
    filter of system calls guard as well.
    """
    if target.runtime is Runtime.TENSORRT:
        return {"PrivateDevices": "no"}
    allowed = ["char-drm"] if target.execution_device == "gpu" else []
    if SERIAL_GROUP in groups:
        allowed += [f"char-{name}" for name in _SERIAL]
    if not allowed:
        return {"DevicePolicy": "closed", "PrivateDevices": "yes", "ProtectClock": "yes"}
    return {
        "DeviceAllow": "\nDeviceAllow=".join(f"{name} rw" for name in allowed),
        "DevicePolicy": "closed",
        "PrivateDevices": "no",
        "ProtectClock": "yes",
    }


def _as_user(layout: Layout, command: str) -> Iterator[str]:
    """Yield the lines that become the agent's user, where runsvdir is root, and then ``command``.

    ``chpst`` gives the user's own group where it is told no group, and else only those it is told.
    """
    who = shlex.quote(layout.user)
    if layout.groups:
        groups = ":".join(("", *layout.groups))
        who = f'"{layout.user}:$(id -gn {layout.user}){groups}"'
    yield f'[ "$(id -u)" != 0 ] || exec chpst -u {who} {command}'
    yield f"exec {command}"


def _paths(layout: Layout) -> tuple[PurePosixPath, ...]:
    words = (word for word in layout.run_options if word.startswith("/"))
    return (layout.prefix, layout.state, *map(PurePosixPath, words))


def _is_in_a_home(path: PurePosixPath) -> bool:
    return any(path.is_relative_to(home) for home in _HOMES)


def _section(name: str, settings: Iterable[tuple[str, str]]) -> str:
    return "".join((f"[{name}]\n", *(f"{key}={value}\n" for key, value in settings)))


def _word(text: str) -> str:
    """Return one word of a unit file: systemd expands ``%`` and ``$``, and splits at spaces."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if escaped and not set(escaped) & set(" \t\"'\\;") else f'"{escaped}"'


def _script(*lines: str) -> str:
    return "\n".join(("#!/bin/sh", f"# {SERVICE}, set up by asdic flash", *lines, ""))
