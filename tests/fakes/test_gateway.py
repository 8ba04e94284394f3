from __future__ import annotations

import io
from collections import Counter

import httpx
import pytest

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.response import GenerationResponse
from airflow_provider_aisa.core.images.inspect import inspect
from airflow_provider_aisa.core.net.deadline import Deadline
from airflow_provider_aisa.exceptions import AisaError
from tests.fakes.clock import Clock
from tests.fakes.gateway import (
    BILLING_PROXIES,
    LOST,
    UNBILLED,
    UNKNOWN,
    Answer,
    FakeCdn,
    FakeGateway,
    Post,
    entries,
    images,
)
from tests.support import make_pacer, make_settings


def ask(gateway: FakeGateway, *, prompt: str = "a red panda", n: int = 1) -> GenerationResponse:
    """Send one request as the package's client does, once."""
    clock = Clock()
    settings = make_settings(max_retries=0)
    transport = httpx.MockTransport(gateway)
    with AisaClient(settings, pacer=make_pacer(clock), transport=transport, sleep=clock.sleep) as client:
        return client.generate(ImageRequest.parse(prompt=prompt, n=n))


def test_an_answered_request_is_billed_and_received() -> None:
    gateway = FakeGateway()

    response = ask(gateway, n=2)

    assert len(response.available) == 2
    assert response.billed == gateway.billed == 2
    assert gateway.received == gateway.generated == Counter({"a red panda": 1})
    assert gateway.lost.total() == 0


@pytest.mark.parametrize("answer", UNBILLED)
def test_a_refusal_bills_nothing(answer: Answer) -> None:
    gateway = FakeGateway()
    gateway.otherwise = answer

    try:
        assert ask(gateway).available == ()
    except AisaError:
        assert gateway.sent == ["a red panda"]
    assert gateway.billed == 0


@pytest.mark.parametrize("answer", BILLING_PROXIES.values(), ids=BILLING_PROXIES)
def test_a_billing_proxy_takes_the_money_and_hides_the_images(answer: Answer) -> None:
    gateway = FakeGateway()
    gateway.otherwise = answer

    with pytest.raises(AisaError):
        ask(gateway)

    assert gateway.billed == 1
    assert gateway.lost == Counter({"a red panda": 1})


@pytest.mark.parametrize("answer", UNKNOWN)
def test_no_answer_that_leaves_the_bill_open_names_an_image(answer: Answer) -> None:
    gateway = FakeGateway()
    gateway.otherwise = answer

    with pytest.raises(AisaError):
        ask(gateway)

    assert gateway.received.total() == 0


def test_a_script_is_used_up_in_order_and_by_prompt() -> None:
    gateway = FakeGateway()
    gateway.script["odd"] = [images(3), entries({"error": {"code": "c", "message": "m"}}, billed=0)]

    counts = [len(ask(gateway, prompt=prompt).available) for prompt in ("odd", "even", "odd", "odd")]

    assert counts == [1, 1, 0, 1]  # The package takes no more than it has asked for.
    assert gateway.bill == Counter(odd=4, even=1)


def test_the_hooks_stand_before_and_after_the_bill() -> None:
    gateway = FakeGateway()
    seen: list[tuple[str, int, int]] = []

    def note(what: str, post: Post) -> None:
        seen.append((what, post.billed, gateway.in_flight))

    gateway.on_request = lambda post: note("sent", post)
    gateway.on_answer = lambda post: note("answered", post)
    ask(gateway, n=2)
    gateway.otherwise = LOST
    with pytest.raises(AisaError):
        ask(gateway)

    assert seen == [("sent", 0, 1), ("answered", 2, 1), ("sent", 0, 1), ("answered", 1, 1)]
    assert (gateway.in_flight, gateway.most_in_flight) == (0, 1)


def test_a_client_that_dies_between_bill_and_answer_leaves_a_lost_one() -> None:
    gateway = FakeGateway()

    def die(_post: Post) -> None:
        raise KeyboardInterrupt

    gateway.on_answer = die
    with pytest.raises(KeyboardInterrupt):
        ask(gateway, n=2)

    assert (gateway.billed, gateway.lost.total(), gateway.in_flight) == (2, 1, 0)


def test_each_link_holds_an_image_of_its_own_or_what_a_test_says() -> None:
    gateway = FakeGateway()
    cdn = FakeCdn(gateway)
    links = [str(image.url) for image in ask(gateway, n=2).images]

    with httpx.Client(transport=httpx.MockTransport(cdn)) as client:
        bodies = [client.get(link).content for link in links]
        cdn.script["a red panda"] = [500, b"no image", httpx.ReadError("broken")]
        assert client.get(links[0]).status_code == 500
        assert client.get(links[0]).content == b"no image"
        with pytest.raises(httpx.ReadError):
            client.get(links[0])
        cdn.otherwise = lambda _prompt: 403
        assert client.get(links[0]).status_code == 403

    assert len(set(bodies)) == 2
    infos = [inspect(io.BytesIO(body)) for body in bodies]
    assert [(info.width, info.height, info.ext) for info in infos] == [(2048, 2048, "png")] * 2


def test_an_image_that_is_not_ready_keeps_its_reader_waiting_until_it_is_or_until_that_one_gives_up() -> None:
    gateway = FakeGateway()
    cdn = FakeCdn(gateway)
    [image] = ask(gateway).images
    asked: list[str] = []

    def third_time(prompt: str) -> bool:
        asked.append(prompt)
        return len(asked) == 3

    cdn.is_ready = third_time

    with httpx.Client(transport=httpx.MockTransport(cdn)) as client:
        assert client.get(str(image.url)).status_code == 200
        cdn.is_ready = lambda _prompt: False
        with pytest.raises(httpx.ReadTimeout):
            client.get(str(image.url), extensions={"deadline": Deadline(0.0)})

    assert asked == ["a red panda"] * 3
