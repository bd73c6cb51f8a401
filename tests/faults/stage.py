"""What stories are played on: a yard with releases, an enrolled box, and disks by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.files import canonical_json
from asdic.contract.messages import CHUNK_BYTES, UpdateState
from asdic.contract.release import hex_of
from asdic.device.config import StateFolder
from asdic.device.update.journal import Journal
from asdic.device.update.sealed import seal, unseal_line
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder
from asdic.fleet.director import encode_offer
from tests.faults.around import Memory, Release, Shore
from tests.faults.disk import Entry, PowerCut, SimulatedDisk, Tree, read_tree
from tests.faults.oracle import Signed
from tests.faults.scenario import (
    DAMAGED,
    DEAD,
    FORGED,
    INCOMPLETE,
    NEW,
    NEWEST,
    NOTHING_ELSE,
    NOW,
    OLD,
    OTHER_MACHINE,
    PAIR_OLD,
    RELEASES,
    ROTTEN,
    SCHEMA_1,
    UNFIT,
    WITHDRAWN,
    WORN,
    Scenario,
)
from tests.faults.world import CONFIG, World, quiet, remembered_signatures
from tests.support.boards import Board, digest_of_image, firmware_file
from tests.support.yard import JETSON, Yard

TRIES: Final = 5

Way: TypeAlias = Callable[[World, UpdateState], None]
"""What happens around a device whenever it enters a state."""


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
        offer = self.shore.offers.get(scenario.offer or "")
        if scenario.begin.startswith("in-") and scenario.offer is None:
            offer = self.shore.offers[NEW]
        gated = set() if scenario.begin == "enrolled" else {OLD, NEW}
        gated |= {release for state, release in LEADS_TO.items() if state.value in scenario.begin}
        if scenario.has_board:
            gated.add(PAIR_OLD)
        return Memory(
            retained=offer,
            gated={self.hex(version) for version in gated},
            board=Board(dead=DEAD, boots=scenario.boots, tells_mode=scenario.tells_mode)
            if scenario.has_board
            else None,
        )

    def hex(self, version: str) -> str:
        """Return a release's manifest in hex."""
        return hex_of(self.shore.release(version).manifest)

    def template(self, name: str) -> Tree:
        """Return a tree by its name, made at its first use."""
        if name not in self.templates:
            self.templates[name] = self._make(name)
        return self.templates[name]

    def _make(self, name: str) -> Tree:
        for suffix, change in CHANGES.items():
            if name.endswith(suffix):
                return change(self.template(name.removesuffix(suffix)))
        if name in PLAYED:
            return self._played(*PLAYED[name])
        kind, _, rest = name.partition("-")
        if kind == "after":
            offer, way = (NEWEST, _withdrawn_in_fetching) if rest == NOTHING_ELSE else (rest, None)
            return self._played("on-1.1.0", offer, way=way)
        state = UpdateState(rest)
        way = WAYS.get(state)
        return self._played("on-1.0.0", LEADS_TO.get(state, NEW), until=state, way=way)

    def _played(
        self,
        begin: str,
        offer: str | None,
        until: UpdateState | None = None,
        way: Way | None = None,
    ) -> Tree:
        """Return the disk after an update, or when its journal has just said ``until``."""

        rollout = f"rollout-{offer or NEW}"

        def stop(_number: int, call: str, path: Path) -> None:
            is_journal = call == "sync_folder" and path == disk.folder
            if until and is_journal and world.journal_on_disk() == (until.value, rollout):
                raise PowerCut

        disk = SimulatedDisk(self.folder / "template", self.template(begin), after=stop)
        memory = Memory(
            retained=self.shore.offers[offer] if offer else None,
            board=Board() if offer == PAIR_OLD else None,
        )
        world = World(disk, self.shore, memory, config=IMPATIENT)
        if way is not None:
            world.entered = lambda state: way(world, state)
        try:
            with quiet():
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


def _on_another_machine(tree: Tree) -> Tree:
    """Return the tree as if its releases had been gated by another kernel."""
    return tuple(entry for entry in tree if not entry.path.endswith("machine.json"))


def _rotten(tree: Tree) -> Tree:
    """Return the tree with the current release's model damaged."""
    current = next(entry.content.decode() for entry in tree if entry.path == "current")
    model = next(entry for entry in tree if entry.path == f"{current}/model.onnx")
    return tuple(
        _with_content(entry, bytes(8)) if entry.content == model.content else entry
        for entry in tree
    )


def _worn(tree: Tree) -> Tree:
    """Return the tree with a journal that has seen too many restarts."""

    def worn(entry: Entry) -> Entry:
        if entry.path != "journal.json":
            return entry
        journal = msgspec.json.decode(unseal_line(entry.content, what="journal"), type=Journal)
        return _with_content(entry, seal(msgspec.structs.replace(journal, restarts=9)))

    return tuple(worn(entry) for entry in tree)


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
            firmware=firmware_file(yard.folder, str(says["firmware"]))
            if "firmware" in says
            else None,
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
            firmware=_firmware_of(says),
        )
    blobs = {
        f"sha256:{path.name}": path.read_bytes()
        for path in (yard.releases / "blobs" / "sha256").iterdir()
    }
    offers = _offers(yard, releases)
    return Shore(
        key=Ed25519PrivateKey.generate(), releases=releases, offers=offers, blobs=blobs, now=NOW
    )


def _offers(yard: Yard, releases: Mapping[str, Release]) -> Mapping[str, bytes]:
    """Return offers by name: a version's first, its second and more, empty and broken ones."""
    offers = {release.version: release.offer for release in releases.values()}
    for number in range(TRIES):
        offers[f"{UNFIT} {number}"] = encode_offer(yard.offer(UNFIT, rollout=f"try-{number}"))
    for version in (OLD, NEW):
        offers[f"{version} again"] = encode_offer(yard.offer(version, rollout="again"))
    damaged = yard.offer(NEW, rollout="damaged")
    for name, text in damaged.director.items():
        damaged.director[name] = text.replace('"sig":"', '"sig":"00')
    offers[DAMAGED] = encode_offer(damaged)
    bare = yard.offer(NEW, rollout="bare")
    offers[INCOMPLETE] = encode_offer(msgspec.structs.replace(bare, documents={}))
    forged = {name: text.replace('"limits"', '"limitS"') for name, text in bare.documents.items()}
    offers[FORGED] = encode_offer(msgspec.structs.replace(bare, documents=forged))
    offers[WITHDRAWN] = b""
    return offers


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
            size_bytes=sum(blob.size for blob in manifest.blobs),
            is_good=bool(says.get("passes_gate", True)),
            firmware=_firmware_of(says),
        )
    return signed


def _firmware_of(says: Mapping[str, object]) -> str:
    """Return the digest of the firmware that a release brings, if it brings any."""
    version = str(says.get("firmware", ""))
    return digest_of_image(version) if version else ""


def _enrolled(yard: Yard, folder: Path) -> Tree:
    folder.mkdir()
    image_root, director_root = yard.roots
    TrustFolder(StateFolder(folder).trust, Storage()).bootstrap(
        image_root=image_root, director_root=director_root
    )
    return read_tree(folder)


CHANGES: Final = MappingProxyType(
    {OTHER_MACHINE: _on_another_machine, WORN: _worn, ROTTEN: _rotten, SCHEMA_1: as_schema_1}
)
"""What the end of a template's name does to the tree of the rest."""

PLAYED: Final = MappingProxyType(
    {
        "on-1.0.0": ("enrolled", OLD),
        "on-1.1.0": ("on-1.0.0", NEW),
        "on-2.0.0": ("on-1.0.0", PAIR_OLD),
        "in-again": (f"on-1.1.0{OTHER_MACHINE}", None, UpdateState.GATING),
    }
)
"""Templates that are the end of an update, or (with a state) the middle of one."""


def _withdrawn_in_fetching(world: World, state: UpdateState) -> None:
    if state is UpdateState.FETCHING:
        world.soon(lambda world: world.publish(WITHDRAWN))


def _busy_from_fetching(world: World, state: UpdateState) -> None:
    world.program.busy = world.program.busy or state is UpdateState.FETCHING


def _deaf_from_rolling_back(world: World, state: UpdateState) -> None:
    world.program.is_deaf = world.program.is_deaf or state is UpdateState.ROLLING_BACK


LEADS_TO: Final = MappingProxyType(
    {
        UpdateState.ROLLING_BACK: UNFIT,
        UpdateState.ROLLED_BACK: UNFIT,
        UpdateState.INCONSISTENT: UNFIT,
    }
)
"""Which release's update comes to a state, where it is not one that ends well."""

WAYS: Final = MappingProxyType(
    {
        UpdateState.DEFERRED: _busy_from_fetching,
        UpdateState.INCONSISTENT: _deaf_from_rolling_back,
    }
)
"""What has to happen around the device on the way to a state."""

IMPATIENT: Final = msgspec.structs.replace(
    CONFIG, timing=msgspec.structs.replace(CONFIG.timing, deadlines_s={"rolling-back": 20.0})
)
