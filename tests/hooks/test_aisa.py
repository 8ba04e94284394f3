from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn

import pytest
from airflow.providers.common.compat.sdk import BaseHook, redact

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.pacing import pacer_for
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.exceptions import InvalidConnection, InvalidRequest, OutcomeUnknown
from airflow_provider_aisa.hooks import aisa
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.sandbox import Fault, Sandbox
from tools.ports import find_free_ports

KEY = "sk-aisa-hook-secret-0001"

Read = Callable[[AisaHook], ConnectionSettings]


@pytest.fixture(params=["sync", "async"])
def read(request: pytest.FixtureRequest) -> Read:
    """Read a hook's settings, from a worker or on an event loop."""
    if request.param == "sync":
        return lambda hook: hook.settings
    return lambda hook: asyncio.run(hook.aget_settings())


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AisaHook]:
    """Define the connection `aisa_test`, as a URI or as the fields of a JSON object; return its hook."""

    def define(uri: str | None = None, **fields: Any) -> AisaHook:
        text = uri or json.dumps({"conn_type": "aisa", "password": KEY, **fields})
        monkeypatch.setenv("AIRFLOW_CONN_AISA_TEST", text)
        return AisaHook("aisa_test")

    return define


@pytest.fixture
def sandbox_hook(connect: Callable[..., AisaHook], aisa_sandbox: Sandbox) -> AisaHook:
    return connect(**json.loads(aisa_sandbox.connection))


def refusal(read: Read, hook: AisaHook) -> str:
    with pytest.raises(InvalidConnection) as caught:
        read(hook)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_the_hook_is_what_airflow_expects_of_one() -> None:
    assert issubclass(AisaHook, BaseHook)
    assert (AisaHook.conn_name_attr, AisaHook.default_conn_name) == ("aisa_conn_id", "aisa_default")
    assert (AisaHook.conn_type, AisaHook.hook_name) == ("aisa", "AIsa")
    assert AisaHook().aisa_conn_id == "aisa_default"


def test_making_a_hook_looks_nothing_up() -> None:
    """Operators make hooks where Airflow parses DAGs."""
    assert AisaHook("no_such_connection").aisa_conn_id == "no_such_connection"


def test_a_connection_that_is_not_defined_says_how_to_define_it(read: Read) -> None:
    assert refusal(read, AisaHook("aisa_eu")) == (
        "connection 'aisa_eu' is not defined: create it in the UI (type AIsa), or with "
        "airflow connections add aisa_eu --conn-type aisa --conn-password YOUR_KEY"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"password": None},
            "connection 'aisa_test': API key (password) is empty: put the AIsa API key there",
        ),
        ({"password": ""}, "connection 'aisa_test': API key (password) is empty"),
        (
            {"host": "http://api.aisa.one"},
            "connection 'aisa_test': Base URL (host) would send the key unencrypted",
        ),
        ({"host": "https://a b"}, "connection 'aisa_test': Base URL (host) is not a base URL"),
        ({"extra": {"timeout": "soon"}}, "connection 'aisa_test': extra 'timeout' is 'soon'"),
        ({"extra": {"max_retries": -1}}, "connection 'aisa_test': extra 'max_retries' is -1"),
        ({"extra": {"max_concurrency": 0}}, "connection 'aisa_test': extra 'max_concurrency' is 0"),
        ({"extra": {"requests_per_minute": "x"}}, "connection 'aisa_test': extra 'requests_per_minute'"),
        ({"extra": {"proxy": "http://"}}, "connection 'aisa_test': extra 'proxy' is not a proxy URL"),
        ({"extra": {"prices": "cheap"}}, "connection 'aisa_test': extra 'prices' is not a JSON object"),
    ],
)
def test_a_wrong_connection_is_refused_with_its_name_and_the_field(
    read: Read, connect: Callable[..., AisaHook], fields: dict[str, Any], message: str
) -> None:
    found = refusal(read, connect(**fields))
    assert found.startswith(message)
    assert KEY not in found


def test_all_that_is_wrong_with_a_connection_is_said_at_once(
    read: Read, connect: Callable[..., AisaHook]
) -> None:
    wrong = connect(password="", host="http://api.aisa.one", extra={"timeout": "soon", "max_retries": -1})
    message = refusal(read, wrong)
    assert wrong.test_connection() == (False, message.replace("connection 'aisa_test'", "this connection"))
    assert [part.split(" is ")[0].split(" would ")[0] for part in message.split("; ")] == [
        "connection 'aisa_test': API key (password)",
        "Base URL (host)",
        "extra 'timeout'",
        "extra 'max_retries'",
    ]


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        ("aisa://:KEY@", "https://api.aisa.one/v1"),
        ("aisa://:KEY@api.aisa.one", "https://api.aisa.one/v1"),
        ("aisa://:KEY@api.aisa.one/v1", "https://api.aisa.one/v1"),
        ("aisa://:KEY@gateway.example:8443/aisa%2Fv1", "https://gateway.example:8443/aisa/v1"),
        ("aisa://:KEY@127.0.0.1:8080/http", "http://127.0.0.1:8080/v1"),
        ("aisa://:KEY@gateway.example/https", "https://gateway.example/v1"),
        ("aisa://http://:KEY@127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
        ("aisa://https://:KEY@gateway.example", "https://gateway.example/v1"),
        ("aisa://:KEY@http%3A%2F%2F127.0.0.1%3A8080%2Fv1", "http://127.0.0.1:8080/v1"),
        ("aisa://:KEY@[::1]:8080/http", "http://[::1]:8080/v1"),
    ],
)
def test_a_connection_written_as_a_uri_names_the_gateway(
    read: Read, connect: Callable[..., AisaHook], uri: str, base_url: str
) -> None:
    settings = read(connect(uri.replace("KEY", KEY)))
    assert settings.base_url == base_url
    assert settings.api_key == KEY


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://api.aisa.one/v1"),
        ({"host": ""}, "https://api.aisa.one/v1"),
        ({"host": "https://api.aisa.one/v1/"}, "https://api.aisa.one/v1"),
        ({"host": "http://127.0.0.1:8080/v1", "schema": "http"}, "http://127.0.0.1:8080/v1"),
        ({"host": "http://127.0.0.1", "port": 8080}, "http://127.0.0.1:8080/v1"),
        ({"host": "127.0.0.1", "port": 8080, "schema": "http"}, "http://127.0.0.1:8080/v1"),
        ({"host": "[::1]", "port": 8080, "schema": "http"}, "http://[::1]:8080/v1"),
        ({"host": "gateway.example/aisa/v1"}, "https://gateway.example/aisa/v1"),
    ],
)
def test_a_connection_written_as_json_names_the_gateway(
    read: Read, connect: Callable[..., AisaHook], fields: dict[str, Any], base_url: str
) -> None:
    assert read(connect(**fields)).base_url == base_url


def test_extras_of_a_uri_are_strings_and_read_as_numbers(
    read: Read, connect: Callable[..., AisaHook]
) -> None:
    query = "timeout=30&max_retries=0&max_concurrency=7&requests_per_minute=60&prices=%7B%22m%22%3A%200.01%7D"
    settings = read(connect(f"aisa://:{KEY}@api.aisa.one?{query}"))
    assert (settings.timeout, settings.max_retries, settings.max_concurrency) == (30.0, 0, 7)
    assert settings.requests_per_minute == 60
    assert {model: str(price) for model, price in settings.prices.items()} == {"m": "0.01"}


def test_extras_of_json_are_read_with_their_types(read: Read, connect: Callable[..., AisaHook]) -> None:
    settings = read(connect(extra={"timeout": 1.5, "proxy": "http://proxy:3128", "prices": {"m": 1}}))
    assert (settings.timeout, settings.proxy) == (1.5, "http://proxy:3128")
    assert settings.prices == {"m": 1}


def test_extras_that_mean_nothing_are_warned_about_with_the_known_ones(
    read: Read, connect: Callable[..., AisaHook], capfd: pytest.CaptureFixture[str]
) -> None:
    read(connect(extra={"timeout": 5, "max_retry": 2, "Proxy": ""}))
    logged = "".join(capfd.readouterr())  # Airflow's logs do not come to pytest's handler.
    assert "Connection 'aisa_test' has extras that mean nothing to AIsa: Proxy, max_retry." in logged
    assert "Known: timeout, max_retries, max_concurrency" in logged


def test_known_extras_are_not_warned_about(
    read: Read, connect: Callable[..., AisaHook], capfd: pytest.CaptureFixture[str]
) -> None:
    read(connect(extra={"timeout": 5}))
    assert "mean nothing" not in "".join(capfd.readouterr())


def test_a_connection_is_read_once(
    read: Read, connect: Callable[..., AisaHook], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = connect()
    settings = read(hook)
    monkeypatch.delenv("AIRFLOW_CONN_AISA_TEST")
    assert read(hook) is hook.settings is settings


def test_the_key_is_masked_in_logs_once_the_connection_was_read(
    read: Read, connect: Callable[..., AisaHook], request: pytest.FixtureRequest
) -> None:
    key = f"sk-aisa-masked-{len(request.node.name)}-{request.node.callspec.id}"
    read(connect(password=key))
    assert redact(f"Authorization: Bearer {key}") == "Authorization: Bearer ***"


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}"])
def test_a_key_is_masked_as_it_is_sent_whatever_stands_around_it_in_the_connection(
    read: Read, connect: Callable[..., AisaHook], request: pytest.FixtureRequest, around: str
) -> None:
    key = f"sk-aisa-sent-{abs(hash(request.node.callspec.id))}"
    assert read(connect(password=around.format(key))).api_key == key
    assert key not in str(redact(f"Bearer {key}, {key!r}"))


def test_a_proxys_password_is_masked_in_both_spellings(
    read: Read, connect: Callable[..., AisaHook], request: pytest.FixtureRequest
) -> None:
    password = f"p@ss{abs(hash(request.node.callspec.id))}"
    encoded = password.replace("@", "%40")
    read(connect(extra={"proxy": f"http://user:{encoded}@proxy:3128"}))
    assert redact(f"{password} {encoded}") == "*** ***"


def test_a_key_is_masked_even_when_the_connection_is_refused(
    read: Read, connect: Callable[..., AisaHook], request: pytest.FixtureRequest
) -> None:
    key = f"sk-aisa-wrong-{abs(hash(request.node.callspec.id))}"
    refusal(read, connect(password=f"{key}\n", extra={"timeout": "soon"}))
    assert redact(key) == "***"


def test_on_an_event_loop_nothing_is_masked_on_the_loops_own_thread(
    connect: Callable[..., AisaHook], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masking asks the supervisor and waits: from the loop that waits for itself."""
    threads: list[int] = []
    monkeypatch.setattr(aisa, "mask_secret", lambda _: threads.append(threading.get_ident()))

    async def scenario() -> None:
        await connect(password=f"{KEY}\n").aget_settings()
        assert threading.get_ident() not in threads

    asyncio.run(scenario())
    assert len(threads) >= 2


def test_two_hooks_of_one_connection_share_the_limits_of_its_key(
    read: Read, connect: Callable[..., AisaHook]
) -> None:
    first, second = connect(), connect()
    assert pacer_for(read(first)) is pacer_for(read(second))


class OnAnEventLoop(AisaHook):
    """A hook for which a sync lookup fails, as it can deadlock on an event loop."""

    @classmethod
    def get_connection(cls, conn_id: str) -> NoReturn:
        raise AssertionError(f"sync lookup of {conn_id}")


def test_the_async_methods_look_nothing_up_synchronously(
    connect: Callable[..., AisaHook], aisa_sandbox: Sandbox
) -> None:
    connect(**json.loads(aisa_sandbox.connection))
    with pytest.raises(AssertionError, match="sync lookup"):
        OnAnEventLoop("aisa_test").list_models()

    async def scenario() -> None:
        response = await OnAnEventLoop("aisa_test").agenerate_images("a red panda")
        assert response.billed == 1
        models = await OnAnEventLoop("aisa_test").arequest("GET", "models")
        assert models.status_code == 200

    asyncio.run(scenario())
    assert aisa_sandbox.billed == 1


def test_generate_images_is_one_billed_request(sandbox_hook: AisaHook, aisa_sandbox: Sandbox) -> None:
    response = sandbox_hook.generate_images("a red panda", size="2304x1600", n=2)
    assert len(response.available) == aisa_sandbox.billed == 2
    (request,) = aisa_sandbox.requests
    assert json.loads(request.body) == {
        "model": "seedream-4-5-251128",
        "prompt": "a red panda",
        "n": 2,
        "size": "2304x1600",
    }


def test_agenerate_images_is_one_billed_request(sandbox_hook: AisaHook, aisa_sandbox: Sandbox) -> None:
    response = asyncio.run(sandbox_hook.agenerate_images("a red panda", n=2))
    assert len(response.available) == aisa_sandbox.billed == 2
    assert len(aisa_sandbox.requests) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_a_wrong_request_is_refused_before_the_connection_is_looked_up(is_async: bool) -> None:
    hook = AisaHook("no_such_connection")

    def generate(prompt: str, **options: Any) -> object:
        if is_async:
            return asyncio.run(hook.agenerate_images(prompt, **options))
        return hook.generate_images(prompt, **options)

    with pytest.raises(InvalidRequest, match="1024x1024"):
        generate("a", size="1024x1024")
    with pytest.raises(InvalidRequest, match="leave size out"):
        generate("a", model="wan2.7-image", size="2048x2048")
    with pytest.raises(InvalidRequest, match="leave n out"):
        generate("a", model="gemini-3-pro-image-preview", n=2)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("model", "fields"), [("wan2.7-image", {"n": 2}), ("gemini-3-pro-image-preview", {"image_size": "1K"})]
)
def test_images_of_every_family_are_generated(
    sandbox_hook: AisaHook, aisa_sandbox: Sandbox, is_async: bool, model: str, fields: dict[str, Any]
) -> None:
    if is_async:
        response = asyncio.run(sandbox_hook.agenerate_images("a red panda", model=model, **fields))
    else:
        response = sandbox_hook.generate_images("a red panda", model=model, **fields)
    assert len(response.available) == aisa_sandbox.billed == fields.get("n", 1)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_lost_response_is_never_paid_twice(
    sandbox_hook: AisaHook, aisa_sandbox: Sandbox, is_async: bool
) -> None:
    aisa_sandbox.inject(Fault("cut_after_billing"))

    def generate() -> object:
        if is_async:
            return asyncio.run(sandbox_hook.agenerate_images("a red panda"))
        return sandbox_hook.generate_images("a red panda")

    with pytest.raises(OutcomeUnknown):
        generate()
    assert (aisa_sandbox.billed, len(aisa_sandbox.requests)) == (1, 1)


def test_list_models_returns_what_the_gateway_lists_and_is_free(
    sandbox_hook: AisaHook, aisa_sandbox: Sandbox
) -> None:
    seedream = sandbox_hook.list_models()[0]
    assert seedream["id"] == "seedream-4-5-251128"
    assert seedream["owned_by"] == "bytedance"
    assert seedream["supported_endpoint_types"] == ["image-generation"]
    assert aisa_sandbox.billed == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_request_reaches_any_endpoint_of_the_gateway(
    sandbox_hook: AisaHook, aisa_sandbox: Sandbox, is_async: bool
) -> None:
    body = {"model": "seedream-4-5-251128", "prompt": "a", "size": "2048x2048"}
    options: dict[str, Any] = {"json": body, "params": {"trace": "1"}, "headers": {"X-Own": "2"}}
    if is_async:
        response = asyncio.run(sandbox_hook.arequest("POST", "/v1/images/generations", **options))
    else:
        response = sandbox_hook.request("POST", "images/generations", **options)
    assert response.json()["usage"]["generated_images"] == 1
    (request,) = aisa_sandbox.requests
    assert request.headers["x-own"] == "2"
    assert json.loads(request.body) == body


def test_request_sends_the_key_nowhere_else(sandbox_hook: AisaHook, aisa_sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequest, match="goes nowhere else"):
        sandbox_hook.request("GET", f"{aisa_sandbox.cdn_url}/images")
    assert aisa_sandbox.cdn_requests == []


def test_get_conn_returns_a_client_with_the_connections_settings(sandbox_hook: AisaHook) -> None:
    with sandbox_hook.get_conn() as client:
        assert isinstance(client, AisaClient)
        assert client.settings is sandbox_hook.settings


LONGEST_TOAST = 120  # characters; Airflow shows them for five seconds


def press_test(hook: AisaHook, *, works: bool = False) -> str:
    """Do what the Test button does; return what it says, which must fit into a toast."""
    answer, message = hook.test_connection()
    assert answer is works, message
    assert len(message) <= LONGEST_TOAST, message
    return message


def test_the_test_button_says_that_the_key_works_and_bills_nothing(
    sandbox_hook: AisaHook, aisa_sandbox: Sandbox
) -> None:
    message = press_test(sandbox_hook, works=True)
    assert message == f"The key works at {aisa_sandbox.base_url}: 5 models. Nothing was billed."
    assert (aisa_sandbox.billed, len(aisa_sandbox.requests)) == (0, 1)


def test_the_test_button_says_once_that_the_key_is_wrong(
    connect: Callable[..., AisaHook], aisa_sandbox: Sandbox
) -> None:
    message = press_test(connect(host=aisa_sandbox.base_url, password="sk-aisa-wrong-key"))
    assert message == (
        f"{aisa_sandbox.base_url} refuses the API key (401 invalid_api_key): "
        "copy it again from the AIsa console."
    )


def test_the_test_button_says_that_the_key_may_not_do_this(
    sandbox_hook: AisaHook, aisa_sandbox: Sandbox
) -> None:
    aisa_sandbox.inject(Fault("forbidden", path="/v1/models"))
    message = press_test(sandbox_hook)
    assert message == (
        f"{aisa_sandbox.base_url} refuses the API key (403 model_not_allowed): "
        "look at what it may do in the AIsa console."
    )


def test_the_test_button_says_that_the_gateway_has_no_such_path(
    connect: Callable[..., AisaHook], aisa_sandbox: Sandbox
) -> None:
    host = aisa_sandbox.base_url + "/too/deep"
    message = press_test(connect(host=host, password=aisa_sandbox.api_key))
    assert message == f"{host} has no list of models, so the API key is unverified. Check the Base URL."


def test_the_test_button_does_not_wait_for_a_gateway_that_is_not_there(
    connect: Callable[..., AisaHook],
) -> None:
    host = f"http://127.0.0.1:{find_free_ports(1)[0]}/v1"
    message = press_test(connect(host=host))
    assert message == f"{host} gave no answer. Check the Base URL, the network and the proxy."


def test_the_test_button_asks_a_failing_gateway_once(sandbox_hook: AisaHook, aisa_sandbox: Sandbox) -> None:
    aisa_sandbox.inject(Fault("server_error", times=9, path="/v1/models"))
    message = press_test(sandbox_hook)
    assert message == f"{aisa_sandbox.base_url} failed (500 internal_error). Try again later."
    assert len(aisa_sandbox.requests) == 1


def test_the_test_button_names_what_is_wrong_with_this_connection(
    connect: Callable[..., AisaHook],
) -> None:
    """Airflow tests under an id that it draws at random, which would tell nobody anything."""
    assert AisaHook("tmpxqzv").test_connection()[1].startswith("this connection is not defined")
    message = press_test(connect(extra={"timeout": "x"}))
    assert message.startswith("this connection: extra 'timeout' is 'x'")


class OtherServer(BaseHTTPRequestHandler):
    """A server that answers every GET with what it was told to."""

    status = 200
    content = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("Location", "https://login.example/")
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
        pass


@pytest.fixture
def other_server() -> Iterator[tuple[str, type[OtherServer]]]:
    """Run a server; return its base URL, and the class that says what it answers."""

    class Handler(OtherServer):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", Handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, b"<title>Welcome</title>", "has no list of models, so the API key is unverified."),
        (502, b"<title>Bad gateway</title>", "failed (502). Try again later."),
        (302, b"", "redirects (302), and the API key is not sent there. Check the Base URL."),
        (400, b"", "AIsa answered 400: an empty body."),
    ],
)
def test_the_test_button_says_what_is_not_an_aisa_gateway(
    connect: Callable[..., AisaHook],
    other_server: tuple[str, type[OtherServer]],
    status: int,
    content: bytes,
    message: str,
) -> None:
    host, server = other_server
    server.status, server.content = status, content
    assert message in press_test(connect(host=host))


def test_the_test_button_says_when_the_key_may_not_use_seedream(
    connect: Callable[..., AisaHook], other_server: tuple[str, type[OtherServer]]
) -> None:
    host, server = other_server
    server.content = b'{"data": [{"id": "wan2.7-image"}]}'
    message = press_test(connect(host=host), works=True)
    assert "1 model, seedream-4-5-251128 not among them" in message
