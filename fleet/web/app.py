"""HTTP on loopback: the API of the verbs, enrolment, and a page for people.

Reading the overview, or where the broker is, needs no token on loopback; every change needs the
bearer token, enrolment a claim. Foreign ``Host`` and ``Origin`` headers are refused, so that a web
page elsewhere cannot reach in through the user's browser.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from asdic.contract.errors import AsdicError, ConfigError, LinkError
from asdic.contract.files import parse_json
from asdic.contract.messages import EnrolRequest
from asdic.fleet.decision import RolloutEvent
from asdic.fleet.manager import Fleet, Push
from asdic.fleet.measurements import BenchWish
from asdic.fleet.releases import Exported
from asdic.fleet.view import Overview, describe_event, device_view, rollout_view
from asdic.fleet.web.guard import HEADERS, LOOPBACK_NAMES, OriginGuard

BODY_LIMIT_BYTES: Final = 64 << 10
_HERE: Final = Path(__file__).resolve().parent
_PAGE_ROLLOUTS: Final = 5
_PAGE_EVENTS: Final = 14
_ACTIONS: Final = MappingProxyType(
    {
        "pause": (RolloutEvent.PAUSE, "paused by the operator"),
        "resume": (RolloutEvent.RESUME, ""),
        "abort": (RolloutEvent.CANCEL, "aborted by the operator"),
    }
)
_T = TypeVar("_T")


class RollBack(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to go back: to ``version``, or to the release that finished before."""

    version: str | None = None


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for offers to carry to devices without a network."""

    version: str
    selection: str = "all"


class WebApp:
    """The endpoints of one fleet."""

    def __init__(self, fleet: Fleet, token: str) -> None:
        self._fleet = fleet
        self._token = token
        self._templates = Jinja2Templates(directory=_HERE / "templates")
        self._templates.env.filters["ago"] = _ago
        self._templates.env.filters["clock"] = _clock
        self._templates.env.filters["sentence"] = describe_event

    def routes(self) -> list[Route | Mount]:
        """Return the table of endpoints."""
        api = "/api/v1"
        return [
            Route("/", self.page),
            Route("/fragment", self.fragment),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
            Route(f"{api}/overview", self.overview),
            Route(f"{api}/broker", self.broker),
            Route(f"{api}/enrol", self.enrol, methods=["POST"]),
            Route(f"{api}/tokens", self.guarded(self.new_token), methods=["POST"]),
            Route(f"{api}/rollouts", self.guarded(self.rollouts), methods=["GET"]),
            Route(f"{api}/rollouts", self.guarded(self.push), methods=["POST"]),
            Route(f"{api}/rollouts/{{id}}", self.guarded(self.rollout), methods=["GET"]),
            Route(f"{api}/rollouts/{{id}}/{{action}}", self.guarded(self.act), methods=["POST"]),
            Route(f"{api}/rollback", self.guarded(self.roll_back), methods=["POST"]),
            Route(f"{api}/exports", self.guarded(self.export), methods=["POST"]),
            Route(f"{api}/benchmarks", self.guarded(self.order_bench), methods=["POST"]),
            Route(f"{api}/benchmarks", self.guarded(self.bench_results), methods=["GET"]),
            Route(f"{api}/benchmarks/{{digest}}", self.guarded(self.bench_result), methods=["GET"]),
        ]

    def guarded(self, work: Callable[[Request, bytes], object]) -> Callable[[Request], Any]:
        """Return an endpoint that wants the token and answers what ``work`` returns as JSON."""

        async def endpoint(request: Request) -> Response:
            if not self._is_authorised(request):
                return _json({"error": "the token is missing or wrong"}, 401)
            return await _answer(work, request)

        return endpoint

    async def page(self, request: Request) -> Response:
        """Show the whole page."""
        return await run_in_threadpool(self._render, request, "page.html")

    async def fragment(self, request: Request) -> Response:
        """Show the part that changes, for the page's own script."""
        return await run_in_threadpool(self._render, request, "fragment.html")

    async def overview(self, request: Request) -> Response:
        """Answer what the page shows, as JSON."""
        return await _answer(lambda _request, _body: self._overview(), request)

    async def broker(self, request: Request) -> Response:
        """Answer where the broker is and who vouches for it, as JSON."""
        return await _answer(lambda _request, _body: self._fleet.broker, request)

    async def enrol(self, request: Request) -> Response:
        """Take a device into the fleet; its claim is the authorisation."""
        return await _answer(
            lambda _request, body: self._fleet.enrol(_parsed(body, EnrolRequest)), request
        )

    def new_token(self, _request: Request, _body: bytes) -> object:
        """Make a claim for one device."""
        return {"token": self._fleet.inventory.new_token(time.time())}

    def rollouts(self, _request: Request, _body: bytes) -> object:
        """Answer all rollouts, without their events."""
        return [rollout_view(one) for one in self._fleet.records.all()]

    def rollout(self, request: Request, _body: bytes) -> object:
        """Answer one rollout with its events."""
        return self._view(request.path_params["id"])

    def push(self, _request: Request, body: bytes) -> object:
        """Start a rollout."""
        return self._view(self._fleet.push(_parsed(body, Push)).id)

    def act(self, request: Request, _body: bytes) -> object:
        """Pause, resume or abort a rollout."""
        action = request.path_params["action"]
        if action not in _ACTIONS:
            raise ConfigError(f"a rollout cannot {action!r}; it can {', '.join(_ACTIONS)}")
        event, reason = _ACTIONS[action]
        return self._view(self._fleet.order(request.path_params["id"], event, reason).id)

    def roll_back(self, _request: Request, body: bytes) -> object:
        """Start a rollout of an earlier release."""
        return self._view(self._fleet.roll_back(_parsed(body, RollBack).version).id)

    def export(self, _request: Request, body: bytes) -> object:
        """Sign offers for devices without a network."""
        wish = _parsed(body, Export)
        offers = self._fleet.export(wish.version, wish.selection)
        return Exported(
            releases=str(self._fleet.config.releases.resolve()),
            offers={device: offer.decode() for device, offer in offers.items()},
        )

    def order_bench(self, _request: Request, body: bytes) -> object:
        """Ask devices to measure what they run."""
        return self._fleet.bench(_parsed(body, BenchWish))

    def bench_results(self, _request: Request, _body: bytes) -> object:
        """Answer all results in figures."""
        return self._fleet.measurements.results()

    def bench_result(self, request: Request, _body: bytes) -> object:
        """Answer one result as its device signed it."""
        digest = request.path_params["digest"]
        return {"envelope": self._fleet.measurements.envelope(digest)}

    def _view(self, rollout_id: str) -> object:
        rollout = self._fleet.records.get(rollout_id)
        return rollout_view(rollout, self._fleet.records.events(rollout_id))

    def _overview(self) -> Overview:
        rollouts = self._fleet.records.all()
        return Overview(
            devices=tuple(device_view(one) for one in self._fleet.inventory.all()),
            rollouts=tuple(
                rollout_view(one, self._fleet.records.events(one.id))
                for one in rollouts[:_PAGE_ROLLOUTS]
            ),
            rollouts_in_all=len(rollouts),
            benchmarks=self._fleet.measurements.results(),
            broker=str(self._fleet.broker),
            time_s=time.time(),
        )

    def _render(self, request: Request, template: str) -> Response:
        context = {**msgspec.structs.asdict(self._overview()), "events_shown": _PAGE_EVENTS}
        return self._templates.TemplateResponse(request, template, context, headers=HEADERS)

    def _is_authorised(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._token.encode())


def web_app(fleet: Fleet, token: str) -> Starlette:
    """Return the application for ``fleet``; ``token`` lets the verbs change things."""
    return Starlette(
        routes=WebApp(fleet, token).routes(),
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_NAMES)),
            Middleware(OriginGuard),
        ],
    )


async def _answer(work: Callable[[Request, bytes], object], request: Request) -> Response:
    try:
        body = await _bounded_body(request)
        return _json(await run_in_threadpool(work, request, body))
    except LinkError as error:
        return _json({"error": str(error)}, 503)
    except ConfigError as error:
        return _json({"error": str(error)}, 400)
    except AsdicError as error:
        return _json({"error": str(error)}, 409)


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            raise ConfigError(f"a request may have {BODY_LIMIT_BYTES} bytes at most")
    return bytes(body)


def _parsed(body: bytes, kind: type[_T]) -> _T:
    return parse_json(body, kind, what="the request")


def _json(value: object, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(value), status, media_type="application/json", headers=dict(HEADERS)
    )


def _ago(seen_s: float | None, now: float) -> str:
    if seen_s is None:
        return "never"
    seconds = max(0, round(now - seen_s))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def _clock(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S}"
