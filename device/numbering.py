"""The manager's word on how far this device's reports have come."""

from __future__ import annotations

from asdic.contract.errors import ReleaseError
from asdic.contract.files import parse_json
from asdic.contract.messages import NUMBER_TYPE, LastNumber
from asdic.device.orders import opened_by_director
from asdic.device.update.trust import RepositoryTrust


def told_number(data: bytes, *, device: str, trust: RepositoryTrust) -> int:
    """Return the number of the last report of ``device`` that its manager has accepted.

    Raises:
        ReleaseError: The director did not sign it, or it is for another device.
        ConfigError: It is damaged.
    """
    payload = opened_by_director(data, NUMBER_TYPE, trust)
    told = parse_json(payload, LastNumber, what="the manager's word on a report's number")
    if told.device != device:
        raise ReleaseError(f"it is for {told.device}")
    return told.number
