"""How the verbs reach a running ``asdic serve``: over HTTP on loopback, with its token."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from asdic.contract.errors import ConfigError, LinkError, MissingPackageError
from asdic.contract.files import parse_json, read_bounded
from asdic.fleet.view import RolloutView

_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.3
_SMALL_BYTES: Final = 4096
_T = TypeVar("_T")


class FleetClient:
    """The server whose state folder is ``state``."""

    def __init__(self, state: Path) -> None:
        """Find the server.

        Raises:
            LinkError: No server runs on the folder.
        """
        serve_file = state / "serve.json"
        if not serve_file.is_file():
            raise LinkError(
                f"no server runs on {state}; start one with `asdic serve --state {state}`, "
                "or name its state folder with --fleet"
            )
        serving = parse_json(
            read_bounded(serve_file, _SMALL_BYTES), dict[str, Any], what=str(serve_file)
        )
        self.url = str(serving.get("url", ""))
        self._token = read_bounded(state / "token", _SMALL_BYTES).decode().strip()

    def get(self, path: str, kind: type[_T]) -> _T:
        """Return the answer to a question.

        Raises:
            LinkError: The server does not answer.
            ConfigError: It refused; the message is its own.
        """
        return self._ask("GET", path, None, kind)

    def post(self, path: str, body: Mapping[str, Any], kind: type[_T]) -> _T:
        """Return the answer to a wish; raises as ``get`` does."""
        return self._ask("POST", path, body, kind)

    def follow(self, rollout: RolloutView, show: Callable[[RolloutView], None]) -> RolloutView:
        """Return the rollout as it ended, showing it to the caller whenever it changes."""
        show(rollout)
        while not rollout.is_over:
            time.sleep(_POLL_S)
            rollout = self.get(f"rollouts/{rollout.id}", RolloutView)
            show(rollout)
        return rollout

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, kind: type[_T]) -> _T:
        try:
            import httpx
        except ImportError as error:
            raise MissingPackageError("httpx", "fleet") from error
        try:
            answer = httpx.request(
                method,
                f"{self.url}/api/v1/{path}",
                content=None if body is None else msgspec.json.encode(body),
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=_TIMEOUT_S,
                trust_env=False,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LinkError(f"the server at {self.url} does not answer: {error}") from error
        if answer.is_success:
            return parse_json(answer.content, kind, what="the server's answer")
        raise _refusal(answer.status_code, answer.content)


def _refusal(status: int, content: bytes) -> Exception:
    try:
        reason = parse_json(content, dict[str, str], what="the refusal").get("error", "")
    except ConfigError:
        reason = ""
    return ConfigError(reason or f"the server answered with status {status}")
