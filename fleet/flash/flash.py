"""Flash one box: carry, build, enrol, switch on probation, and wait for its signed word.

Until the switch nothing that runs is touched. The switch itself is a process of the box's own,
which puts everything back unless we confirm that the manager has heard the new agent. Every part
may be interrupted and is found done, or done again, by the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import msgspec

from asdic.contract.errors import AsdicError, ConfigError, InstallError
from asdic.fleet.flash.box import activation, look, service_files
from asdic.fleet.flash.cargo import (
    File,
    ReleaseCargo,
    Version,
    Wheelhouse,
    exported,
    release_for,
    version_for,
)
from asdic.fleet.flash.plan import Plan, layout_for, make_plan, service_for
from asdic.fleet.flash.relay import relay
from asdic.fleet.flash.session import Session
from asdic.fleet.flash.shore import Shore
from asdic.fleet.flash.situation import Situation, device_of
from asdic.fleet.flash.wish import Wish
from asdic.fleet.view import DeviceView

BUILD_S: Final = 1800.0
INSTALL_S: Final = 1800.0
UPLOAD_S: Final = 3600.0
GRACE_S: Final = 60.0
POLL_S: Final = 0.3

Say = Callable[[str], None]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one box: who it is, what was done, and what it signed that it runs."""

    address: str
    device: str
    version: str
    release: str | None
    report_number: int
    done: tuple[str, ...]
    sent_bytes: int
    seconds: float


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
        self._sent_bytes = 0

    def examine(self) -> Plan:
        """Look at the box and return what has to be done; nothing is changed.

        Raises:
            ConfigError: The box has no fitting Python, or there is no such release.
            LinkError: The box, or the manager, does not answer.
        """
        wish = self._wish
        release = None
        if wish.release is not None:
            release = release_for(self._shore.releases, wish.release, wish.target)
        broker = self._shore.broker()
        self._remote, self._facts = look(self._session, wish, broker)
        self._version = version_for(
            self._facts, wish.kind, simulate=wish.simulate, wheelhouse=self._wheelhouse
        )
        self._situation = Situation(
            wish=wish,
            facts=self._facts,
            version=self._version,
            release=release,
            known=self._shore.device(device_of(wish, self._facts)),
            broker="{}:{}".format(*broker),
            now_s=time.time(),
        )
        self._layout = layout_for(wish, self._facts, self._version)
        self._service = service_for(wish, self._facts)
        self._files = service_files(self._service, self._layout)
        self.plan = make_plan(
            self._situation,
            layout=self._layout,
            service=self._service,
            service_files={path: text for path, text, _ in self._files},
        )
        return self.plan

    @property
    def version(self) -> Version:
        """The version for this box, once it was examined."""
        return self._version

    def digests(self) -> dict[str, str]:
        """Return the digest of each file of this version on the box, by its name in its folder.

        Raises:
            InstallError: The version is not there, or cannot be read.
        """
        found: dict[str, str] = self._stage("digests", version=self._layout.version, wait_s=BUILD_S)
        return found

    def carry_out(self) -> Outcome:
        """Do what ``examine`` planned, and return what came of it.

        Raises:
            ConfigError: Something stands against it.
            InstallError: The box, or its new agent, fails; the box runs what it ran before.
            LinkError: A connection broke; the next run goes on where this one stopped.
        """
        if self._facts.installed.was_interrupted:
            self._say("puts back what an interrupted switch left")
            self._activate("undo")
            self.examine()
        plan, switching_to = self.plan, self._facts.installed.switching_to
        if plan.problems:
            raise ConfigError(f"{plan.address}: " + "; ".join(plan.problems))
        if switching_to == self._layout.version:
            self._say("goes on with the switch that is under way")
        elif switching_to:
            raise InstallError(
                f"{plan.address}: a switch to {switching_to} is under way; try again "
                "when it is over"
            )
        else:
            self._bring()
            if plan.needs.activation:
                self._switch()
        if plan.needs.activation:
            self._follow()
        if not plan.is_done:
            self._stage("tidy")
        return self._outcome(tuple(step.todo for step in plan.steps if step.todo))

    def _bring(self) -> None:
        """Bring everything that the switch needs; nothing that runs is touched."""
        needs = self.plan.needs
        if needs.build or needs.enrol:
            self._stage("prepare", state=str(self._layout.state), user=self._layout.user)
        if needs.build:
            self._build()
        if needs.enrol:
            self._enrol()
        if self._situation.release is not None and needs.install:
            self._bring_release(self._situation.release)

    def _build(self) -> None:
        version = self._version
        self._say(f"uploads {len(version.files)} files, {version.size_bytes >> 20} MiB")
        self._upload(version.files)
        self._say(f"installs {version.name}")
        self._stage(
            "build",
            version=version.name,
            folder=str(self._layout.incoming),
            python=self._facts.executable,
            system_packages=version.system_packages,
            pip=version.pip.name,
            wheels=[(one.name, one.sha256) for one in version.wheels],
            marker=msgspec.to_builtins(version.marker),
            wait_s=BUILD_S,
        )

    def _enrol(self) -> None:
        """Let the box make its key and join, with a claim that only its stdin sees."""
        self._say(f"enrols {self.plan.device}")
        wish, token = self._wish, self._shore.token().encode()
        with self._manager() as server:
            words = [str(self._layout.root / "bin" / "asdic-agent"), "enrol"]
            words += ["--server", server, "--token-file", "-", "--state", str(self._layout.state)]
            words += ["--device", self.plan.device, "--target", wish.target]
            words += ["--simulate"] if wish.simulate else []
            for key, value in sorted(self._situation.tags.items()):
                words += ["--tag", f"{key}={value}"]
            answer = self._stage(
                "as-user",
                words=words,
                user=self._layout.user,
                payload_bytes=len(token),
                payload=[token],
            )
        if answer["code"] != 0:
            lines = answer["err"].strip().splitlines() or ["it said nothing"]
            raise InstallError(f"{wish.address} was not enrolled: {lines[-1]}")

    @contextmanager
    def _manager(self) -> Iterator[str]:
        """Yield the manager's address as the box sees it."""
        if self._wish.server is not None:
            yield self._wish.server
            return
        with self._session.tunnel(partial(relay, server=self._shore.client.url)) as port:
            yield f"http://127.0.0.1:{port}"

    def _bring_release(self, release: ReleaseCargo) -> None:
        self._say(f"brings release {release.version}")
        offers = self._shore.offers(release.version, self.plan.device)
        with exported(self._shore.releases, release, target=self._wish.target, offers=offers) as (
            folder,
            files,
        ):
            self._release_folder = str(self._layout.incoming / folder)
            fresh = tuple(one for one in files if "/blobs/" not in one.name)
            self._upload([one for one in files if one not in fresh])
            self._send(fresh)

    def _upload(self, files: Iterable[File]) -> None:
        """Send the files that are not on the box yet."""
        wanted = {one.name: one for one in files}
        absent = self._stage(
            "missing",
            folder=str(self._layout.incoming),
            files=[(one.name, one.size_bytes) for one in wanted.values()],
        )
        self._send(wanted[name] for name in absent if name in wanted)

    def _send(self, files: Iterable[File]) -> None:
        for one in files:
            self._stage(
                "receive",
                folder=str(self._layout.incoming),
                name=one.name,
                sha256=one.sha256,
                size_bytes=one.size_bytes,
                payload=one.pieces(),
                wait_s=UPLOAD_S,
            )
            self._sent_bytes += one.size_bytes

    def _switch(self) -> None:
        """Begin the switch, which goes on by itself."""
        self._say(f"switches to {self._layout.version}")
        layout = self._layout
        install = None
        if self.plan.needs.install:
            agent = str(layout.root / "bin" / "asdic-agent")
            install = [agent, "install", self._release_folder, "--state", str(layout.state)]
            install += [*layout.run_options, *(["--now"] if self._wish.now else [])]
        self._activate("start", install=install)

    def _follow(self) -> None:
        """Wait until the manager has the new agent's signed report, then confirm the switch.

        Raises:
            InstallError: It did not report in time, or failed; the box was put back.
        """
        deadline_s = time.monotonic() + INSTALL_S + self._wish.patience_s + GRACE_S
        said = ""
        report_by_s: float | None = None
        while time.monotonic() < deadline_s:
            record = self._activate("state")
            if record["step"] != said:
                said = record["step"]
                self._say(said)
            match record["state"]:
                case "confirmed":
                    return
                case "reverted":
                    raise self._failure(record)
                case "waiting" if self._is_reported(record):
                    self._decide(confirm=True)
                case "waiting":
                    report_by_s = report_by_s or time.monotonic() + self._wish.patience_s
                    if time.monotonic() > report_by_s:
                        self._decide(confirm=False, reason=self._silence())
            if not record["alive"] and record["state"] in {"running", "waiting"}:
                self._activate("undo")
            time.sleep(POLL_S)
        raise InstallError(f"{self._wish.address}: the switch does not end; see activation.log")

    def _is_reported(self, record: dict[str, Any]) -> bool:
        """Return whether the manager has a report that only the new agent can have signed."""
        known = self._shore.device(self.plan.device)
        if known is None or known.report_number <= record["report_number"]:
            return False
        release, before = self._situation.release, self._situation.known
        if release is not None:
            return known.state == "committed" and known.manifest == release.manifest
        return before is None or known.manifest == before.manifest

    def _silence(self) -> str:
        """Return what the manager has heard instead of what was waited for."""
        known = self._shore.device(self.plan.device)
        heard = "nothing" if known is None else f"report {known.report_number}, {known.state}"
        return f"no signed report of the new agent within {self._wish.patience_s:.0f} s ({heard})"

    def _decide(self, *, confirm: bool, reason: str = "") -> None:
        self._activate("decide", confirm=confirm, reason=reason)

    def _failure(self, record: dict[str, Any]) -> AsdicError:
        before, reason = record["before"]["current"], record.get("reason", "")
        now = f"it runs {before} as before" if before else "it has no agent, as before"
        return InstallError(f"{self._wish.address} was put back, {now}: {reason}")

    def _outcome(self, done: tuple[str, ...]) -> Outcome:
        known: DeviceView | None = self._shore.device(self.plan.device)
        return Outcome(
            address=self._wish.address,
            device=self.plan.device,
            version=self._layout.version,
            release=known.release if known else None,
            report_number=known.report_number if known else 0,
            done=done,
            sent_bytes=self._sent_bytes,
            seconds=round(time.monotonic() - self._begun_s, 1),
        )

    def _stage(
        self, step: str, *, payload: Iterable[bytes] = (), wait_s: float = 300.0, **further: Any
    ) -> Any:
        arguments = {
            "step": step,
            "prefix": str(self._layout.prefix),
            "timeout_s": wait_s,
            **further,
        }
        return self._remote.call("stage", arguments, payload=payload, timeout_s=wait_s + GRACE_S)

    def _activate(self, step: str, **further: Any) -> Any:
        return self._remote.call(
            "activate",
            {
                **activation(self._layout, self._service, self._files, self._scan()),
                "step": step,
                "patience_s": 2 * self._wish.patience_s,
                "install_s": INSTALL_S,
                "now": self._wish.now,
                **further,
            },
        )

    def _scan(self) -> str:
        return self._wish.runit_scan or self._facts.runit_scan
