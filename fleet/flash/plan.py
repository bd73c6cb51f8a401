"""What has to be done to a box. Rules alone: nobody is asked here, and nothing is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

import msgspec

from asdic.contract.target import Runtime
from asdic.fleet.flash.cargo import Version
from asdic.fleet.flash.facts import SERIAL_GROUP, Facts
from asdic.fleet.flash.layout import Layout
from asdic.fleet.flash.preflight import activation_problems, problems, warnings
from asdic.fleet.flash.situation import Situation, firmware_of
from asdic.fleet.flash.wish import Site, Wish, serial_port

_MIB: Final = 1 << 20


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts of the work are still to be done.

    Attributes:
        build: The version is not on the box.
        switch: Another one, or none, runs.
        enrol: The box is not in the fleet, or has other tags or another broker.
        install: It has not signed that it runs the release.
        serve: Its service is not as it shall be.
        confirm: A switch is under way, or was interrupted.
        hear: The manager has no report of it, or it is not connected.
        tidy: Files of an earlier flash lie around.
    """

    build: bool
    switch: bool
    enrol: bool
    install: bool
    serve: bool
    confirm: bool
    hear: bool
    tidy: bool

    @property
    def activation(self) -> bool:
        """Whether the agent has to be stopped and started."""
        return any((self.switch, self.enrol, self.install, self.serve, self.confirm, self.hear))


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the plan: what, how it is now, and what will be done (empty: nothing)."""

    what: str
    found: str
    todo: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that will be done to one box, and what stands against it."""

    address: str
    facts: Facts
    now_s: float
    device: str
    layout: Layout
    service: str
    needs: Needs
    steps: tuple[Step, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether the box is as it shall be."""
        return not (self.needs.build or self.needs.activation or self.needs.tidy)


def layout_for(wish: Wish, facts: Facts, version: Version) -> Layout:
    """Return where everything goes."""
    is_root = facts.uid == 0 or facts.needs_root
    return msgspec.structs.replace(
        places_of(wish),
        version=version.name,
        user=wish.user or ("asdic" if is_root else facts.user),
        target=wish.target,
        groups=_groups(wish, facts),
        run_options=wish.run_options,
    )


def places_of(site: Site) -> Layout:
    """Return the places that all versions on a box share."""
    folder = site.service_folder
    return Layout(
        prefix=PurePosixPath(site.prefix),
        version="",
        state=PurePosixPath(site.state),
        user="",
        target="",
        service_folder=None if folder is None else PurePosixPath(folder),
    )


def _groups(wish: Wish, facts: Facts) -> tuple[str, ...]:
    """Return the groups whose devices the agent and its runner open."""
    is_serial = serial_port(firmware_of(wish, facts)) is not None
    return (*_runtime_groups(wish, facts), *((SERIAL_GROUP,) if is_serial else ()))


def _runtime_groups(wish: Wish, facts: Facts) -> tuple[str, ...]:
    if wish.simulate or wish.kind.execution_device != "gpu":
        return ()
    if wish.kind.runtime is Runtime.TENSORRT:
        return ("video",)
    return facts.accelerator.groups


def make_plan(
    situation: Situation, *, layout: Layout, service: str, service_files: dict[str, str]
) -> Plan:
    """Return what has to be done.

    Args:
        situation: What was found, and what is wanted.
        layout: Where everything goes.
        service: The kind of service.
        service_files: Path and content of the service's files, as they shall be.

    Raises:
        ConfigError: The box has no name, or its agent's configuration is damaged.
    """
    needs = needs_of(situation, layout=layout, service=service, service_files=service_files)
    return Plan(
        address=situation.wish.address,
        facts=situation.facts,
        now_s=situation.now_s,
        device=situation.device,
        layout=layout,
        service=service,
        needs=needs,
        steps=tuple(_steps(situation, needs, layout=layout, service=service)),
        problems=(
            *problems(situation, service),
            *(activation_problems(situation, service) if needs.activation else ()),
        ),
        warnings=tuple(warnings(situation.facts, situation.now_s)),
    )


def needs_of(
    situation: Situation, *, layout: Layout, service: str, service_files: dict[str, str]
) -> Needs:
    """Return which parts of the work are still to be done; the arguments are ``make_plan``'s."""
    installed, known = situation.facts.installed, situation.known
    is_heard = known is not None and known.report_number > 0
    is_there = known is not None and (known.online or service == "none")
    keep = {layout.version, installed.current, installed.previous}
    wheels = {one.sha256 for one in situation.version.files}
    return Needs(
        build=layout.version not in installed.versions,
        switch=installed.current != layout.version,
        enrol=known is None or not situation.is_enrolled,
        install=not situation.runs_release,
        serve=any(installed.service_files.get(p) != text for p, text in service_files.items()),
        confirm=installed.activating or installed.was_interrupted,
        hear=not (is_heard and is_there),
        tidy=bool(set(installed.folders) - keep or set(installed.incoming) - wheels),
    )


def _steps(situation: Situation, needs: Needs, *, layout: Layout, service: str) -> Iterator[Step]:
    version, release = situation.version, situation.release
    installed, known = situation.facts.installed, situation.known
    size = f"{len(version.wheels)} wheels, {version.size_bytes / _MIB:.0f} MiB"
    build = f"install {layout.version} ({size})"
    yield Step(
        what="asdic",
        found=f"{layout.version} is here" if not needs.build else "this version is not here",
        todo=build if needs.build else "",
    )
    yield Step(
        what="current",
        found=installed.current or "nothing",
        todo=f"switch to {layout.version}" if needs.switch else "",
    )
    yield Step(
        what="fleet",
        found=f"enrolled as {installed.agent.device}" if installed.agent else "not enrolled",
        todo=_enrolment(situation) if needs.enrol else "",
    )
    if release is not None:
        yield Step(
            what="release",
            found=(known.release if known else None) or "none",
            todo=f"install {release.version} ({release.size_bytes / _MIB:.1f} MiB)"
            if needs.install
            else "",
        )
    yield Step(
        what="service",
        found=f"{service}, {'not ' if needs.serve else ''}as wanted",
        todo=f"set up {service}" if needs.serve else "",
    )
    if needs.confirm:
        yield Step(what="switch", found="under way or interrupted", todo="bring it to its end")
    if needs.hear:
        yield Step(what="report", found="not heard of", todo="start it, wait for a signed report")
    if needs.tidy:
        yield Step(what="leftovers", found="of an earlier flash", todo="remove what is of no use")


def _enrolment(situation: Situation) -> str:
    firmware = situation.wish.firmware
    beside = f", microcontroller at {firmware}" if firmware is not None else ""
    return f"enrol as {situation.device}, broker {situation.broker}{beside}"
