"""What a device is in the middle of when the fault comes: releases, templates and stories."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.files import canonical_json
from asdic.contract.messages import CHUNK_BYTES, UpdateState
from asdic.contract.release import hex_of
from asdic.device.config import StateFolder
from asdic.device.update.sealed import unseal_line
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder
from asdic.fleet.director import encode_offer
from tests.faults.disk import Entry, PowerCut, SimulatedDisk, Tree, read_tree
from tests.faults.oracle import Signed
from tests.faults.world import Memory, Release, Script, Shore, World, remembered_signatures
from tests.support.yard import JETSON, Yard

_S: Final = UpdateState
NOW: Final = datetime(2026, 6, 1, 12, 0, tzinfo=timezone.utc)
OLD: Final = "1.0.0"
NEW: Final = "1.1.0"
NEWEST: Final = "1.2.0"
BAD: Final = "1.3.0"
UNFIT: Final = "1.4.0"

RELEASES: Final = MappingProxyType(
    {
        OLD: {},
        NEW: {},
        NEWEST: {"security_counter": 2},
        BAD: {"passes_gate": False},
        UNFIT: {"works_in_use": False},
    }
)
"""The yard's releases: what the gate and the use say, and the security counter."""

ON_THE_WAY: Final = (
    _S.OFFERED,
    _S.FETCHING,
    _S.VERIFYING,
    _S.STAGED,
    _S.GATING,
    _S.ACTIVATING,
    _S.PROBATION,
    _S.COMMITTED,
)
"""The states of an update that ends well."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A story that ends, without a fault, with ``ends`` running and the update in ``state``.

    Args:
        name: A short word.
        begin: The name of the template tree that it begins with.
        offer: The version that is offered at the beginning, if any.
        script: What happens when a state is entered for the first time.
    """

    name: str
    begin: str
    ends: str | None
    state: UpdateState = _S.COMMITTED
    offer: str | None = None
    script: Script = field(default_factory=dict)


def publish(version: str) -> Callable[[World], None]:
    """Return the event of another offer."""
    return lambda world: world.publish(world.shore.release(version).offer)


STORIES: Final = (
    Scenario(name="install", begin="enrolled", offer=OLD, ends=OLD),
    Scenario(name="update", begin="on-1.0.0", offer=NEW, ends=NEW),
    Scenario(
        name="repeated",
        begin="on-1.0.0",
        offer=NEW,
        script=MappingProxyType({_S.COMMITTED: publish(NEWEST)}),
        ends=NEWEST,
    ),
    Scenario(name="rollback", begin="on-1.0.0", offer=UNFIT, ends=OLD, state=_S.FAILED),
    *(
        Scenario(name=f"agent-upgrade-{state.value}", begin=f"schema-1-{state.value}", ends=NEW)
        for state in ON_THE_WAY
    ),
)
"""What rows 1 to 4 are tried on."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything that scenarios are played on: shore, templates, and what the oracle knows."""

    shore: Shore
    signed: Mapping[str, Signed]
    folder: Path
    templates: dict[str, Tree] = field(default_factory=dict)

    def begin(self, scenario: Scenario) -> tuple[Tree, Memory]:
        """Return the disk and the memory that a scenario begins with."""
        return self.template(scenario.begin), self.memory(scenario)

    def memory(self, scenario: Scenario) -> Memory:
        """Return what is known at the beginning: the old release had its trial before."""
        offer = self.shore.release(scenario.offer).offer if scenario.offer else None
        if scenario.begin.startswith(("schema-1", "in-")):
            offer = offer or self.shore.release(NEW).offer
        gated = set() if scenario.begin == "enrolled" else {self.hex(OLD), self.hex(NEW)}
        return Memory(retained=offer, gated=gated)

    def hex(self, version: str) -> str:
        """Return a release's manifest in hex."""
        return hex_of(self.shore.release(version).manifest)

    def template(self, name: str) -> Tree:
        """Return a tree by its name, made at its first use."""
        if name not in self.templates:
            self.templates[name] = self._make(name)
        return self.templates[name]

    def _make(self, name: str) -> Tree:
        if name == "on-1.0.0":
            return self._played("enrolled", OLD)
        if name == "on-1.1.0":
            return self._played("on-1.0.0", NEW)
        if name.startswith("schema-1-"):
            return as_schema_1(self.template(f"in-{name.removeprefix('schema-1-')}"))
        state = UpdateState(name.removeprefix("in-"))
        return self._played("on-1.0.0", NEW, until=state)

    def _played(self, begin: str, version: str, *, until: UpdateState | None = None) -> Tree:
        """Return the disk after an update, or when its journal has just said ``until``."""

        rollout = f"rollout-{version}"

        def stop(_number: int, call: str, path: Path) -> None:
            is_journal = call == "sync_folder" and path == disk.folder
            if until and is_journal and world.journal_on_disk() == (until.value, rollout):
                raise PowerCut

        disk = SimulatedDisk(self.folder / "template", self.template(begin), after=stop)
        memory = Memory(retained=self.shore.release(version).offer)
        world = World(disk, self.shore, memory)
        try:
            world.run()
        except PowerCut:
            return next(disk.trees("strict"))
        if until is not None:
            raise AssertionError(f"the update never was {until.value}")
        return read_tree(disk.folder)


@contextmanager
def stage_in(folder: Path) -> Iterator[Stage]:
    """Yield a stage: a yard with all releases, and an enrolled box, in memory."""
    with tempfile.TemporaryDirectory(dir=_memory_folder(), prefix="asdic-faults-") as quick:
        yard = Yard(folder / "yard", clock=lambda: NOW)
        shore = _shore(yard)
        stage = Stage(shore=shore, signed=_signed(yard), folder=Path(quick))
        stage.templates["enrolled"] = _enrolled(yard, Path(quick) / "enrolled")
        with remembered_signatures():
            yield stage


def as_schema_1(tree: Tree) -> Tree:
    """Return the tree as the first agents wrote it: no seals, no schemas, no reserve."""
    new = {"reserve", "store/schema.json"}
    return tuple(_older(entry) for entry in tree if entry.path not in new)


def _older(entry: Entry) -> Entry:
    sealed = entry.path in {"journal.json", "reports/number"} or entry.path.startswith("trust/")
    if not sealed or entry.kind != "file":
        return entry
    content = unseal_line(entry.content, what=entry.path)
    if entry.path == "reports/number":
        return _with_content(entry, str(msgspec.json.decode(content)["number"]).encode())
    if entry.path.endswith("-root.json"):
        return _with_content(entry, content)
    value = msgspec.json.decode(content)
    for key in ("schema", "by_person", "floor", "image_root", "director_root"):
        if key != "floor" or entry.path.endswith("metadata.json"):
            value.pop(key, None)
    return _with_content(entry, canonical_json(value))


def _with_content(entry: Entry, content: bytes) -> Entry:
    """Return the entry with other bytes."""
    return Entry(entry.path, entry.kind, content, entry.inode)


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - made by tempfile


def _shore(yard: Yard) -> Shore:
    for number, (version, says) in enumerate(RELEASES.items()):
        yard.add(
            version,
            offset=0.125 * number,
            security_counter=int(says.get("security_counter", 1)),
            ballast_bytes=CHUNK_BYTES + 4096,
        )
    releases = {}
    for version, says in RELEASES.items():
        manifest = yard.manifest(version)
        releases[manifest] = Release(
            version=version,
            manifest=manifest,
            offer=encode_offer(yard.offer(version)),
            passes_gate=bool(says.get("passes_gate", True)),
            works_in_use=bool(says.get("works_in_use", True)),
        )
    blobs = {
        f"sha256:{path.name}": path.read_bytes()
        for path in (yard.releases / "blobs" / "sha256").iterdir()
    }
    return Shore(key=Ed25519PrivateKey.generate(), releases=releases, blobs=blobs, now=NOW)


def _signed(yard: Yard) -> Mapping[str, Signed]:
    signed = {}
    for version, says in RELEASES.items():
        release = yard.layout.release(version)
        manifest = yard.layout.manifest(release, JETSON)
        files = {"variant.json": hex_of(manifest.config.digest)}
        for layer in manifest.layers:
            files[layer.annotations["org.opencontainers.image.title"]] = hex_of(layer.digest)
        signed[hex_of(yard.manifest(version))] = Signed(
            version=version,
            security_counter=int(says.get("security_counter", 1)),
            files=files,
            is_good=bool(says.get("passes_gate", True)),
        )
    return signed


def _enrolled(yard: Yard, folder: Path) -> Tree:
    folder.mkdir()
    image_root, director_root = yard.roots
    TrustFolder(StateFolder(folder).trust, Storage()).bootstrap(
        image_root=image_root, director_root=director_root
    )
    return read_tree(folder)
