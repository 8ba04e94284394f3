from __future__ import annotations

import pytest

from airflow_provider_aisa.sandbox import Fault
from tests.sandbox.conftest import SEEDREAM, Api


def test_the_ledger_says_what_was_billed(api: Api) -> None:
    api.generate(n=2, size="2304x1600")
    api.generate(n=3)
    api.generate(size="1x1")
    answer = api.control("GET", "ledger").json()
    assert (answer["billed"], answer["cost_usd"]) == (5, 0.2)
    entry = answer["entries"][0]
    assert entry.pop("time").startswith("20")
    assert entry == {
        "request_id": "req_sandbox_00000001",
        "model": SEEDREAM,
        "prompt": "a red panda",
        "n": 2,
        "size": "2304x1600",
        "images": 2,
        "cost_usd": 0.08,
        "status": 200,
    }


def test_a_fault_can_be_injected(api: Api) -> None:
    body = {"kind": "rate_limited", "times": 2, "retry_after": 3, "after": 1}
    answer = api.control("POST", "faults", json=body)
    assert answer.status_code == 200
    assert api.sandbox.pending_faults == [Fault("rate_limited", times=2, retry_after=3, after=1)]
    assert answer.json() == api.control("GET", "faults").json()
    assert [api.generate().status_code for _ in range(4)] == [200, 429, 429, 200]


@pytest.mark.parametrize(
    ("method", "name", "content", "words"),
    [
        ("POST", "faults", b'{"kind": "nope"}', "unknown fault"),
        ("POST", "faults", b"{}", "kind is missing"),
        ("POST", "faults", b"{", "Expecting property name"),
        ("POST", "faults", b"\xff", "decode"),
        ("PATCH", "settings", b'{"colour": 1}', "unknown field colour"),
        ("PATCH", "settings", b'{"latency": "1"}', "latency must be a number of seconds"),
        ("PATCH", "settings", b'{"image_format": "gif"}', "image_format must be one of png, jpeg, webp"),
        ("PATCH", "settings", b'{"image_format": []}', "image_format must be one of png, jpeg, webp"),
        (
            "PATCH",
            "settings",
            b'{"max_in_flight": 0}',
            "max_in_flight must be an integer of at least 1 or null",
        ),
        ("PATCH", "settings", b'{"image_bytes": 9999999999}', "image_bytes must be at most 1073741824"),
        ("PATCH", "settings", b'{"api_key": ""}', "api_key must be a non-empty string"),
    ],
)
def test_a_wrong_request_is_400_with_the_reason(
    api: Api, method: str, name: str, content: bytes, words: str
) -> None:
    before = api.sandbox.settings
    response = api.control(method, name, content=content)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert api.sandbox.settings == before
    assert api.sandbox.pending_faults == []


def test_settings_can_be_read_and_changed(api: Api) -> None:
    settings = api.control("GET", "settings").json()
    assert settings["latency"] == 0
    changes = {"latency": 0.01, "requests_per_minute": 1, "image_format": "jpeg"}
    assert api.control("PATCH", "settings", json=changes).json() == {**settings, **changes}
    assert api.sandbox.latency == 0.01
    assert [api.generate().status_code for _ in range(2)] == [200, 429]


def test_requests_shows_both_origins_and_no_secret(api: Api) -> None:
    link = api.links()[0]
    api.cdn.get(link, headers={"Authorization": "Bearer secret"})
    response = api.control("GET", "requests")
    gateway, cdn = response.json()["gateway"], response.json()["cdn"]
    assert [(call["method"], call["status"], call["billed"]) for call in gateway] == [("POST", 200, 1)]
    assert [(call["method"], call["status"], call["credentials"]) for call in cdn] == [
        ("GET", 200, ["authorization"])
    ]
    assert response.json()["max_in_flight_seen"] == 1
    assert "secret" not in response.text


def test_reset_forgets_everything_but_the_settings(api: Api) -> None:
    api.sandbox.latency = 0.01
    api.sandbox.inject(Fault("cdn_slow"), Fault("server_error", after=5))
    link = api.links()[0]
    answer = api.control("POST", "reset").json()
    assert answer == {"billed": 0, "cost_usd": 0.0, "entries": []}
    assert api.sandbox.ledger == []
    assert api.sandbox.requests == []
    assert api.sandbox.cdn_requests == []
    assert api.sandbox.pending_faults == []
    assert api.sandbox.max_in_flight_seen == 0
    assert api.sandbox.latency == 0.01
    assert api.cdn.get(link).status_code == 404


def test_a_wrong_name_or_method_says_what_there_is(api: Api) -> None:
    response = api.control("GET", "legder")
    assert response.status_code == 404
    assert "/_sandbox/ledger" in response.json()["error"]
    response = api.control("DELETE", "faults")
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, POST"


def test_control_requests_are_not_recorded(api: Api) -> None:
    api.control("GET", "ledger")
    assert api.sandbox.requests == []


def origin_of(api: Api) -> str:
    return api.sandbox.base_url.removesuffix("/v1")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Host": "evil.test"},
        {"Host": "127.0.0.1.evil.test"},
        {"Host": "localhost.evil.test:8787"},
        {"Host": ""},
    ],
)
@pytest.mark.parametrize(
    ("method", "name", "body"),
    [
        ("POST", "reset", b""),
        ("POST", "faults", b'{"kind": "quota_exceeded"}'),
        ("PATCH", "settings", b'{"api_key": "stolen"}'),
    ],
)
def test_no_page_of_another_site_can_change_anything(
    api: Api, headers: dict[str, str], method: str, name: str, body: bytes
) -> None:
    api.generate()
    before = api.sandbox.settings

    answer = api.control(method, name, content=body, headers=headers)

    assert answer.status_code == 403
    assert "Next:" in answer.json()["error"]
    assert "access-control-allow-origin" not in answer.headers
    assert (api.sandbox.settings, api.sandbox.pending_faults, api.sandbox.billed) == (before, [], 1)


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.test"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.test:8787"}]
)
@pytest.mark.parametrize("name", ["settings", "ledger", "requests", "faults"])
def test_no_page_of_another_site_can_read_anything(api: Api, headers: dict[str, str], name: str) -> None:
    api.generate(prompt="a secret plan")

    answer = api.control("GET", name, headers=headers)

    assert answer.status_code == 403
    assert api.sandbox.api_key not in answer.text
    assert "a secret plan" not in answer.text


def test_a_pages_question_whether_it_may_ask_is_answered_no(api: Api) -> None:
    answer = api.control("OPTIONS", "reset", headers={"Origin": "https://evil.test"})

    assert answer.status_code == 403
    assert [name for name in answer.headers if name.lower().startswith("access-control")] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_curl_and_a_persons_browser_get_through_under_every_name_of_this_machine(api: Api, host: str) -> None:
    port = origin_of(api).rpartition(":")[2]
    there = {"Host": f"{host}:{port}"}

    typed = api.control("GET", "ledger", headers={**there, "Sec-Fetch-Site": "none"})
    own = api.control("GET", "ledger", headers={**there, "Origin": f"http://{host}:{port}"})
    curled = api.control("POST", "faults", json={"kind": "unavailable"}, headers=there)
    bare = api.control("POST", "reset", headers=there)

    assert [answer.status_code for answer in (typed, own, curled, bare)] == [200, 200, 200, 200]
