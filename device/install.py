"""Installing by hand: when it is over, and what came of it."""

from __future__ import annotations

from asdic.contract.errors import InstallError
from asdic.contract.messages import UpdateState
from asdic.device.update.update import Update


class Installation:
    """One install, seen from outside the update that does it."""

    def __init__(self, update: Update) -> None:
        self._update = update

    def is_over(self) -> bool:
        """Return whether the offer was taken up and its update has ended."""
        return not self._update.has_pending and self._update.is_settled

    def result(self) -> str:
        """Return what was installed, as a sentence.

        Raises:
            InstallError: It was not; the message says why.
        """
        journal = self._update.journal
        version = journal.version or "the release"
        if journal.state is UpdateState.COMMITTED:
            return f"{version} is committed and runs"
        if journal.refusal is not None:
            raise InstallError(f"{version} was not installed: {journal.refusal.message}")
        raise InstallError(f"{version} was not installed: the update is {journal.state.value}")
