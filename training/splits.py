"""Which samples learn or calibrate and which only judge, where nobody says so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from asdic.training.duplicates import resembling_groups
from asdic.training.samples import AnySample, Look

_CALIB_SHARE: Final = 1 / 3


def draw_splits(samples: Sequence[AnySample], looks: Sequence[Look]) -> tuple[str, ...]:
    """Return ``train`` or ``calib`` for each sample; those that have one keep it.

    About a third of the groups becomes ``calib`` by the hash of their names, so a sample does not
    change sides when others are added. Samples of one group, and those that resemble one another,
    stay on one side, and on that of a resembling sample which has one. Where all resemble one
    another, the groups alone count, and where all are of one group, each sample by itself.
    """
    groups = [sample.group or sample.name for sample in samples]
    for keys in (_joined(groups, _likes(looks)), groups, [sample.name for sample in samples]):
        if len(set(keys)) > 1:
            break
    sides = _sides(keys, [sample.split for sample in samples])
    return tuple(sample.split or sides[key] for sample, key in zip(samples, keys, strict=True))


def hashed_share(keys: Iterable[str], share: float, *, salt: str = "") -> frozenset[str]:
    """Return about ``share`` of ``keys``, at least one, and not all if there are several.

    Whether a key is chosen depends on its hash with ``salt`` alone, except where that would
    choose none or all.
    """
    by_hash = sorted((_hash(salt + key), key) for key in set(keys))
    count = sum(value < share for value, _ in by_hash)
    count = min(max(count, 1), max(len(by_hash) - 1, 1))
    return frozenset(key for _, key in by_hash[:count])


def _sides(keys: Sequence[str], splits: Sequence[str]) -> Mapping[str, str]:
    """Return the split of each key: that of its first decided sample, or a drawn one."""
    decided: dict[str, str] = {}
    for key, split in zip(keys, splits, strict=True):
        if split:
            decided.setdefault(key, split)
    open_keys = {key for key in keys if key not in decided}
    if not open_keys:
        return decided
    chosen = hashed_share(open_keys, _CALIB_SHARE)
    return decided | {key: "calib" if key in chosen else "train" for key in open_keys}


def _likes(looks: Sequence[Look]) -> list[str]:
    """Return a name for each sample, shared by those of equal content or that look alike."""
    numbers = resembling_groups([look.signature for look in looks])
    by_digest: dict[str, str] = {}
    likes = [f"like {number}" for number in numbers]
    for like, look in zip(likes, looks, strict=True):
        by_digest.setdefault(look.digest, like)
    equal = [by_digest[look.digest] for look in looks]
    return _joined(equal, likes)


def _joined(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Return the names of the sets that ``first`` and ``second`` together connect.

    A set is called by the first of its names in ``first``, in the order of the alphabet.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (higher := above.get(name, name)) != name:
            name = higher
        return name

    met: dict[str, str] = {}
    for one, other in zip(first, second, strict=True):
        low, high = sorted((top(one), top(met.setdefault(other, one))))
        above[high] = low
    return [top(one) for one in first]


def _hash(key: str) -> float:
    """Return a number in [0, 1) that depends on nothing but ``key``."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
