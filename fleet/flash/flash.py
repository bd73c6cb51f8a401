"""Flash one box: carry, build, enrol, switch on probation, and wait for its signed word.

Until the switch nothing that runs is touched. Every part may be interrupted, and is found done, or
done again, by the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec

from asdic.contract.errors import ConfigError, InstallError, LinkError
from asdic.fleet.flash.box import activation, look, service_files
from asdic.fleet.flash.cargo import (
    ReleaseCargo,
    Wheelhouse,
    exported,
    release_for,
    version_for,
)
from asdic.fleet.flash.plan import Plan, layout_for, make_plan
from asdic.fleet.flash.relay import relay
from asdic.fleet.flash.session import Session
from asdic.fleet.flash.shore import Shore
from asdic.fleet.flash.situation import Situation, device_of, firmware_of
from asdic.fleet.flash.staging import Staging
from asdic.fleet.flash.switch import Judgement, Switch
from asdic.fleet.flash.wish import Wish, serial_port

Say = Callable[[str], None]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one box: who it is, what was done, and what it signed that it runs.

    ``security`` is what systemd says of its unit, where a systemd runs it.
    """

    address: str
    device: str
    version: str
    release: str | None
    report_number: int
    done: tuple[str, ...]
    sent_bytes: int
    seconds: float
    security: Judgement | None = None


class Flash:
    """One box, from the first look to its signed report.

    Args:
        session: The connection to it.
        wish: How it shall be.
        shore: The manager's side.
        wheelhouse: Brings the wheels.
        say: Is told what is being done, a sentence at a time.
    """

    def __init__(
        self, session: Session, wish: Wish, *, shore: Shore, wheelhouse: Wheelhouse, say: Say
    ) -> None:
        self._session = session
        self._wish = wish
        self._shore = shore
        self._wheelhouse = wheelhouse
        self._say = say
        self._begun_s = time.monotonic()

    def examine(self) -> Plan:
        """Look at the box and return what has to be done; nothing is changed.

        Raises:
            ConfigError: The box has no fitting Python, or there is no such release.
            LinkError: The box, or the manager, does not answer.
        """
        wish, shore = self._wish, self._shore
        release = None
        if wish.release is not None:
            release = release_for(shore.releases, wish.release, wish.target)
        broker = shore.broker()
        serial = serial_port(wish.firmware or "")
        remote, facts = look(
            self._session, wish, broker=broker, service=wish.service, serial=serial
        )
        now_s = time.time()
        self.version = version_for(
            facts,
            wish.kind,
            simulate=wish.simulate,
            firmware=bool(firmware_of(wish, facts)),
            wheelhouse=self._wheelhouse,
        )
        self._situation = Situation(
            wish=wish,
            facts=facts,
            version=self.version,
            release=release,
            known=shore.device(device_of(wish, facts)),
            broker=broker,
            now_s=now_s,
        )
        layout, service = layout_for(wish, facts, self.version), facts.service
        files = service_files(service, layout)
        self.plan = make_plan(
            self._situation,
            layout=layout,
            service=service,
            service_files={path: text for path, text, _ in files},
        )
        self.staging = Staging(remote, layout, say=self._say)
        scan = wish.runit_scan or facts.runit_scan
        self._switch = Switch(
            remote,
            activation(layout, service, files, scan=scan, now=wish.now),
            patience_s=wish.patience_s,
            say=self._say,
        )
        return self.plan

    def carry_out(self) -> Outcome:
        """Do what ``examine`` planned, and return what came of it.

        Raises:
            ConfigError: Something stands against it.
            InstallError: The box, or its new agent, fails; the box runs what it ran before.
            LinkError: A connection broke; the next run goes on where this one stopped.
        """
        if self.plan.facts.installed.was_interrupted:
            self._say("puts back what an interrupted switch left")
            self._switch.undo()
            self.examine()
        plan = self.plan
        if self._is_under_way():
            self._say("goes on with the switch that is under way")
        else:
            if plan.problems:
                raise ConfigError(f"{plan.address}: " + "; ".join(plan.problems))
            self._bring()
            if plan.needs.activation:
                self._say(f"switches to {plan.layout.version}")
                self._switch.start(self._install if plan.needs.install else None)
        if plan.needs.activation:
            self._switch.follow(self)
        if not plan.is_done:
            self.staging.tidy()
        return self._outcome()

    def has_heard(self, after: int) -> bool:
        """Return whether the manager has a report that only the new agent can have signed.

        A manager that is away for a moment has heard nothing yet.
        """
        try:
            known = self._shore.device(self.plan.device)
        except LinkError:
            return False
        if known is None or known.report_number <= after:
            return False
        release, before = self._situation.release, self._situation.known
        if release is not None:
            return known.state == "committed" and known.manifest == release.manifest
        return before is None or known.manifest == before.manifest

    def heard(self) -> str:
        """Return what the manager has heard of the box."""
        try:
            known = self._shore.device(self.plan.device)
        except LinkError as error:
            return str(error)
        return "nothing" if known is None else f"report {known.report_number}, {known.state}"

    def _is_under_way(self) -> bool:
        """Return whether a switch to this very version is at work.

        Raises:
            InstallError: One to another version is.
        """
        plan, version = self.plan, self.plan.facts.installed.switching_to
        if version not in {"", plan.layout.version}:
            raise InstallError(
                f"{plan.address}: a switch to {version} is under way; try again when it is over"
            )
        return bool(version)

    def _bring(self) -> None:
        """Bring everything that the switch needs."""
        needs, version = self.plan.needs, self.version
        if needs.build or needs.enrol:
            self.staging.prepare()
        if needs.build:
            self.staging.upload(version.files)
            self._say(f"installs {version.name}")
            self.staging.build(version, python=self.plan.facts.executable)
        if needs.enrol:
            self._say(f"enrols {self.plan.device}")
            self._enrol()
        if self._situation.release is not None and needs.install:
            self._say(f"brings release {self._situation.release.version}")
            self._bring_release(self._situation.release)

    def _enrol(self) -> None:
        """Let the box make its key and join, with a claim that only its stdin sees."""
        wish, plan = self._wish, self.plan
        with self._manager() as server:
            words = ["enrol", "--server", server, "--token-file", "-"]
            words += ["--state", str(plan.layout.state), "--device", plan.device]
            words += ["--target", wish.target, *(["--simulate"] if wish.simulate else [])]
            for key, value in sorted(self._situation.tags.items()):
                words += ["--tag", f"{key}={value}"]
            words += _firmware_words(wish)
            self.staging.run_agent(words, stdin=self._shore.token().encode())

    @contextmanager
    def _manager(self) -> Iterator[str]:
        """Yield the manager's address as the box sees it."""
        if self._wish.server is not None:
            yield self._wish.server
            return
        with self._session.tunnel(partial(relay, server=self._shore.client.url)) as port:
            yield f"http://127.0.0.1:{port}"

    def _bring_release(self, release: ReleaseCargo) -> None:
        """Bring the release; its offer is signed now, so it is sent whatever is there."""
        releases, plan = self._shore.releases, self.plan
        offers = self._shore.offers(release.version, plan.device)
        with exported(releases, release, target=self._wish.target, offers=offers) as cargo:
            folder, files = cargo
            blobs = [one for one in files if "/blobs/" in one.name]
            self.staging.upload(blobs)
            self.staging.send([one for one in files if one not in blobs])
        agent = str(plan.layout.root / "bin" / "asdic-agent")
        self._install = [agent, "install", str(plan.layout.incoming / folder)]
        self._install += ["--state", str(plan.layout.state), *plan.layout.run_options]
        self._install += ["--now"] if self._wish.now else []

    def _outcome(self) -> Outcome:
        plan, known = self.plan, self._shore.device(self.plan.device)
        return Outcome(
            address=plan.address,
            device=plan.device,
            version=plan.layout.version,
            release=known.release if known else None,
            report_number=known.report_number if known else 0,
            done=tuple(step.todo for step in plan.steps if step.todo),
            sent_bytes=self.staging.sent_bytes,
            seconds=round(time.monotonic() - self._begun_s, 1),
            security=self._switch.judge() if plan.service == "systemd" else None,
        )


def _firmware_words(wish: Wish) -> Iterator[str]:
    """Yield what `asdic-agent enrol` is told of the microcontroller."""
    if wish.firmware is not None:
        yield from ("--firmware", wish.firmware)
    if wish.without_test_boot is not None:
        yield from ("--without-test-boot", wish.without_test_boot)
