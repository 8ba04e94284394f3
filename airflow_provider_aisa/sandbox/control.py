"""`/_sandbox`: what a person with curl, or a test in another process, sees and changes. It needs no key.

A web page that is open in a browser on this machine reaches it, too. None of another site may read or change
anything here: neither by sending requests (their headers say where they come from), nor by giving this
address a name of its own (DNS rebinding: the name is in the Host header).
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from airflow_provider_aisa.sandbox.faults import Fault
from airflow_provider_aisa.sandbox.records import total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_aisa.sandbox.records import LedgerEntry
    from airflow_provider_aisa.sandbox.state import SandboxState

PREFIX = "/_sandbox/"
_OWN_NAMES = {"127.0.0.1", "localhost", "::1"}


class Control:
    """Serves `/_sandbox` of the gateway's origin. Answers JSON; 400 says what was wrong with the request."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state
        self._routes: dict[str, dict[str, Callable[[object], object]]] = {
            "ledger": {"GET": self._ledger},
            "requests": {"GET": self._requests},
            "faults": {"GET": self._pending, "POST": self._inject},
            "settings": {"GET": self._settings, "PATCH": self._change},
            "reset": {"POST": self._reset},
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        if problem := why_refused(request.headers):
            return _answer(403, {"error": problem})
        name = request.path.removeprefix(PREFIX)
        actions = self._routes.get(name)
        if actions is None:
            known = ", ".join(PREFIX + route for route in self._routes)
            return _answer(404, {"error": f"no {request.path} here: try {known}"})
        action = actions.get(request.method)
        if action is None:
            allowed = ", ".join(actions)
            return _answer(405, {"error": f"{request.path} takes {allowed}"}, {"Allow": allowed})
        try:
            body = await request.read()
            return _answer(200, action(json.loads(body) if body else {}))
        except (ValueError, RecursionError) as error:
            return _answer(400, {"error": str(error)})

    def _ledger(self, _: object) -> object:
        ledger = self._state.records.ledger
        billed, cost = total(ledger)
        entries = [_entry(entry) for entry in ledger]
        return {"billed": billed, "cost_usd": float(cost), "entries": entries}

    def _requests(self, _: object) -> object:
        records = self._state.records
        gateway = [
            {
                "request_id": r.request_id,
                "method": r.method,
                "path": r.path,
                "status": r.status,
                "billed": r.billed,
            }
            for r in records.gateway
        ]
        cdn = [
            {"method": r.method, "path": r.path, "status": r.status, "credentials": r.credentials}
            for r in records.cdn
        ]
        seen = self._state.limiter.max_in_flight_seen
        return {"gateway": gateway, "cdn": cdn, "max_in_flight_seen": seen}

    def _pending(self, _: object) -> object:
        return {"pending": [dataclasses.asdict(fault) for fault in self._state.faults.pending()]}

    def _inject(self, body: object) -> object:
        self._state.faults.add(Fault.from_json(body))
        return self._pending(body)

    def _settings(self, _: object) -> object:
        return dataclasses.asdict(self._state.settings)

    def _change(self, body: object) -> object:
        self._state.settings = self._state.settings.changed(body)
        return self._settings(body)

    def _reset(self, body: object) -> object:
        self._state.reset()
        return self._ledger(body)


def why_refused(headers: Mapping[str, str]) -> str | None:
    """Return why a request may come from a page of another site, or None when it cannot."""
    host = headers.get("Host", "")
    if _name_of(f"//{host}") not in _OWN_NAMES:
        return f"this machine is not called {host!r}. Next: use http://127.0.0.1 and the sandbox's port."
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site", "none")
    if origin not in {None, f"http://{host}"} or site not in {"none", "same-origin"}:
        return "web pages of other sites may not use this. Next: use curl, or the address bar to read."
    # A form of another site cannot send JSON; one that is sent by an old browser tells nothing else.
    kind = headers.get("Content-Type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        return f"a body here is JSON, not {kind}. Next: curl -H 'Content-Type: application/json' -d '…'"
    return None


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _entry(entry: LedgerEntry) -> dict[str, object]:
    values = dataclasses.asdict(entry)
    return {**values, "cost_usd": float(entry.cost_usd), "time": entry.time.isoformat()}


def _answer(status: int, content: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(content, status=status, headers=headers)
