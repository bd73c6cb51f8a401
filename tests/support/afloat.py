"""A whole agent in a thread of this process: real link, update, store and reports.

The trial passes whatever is whole, and a stand-in takes the place of the program that infers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import AsdicError
from asdic.contract.messages import REPORT_TYPE, GateFacts, Refusal, RuntimeFacts
from asdic.contract.release import hex_of
from asdic.contract.trust import open_envelope, public_hex
from asdic.contract.variant import read_variant
from asdic.device.agent import Agent, locked
from asdic.device.application import Application, CurrentRelease, HealthCall
from asdic.device.identity import read_key
from asdic.device.link import MqttLink
from asdic.device.update.storage import Storage
from asdic.device.update.work import Work
from tests.support.boxes import Box

RUNTIME: Final = RuntimeFacts(runtime="onnxruntime", version="1", simulated=True)
PASSED: Final = GateFacts(
    outputs_checked=8,
    worst_difference=0.0,
    metric="dice",
    measured=90.0,
    limit=85.0,
    latency_ms_p50=1.0,
    load_s=0.1,
    memory_bytes=1 << 20,
    runtime=RUNTIME,
)


class WholeTrial:
    """A trial that passes a release whose files have their digests."""

    def __init__(self, work: Work, gated: set[str]) -> None:
        self._verdict: GateFacts | Refusal = PASSED
        try:
            read_variant(work.store.release(work.digest).folder)
            gated.add(hex_of(work.digest))
        except AsdicError as error:
            self._verdict = Refusal(code="damaged", message=str(error))

    def poll(self) -> GateFacts | Refusal:
        """Return the verdict."""
        return self._verdict

    def stop(self) -> None:
        """Nothing runs."""


class StandIn:
    """A program: it loads what the agent names, file by file, and says that it infers.

    Attributes:
        running: The manifest (hex) that it has loaded.
        ran: The manifests of all its inferences, in order.
    """

    def __init__(self, state: Path) -> None:
        self.running: str | None = None
        self.ran: list[str] = []
        self._state = state
        self._inferences = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in", daemon=True)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            with suppress(AsdicError), Application.connect(self._state) as agent:
                self._follow(agent)

    def _follow(self, agent: Application) -> None:
        wanted = agent.current()
        while not self._stopping.wait(0.02):
            if wanted.manifest is None or wanted.folder is None:
                self.running = None
                wanted = agent.current()
            elif hex_of(wanted.manifest) != self.running:
                wanted = self._load(agent, wanted)
            else:
                self._infer()
                health = HealthCall(manifest=wanted.manifest, inferences=self._inferences)
                wanted = agent.health(health)

    def _load(self, agent: Application, wanted: CurrentRelease) -> CurrentRelease:
        read_variant(Path(wanted.folder or ""))
        self.running = hex_of(wanted.manifest or "")
        self._inferences = 0
        self._infer()
        return agent.loaded(wanted, inferences=self._inferences, runtime=RUNTIME)

    def _infer(self) -> None:
        self._inferences += 1
        self.ran.append(self.running or "")


class HeardLink(MqttLink):
    """The link, which also remembers what reports were sent."""

    def __init__(self, box: Box, broker: BrokerAddress) -> None:
        config, key = box.config, read_key(box.state)
        super().__init__(broker, config.device, key, config.timing)
        self.reports: list[dict[str, Any]] = []
        self.envelopes: list[bytes] = []
        self._public = public_hex(key)

    def send_report(self, envelope: bytes) -> None:
        """Remember and send."""
        self.envelopes.append(envelope)
        self.reports.append(json.loads(open_envelope(envelope, REPORT_TYPE, self._public)))
        super().send_report(envelope)


class Afloat:
    """A box whose agent works in a thread.

    Attributes:
        agent: The agent. Only its thread may change it.
        program: The program beside it.
        link: Its link.
        gated: The manifests (hex) that passed the trial.
        turns: How often the agent has looked around.
    """

    def __init__(self, box: Box, broker: BrokerAddress, clock: Callable[[], float]) -> None:
        self.box = box
        self.turns = 0
        self.gated: set[str] = set()
        self.program = StandIn(box.state.path)
        self.link = HeardLink(box, broker)
        self.agent = Agent(
            box.state,
            box.config,
            link=self.link,
            storage=Storage(),
            open_trial=lambda work: WholeTrial(work, self.gated),
            clock=clock,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the agent as SIGTERM would."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_at_rest(self) -> bool:
        """Whether no update is in hand and the last one was cleaned up after."""
        return self.agent.update.is_settled and not self.agent.update.has_pending

    @property
    def said(self) -> str | None:
        """The manifest (hex) of what its last report says is loaded."""
        loaded = self.link.reports[-1]["loaded"] if self.link.reports else None
        return hex_of(loaded["manifest"]) if loaded else None

    def _run(self) -> None:
        with locked(self.box.state):
            self.agent.run(self._is_over)

    def _is_over(self) -> bool:
        self.turns += 1
        return self._stopping.is_set()


@contextmanager
def afloat(box: Box, broker: BrokerAddress, *, clock: Callable[[], float]) -> Iterator[Afloat]:
    """Yield a box whose agent works until the block ends."""
    boat = Afloat(box, broker, clock)
    with boat.program:
        boat.start()
        try:
            yield boat
        finally:
            boat.stop()
