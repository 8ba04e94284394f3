from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.sandbox.limits import Limiter
from airflow_provider_aisa.sandbox.settings import SandboxSettings
from tests.sandbox.conftest import Api, error

RATE = "X-RateLimit-{}-Requests"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.25

    def __call__(self) -> float:
        return self.now


def headers(limiter: Limiter, settings: SandboxSettings) -> tuple[int, int, int]:
    values = limiter.headers(settings)
    return (
        int(values[RATE.format("Limit")]),
        int(values[RATE.format("Remaining")]),
        int(values[RATE.format("Reset")]),
    )


def test_a_window_admits_exactly_its_limit_and_opens_again_at_its_reset() -> None:
    clock, settings = Clock(), SandboxSettings(requests_per_minute=2)
    limiter = Limiter(clock)
    assert [limiter.enter(settings) for _ in range(4)] == [None, None, 60, 60]
    assert headers(limiter, settings) == (2, 0, 1061)
    clock.now = 1030.0
    assert limiter.enter(settings) == 31
    clock.now = 1060.24
    assert limiter.enter(settings) == 1
    clock.now = 1060.25
    assert headers(limiter, settings) == (2, 2, 1061)
    assert [limiter.enter(settings) for _ in range(3)] == [None, None, 60]


def test_whoever_waits_for_reset_or_retry_after_is_admitted() -> None:
    clock, settings = Clock(), SandboxSettings(requests_per_minute=1, rate_window=0.5)
    limiter = Limiter(clock)
    for _ in range(5):
        assert limiter.enter(settings) is None
        wait = limiter.enter(settings)
        assert wait is not None
        clock.now = max(clock.now + wait, headers(limiter, settings)[2])


def test_a_refused_request_uses_up_nothing() -> None:
    settings = SandboxSettings(requests_per_minute=3, max_in_flight=1)
    limiter = Limiter(Clock())
    assert [limiter.enter(settings) for _ in range(3)] == [None, 1, 1]
    assert headers(limiter, settings)[1] == 2
    assert limiter.max_in_flight_seen == 2
    limiter.leave()
    assert limiter.enter(settings) is None


def test_a_new_limit_opens_a_new_window() -> None:
    limiter = Limiter(Clock())
    assert [limiter.enter(SandboxSettings()) for _ in range(5)] == [None] * 5
    assert limiter.enter(SandboxSettings(requests_per_minute=1)) is None


def test_off_means_a_large_limit() -> None:
    limiter = Limiter(Clock())
    limiter.enter(SandboxSettings())
    limit, remaining, _ = headers(limiter, SandboxSettings())
    assert (limit, remaining) == (1_000_000, 999_999)


def test_every_response_carries_the_six_headers_and_a_request_id(api: Api) -> None:
    api.sandbox.inject(Fault("html_error"), Fault("server_error"))
    responses = [api.generate(), api.generate(), api.generate(), api.generate(size="1x1")]
    responses += [api.http.get("/models"), api.http.get("/nothing"), api.http.delete("/models")]
    responses.append(api.cdn.get(api.sandbox.base_url + "/models"))
    for response in responses:
        for unit in ("Requests", "Tokens"):
            for part in ("Limit", "Remaining", "Reset"):
                assert int(response.headers[f"X-RateLimit-{part}-{unit}"]) > 0
    assert len({response.headers["X-Request-ID"] for response in responses}) == len(responses)


def test_requests_per_minute_refuses_the_rest_without_a_bill(api: Api) -> None:
    api.sandbox.requests_per_minute = 5
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: api.generate(), range(12)))
    refused = [response for response in responses if response.status_code == 429]
    assert len(refused) == 7
    assert api.sandbox.billed == 5
    for response in refused:
        assert error(response)[1] == "rate_limit_exceeded"
        assert 58 <= int(response.headers["Retry-After"]) <= 60
        assert response.headers["X-RateLimit-Remaining"] == "0"
        assert response.headers["X-RateLimit-Limit"] == "5"


def test_a_shorter_window_opens_again(api: Api) -> None:
    api.sandbox.change(requests_per_minute=1, rate_window=0.2)
    assert [api.generate().status_code for _ in range(2)] == [200, 429]
    time.sleep(0.25)
    assert api.generate().status_code == 200


def test_max_in_flight_refuses_the_rest_and_counts_the_peak(api: Api) -> None:
    api.sandbox.latency, api.sandbox.max_in_flight = 0.4, 3
    with ThreadPoolExecutor(5) as pool:
        statuses = list(pool.map(lambda _: api.generate().status_code, range(5)))
    assert sorted(statuses) == [200, 200, 200, 429, 429]
    assert api.sandbox.max_in_flight_seen == 4
    assert api.sandbox.billed == 3


def test_a_client_that_keeps_to_the_limit_is_never_refused(api: Api) -> None:
    api.sandbox.latency, api.sandbox.max_in_flight = 0.005, 4
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: api.generate().status_code, range(100)))
    assert statuses == [200] * 100
    assert api.sandbox.max_in_flight_seen <= 4
