from __future__ import annotations

import hashlib
import io
import logging
import socket
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.core.gateway.settings import ConnectionSettings
from airflow_provider_aisa.core.images.download import MAX_IMAGE_BYTES, FetchedImage, Fetcher, open_fetcher
from airflow_provider_aisa.core.threads import Stop
from airflow_provider_aisa.exceptions import ImageLinkExpired, ImageUnavailable, ImageUnusable
from airflow_provider_aisa.sandbox import Fault, FaultKind, Sandbox
from airflow_provider_aisa.sandbox.settings import ImageFormat
from tests.fakes.clock import Clock
from tests.support import make_pacer, make_settings, sandbox_settings

MIB = 1024 * 1024
_buffer = io.BytesIO()
Image.new("RGB", (64, 48)).save(_buffer, "PNG")
PNG = _buffer.getvalue()


def fetch(url: str, path: Path, settings: ConnectionSettings, clock: Clock | None = None) -> FetchedImage:
    with (
        open_fetcher(settings, sleep=waiting(clock)) as fetcher,
        path.open("w+b", buffering=0) as file,
    ):
        return fetcher.fetch(url, file, Stop())


def waiting(clock: Clock | None) -> Callable[[Stop, float], None]:
    """Return what a Fetcher waits with: it only notes for how long."""
    clock = clock or Clock()
    return lambda _stop, seconds: clock.sleep(seconds)


def refusal(
    url: str, path: Path, settings: ConnectionSettings, clock: Clock | None = None
) -> ImageUnavailable:
    with pytest.raises(ImageUnavailable) as caught:
        fetch(url, path, settings, clock)
    return caught.value


def link(sandbox: Sandbox) -> str:
    """Pay for one image and return its link."""
    with AisaClient(sandbox_settings(sandbox), pacer=make_pacer()) as client:
        url = client.generate(ImageRequest.parse(prompt="a red panda")).images[0].url
    assert url is not None
    return url


def mocked(
    handler: Callable[[httpx.Request], httpx.Response],
    url: str,
    path: Path,
    *,
    max_retries: int = 0,
    clock: Clock | None = None,
) -> FetchedImage:
    """Fetch over a transport that opens no connection."""
    fetcher = Fetcher(
        lambda: httpx.MockTransport(handler),
        allow_loopback=False,
        max_retries=max_retries,
        sleep=waiting(clock),
    )
    with path.open("w+b", buffering=0) as file:
        return fetcher.fetch(url, file, Stop())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


class Listener:
    """Listens on loopback and keeps what arrives; it never answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.received = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(0.5)
                try:
                    data = connection.recv(1024)
                except OSError:
                    continue
                if data == b"stop":
                    return
                self.received += data

    def stop(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"stop")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.stop()


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_an_image_is_on_disk_as_it_was_served(
    aisa_sandbox: Sandbox, path: Path, image_format: ImageFormat
) -> None:
    aisa_sandbox.image_format = image_format
    fetched = fetch(link(aisa_sandbox), path, sandbox_settings(aisa_sandbox))
    content = path.read_bytes()
    assert fetched.bytes == len(content)
    assert fetched.sha256 == hashlib.sha256(content).hexdigest()
    assert (fetched.info.content_type, fetched.info.width) == (f"image/{image_format}", 2048)
    Image.open(io.BytesIO(content)).load()


def test_the_image_server_gets_no_credentials(aisa_sandbox: Sandbox, path: Path) -> None:
    fetch(link(aisa_sandbox), path, sandbox_settings(aisa_sandbox))
    (request,) = aisa_sandbox.cdn_requests
    assert request.credentials == ()
    assert set(request.headers) == {"host", "accept", "accept-encoding", "user-agent"}
    assert aisa_sandbox.api_key not in str(request.headers)


@pytest.mark.parametrize(
    "kind", ["cdn_cut", "truncated_image", "cdn_server_error", "missing_image", "html_image"]
)
def test_a_download_that_fails_twice_is_tried_until_it_is_good_and_nothing_is_paid_again(
    aisa_sandbox: Sandbox, path: Path, kind: FaultKind
) -> None:
    clock = Clock()
    url = link(aisa_sandbox)
    aisa_sandbox.inject(Fault(kind, times=2))
    fetched = fetch(url, path, sandbox_settings(aisa_sandbox), clock)
    assert fetched.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    Image.open(path).load()
    assert len(aisa_sandbox.cdn_requests) == 3
    assert [round(seconds / 2**attempt) for attempt, seconds in enumerate(clock.slept)] == [1, 1]
    assert aisa_sandbox.billed == 1


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("cdn_cut", ImageUnavailable, "the download broke off (RemoteProtocolError)"),
        ("truncated_image", ImageUnusable, "the PNG is cut short after"),
        ("cdn_server_error", ImageUnavailable, "the image server answered HTTP 500"),
        ("missing_image", ImageLinkExpired, "the link does not work any more (HTTP 404)"),
        ("html_image", ImageUnusable, "what came is no PNG, JPEG or WebP; it begins with b'<!DOCTYPE ht'"),
    ],
)
def test_a_download_that_never_works_ends_after_max_retries(
    aisa_sandbox: Sandbox, path: Path, kind: FaultKind, error: type[ImageUnavailable], message: str
) -> None:
    url = link(aisa_sandbox)
    aisa_sandbox.inject(Fault(kind, times=9))
    found = refusal(url, path, sandbox_settings(aisa_sandbox, max_retries=2))
    assert type(found) is error
    assert str(found).startswith(message)
    assert len(aisa_sandbox.cdn_requests) == 3


def test_an_expired_link_is_asked_for_once(aisa_sandbox: Sandbox, path: Path) -> None:
    url = link(aisa_sandbox)
    aisa_sandbox.inject(Fault("expired_link"))
    found = refusal(url, path, sandbox_settings(aisa_sandbox))
    assert type(found) is ImageLinkExpired
    assert found.status == 403
    assert not found.retryable
    assert len(aisa_sandbox.cdn_requests) == 1


@pytest.mark.parametrize("status", [401, 403, 410])
def test_a_link_that_is_gone_for_good_is_asked_for_once(path: Path, status: int) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status)

    with pytest.raises(ImageLinkExpired):
        mocked(answer, "https://cdn.test/", path, max_retries=4)
    assert len(seen) == 1


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 429, 503])
def test_any_other_status_is_no_image(path: Path, status: int) -> None:
    with pytest.raises(ImageUnavailable, match=f"answered HTTP {status}") as caught:
        mocked(lambda _: httpx.Response(status, content=PNG), "https://cdn.test/", path)
    assert type(caught.value) is ImageUnavailable
    assert caught.value.status == status


def test_a_redirect_to_a_public_place_is_followed(aisa_sandbox: Sandbox, path: Path) -> None:
    url = link(aisa_sandbox)
    aisa_sandbox.inject(Fault("cdn_redirect"))
    fetch(url, path, sandbox_settings(aisa_sandbox))
    assert [request.status for request in aisa_sandbox.cdn_requests] == [302, 200]


def test_a_redirect_to_a_private_address_is_refused_once(aisa_sandbox: Sandbox, path: Path) -> None:
    url = link(aisa_sandbox)
    aisa_sandbox.inject(Fault("cdn_redirect_private"))
    found = refusal(url, path, sandbox_settings(aisa_sandbox))
    assert isinstance(found, ImageUnusable)
    assert len(aisa_sandbox.cdn_requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "https://10.0.0.1/image",
        "https://127.0.0.1/image",
        "https://[::1]/image",
        "http://cdn.test/image",
        "ftp://cdn.test/image",
        "file:///etc/passwd",
        "//169.254.169.254/",
    ],
)
def test_a_redirect_is_checked_as_a_link_is(path: Path, location: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(302, headers={"location": location})

    with pytest.raises(ImageUnusable):
        mocked(answer, "https://cdn.test/", path, max_retries=4)
    assert seen == ["cdn.test"]


def test_redirects_in_a_circle_are_followed_five_times(path: Path) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(302, headers={"location": "/again"})

    with pytest.raises(ImageUnusable, match="redirects more than 5 times"):
        mocked(answer, "https://cdn.test/", path, max_retries=4)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("kind", "downloaded"), [("oversized_image", 0), ("oversized_chunked", MAX_IMAGE_BYTES)]
)
def test_an_image_of_more_than_64_mib_is_refused_once(
    aisa_sandbox: Sandbox, path: Path, kind: FaultKind, downloaded: int
) -> None:
    """With a Content-Length nothing of it is downloaded, without one not much more than the limit."""
    url = link(aisa_sandbox)
    aisa_sandbox.inject(Fault(kind))
    found = refusal(url, path, sandbox_settings(aisa_sandbox))
    assert isinstance(found, ImageUnusable)
    assert str(found) == "the image is larger than 64 MiB"
    assert len(aisa_sandbox.cdn_requests) == 1
    assert (path.stat().st_size if path.exists() else 0) <= downloaded


def test_memory_does_not_grow_with_an_image(aisa_sandbox: Sandbox, path: Path) -> None:
    aisa_sandbox.image_bytes = 40 * MIB
    url = link(aisa_sandbox)
    fetch(url, path, sandbox_settings(aisa_sandbox))  # what is loaded once is loaded now
    tracemalloc.start()
    try:
        fetched = fetch(url, path, sandbox_settings(aisa_sandbox))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fetched.bytes == 40 * MIB
    assert peak < 10 * MIB


ADDRESSES = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",  # noqa: S104 - refused here
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.1",
    "198.18.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2001:db8::1]",
]


#: Where the sandbox is, and a public prefix, which only counts when the gateway is public.
OPEN_TO_A_SANDBOX = {"127.0.0.1", "127.1.2.3", "[::1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]"}


@pytest.mark.parametrize(
    ("base_url", "address"),
    [("https://api.aisa.one/v1", address) for address in ADDRESSES]
    + [("http://127.0.0.1:80/v1", address) for address in ADDRESSES if address not in OPEN_TO_A_SANDBOX],
)
def test_a_link_to_an_address_that_is_not_public_is_refused_at_once(
    path: Path, address: str, base_url: str
) -> None:
    """A sandbox on loopback opens loopback, and nothing else."""
    clock = Clock()
    found = refusal(f"https://{address}/image", path, make_settings(base_url=base_url), clock)
    assert isinstance(found, ImageUnusable)
    assert "which is not a public address" in str(found)
    assert clock.slept == []


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "[::ffff:7f00:1]",
    ],
)
def test_no_spelling_of_this_machine_and_no_name_for_it_gets_a_byte(
    listener: Listener, path: Path, host: str
) -> None:
    """Names are resolved for real: what counts is the address that the connection would use."""
    found = refusal(f"https://{host}:{listener.port}/image", path, make_settings(max_retries=0))
    assert isinstance(found, ImageUnusable)
    assert listener.received == b""


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_a_list_of_hosts_without_proxy_does_not_switch_the_check_off(
    listener: Listener, path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "localhost,.internal")
    found = refusal(f"https://localhost:{listener.port}/image", path, make_settings(max_retries=0))
    assert isinstance(found, ImageUnusable)
    assert listener.received == b""


@pytest.mark.parametrize("source", ["settings", "environment"])
def test_through_a_proxy_a_private_address_is_refused_as_well(
    listener: Listener, path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    proxy = f"http://127.0.0.1:{listener.port}"
    if source == "environment":
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    settings = make_settings(proxy=proxy if source == "settings" else None)
    assert isinstance(refusal("https://10.0.0.1/image", path, settings), ImageUnusable)
    assert listener.received == b""


@pytest.mark.parametrize("source", ["settings", "environment"])
def test_a_public_link_goes_through_the_proxy(
    listener: Listener, path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    proxy = f"http://127.0.0.1:{listener.port}"
    if source == "environment":
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    settings = make_settings(proxy=proxy if source == "settings" else None, max_retries=0, timeout=0.2)
    found = refusal("https://cdn.test/image", path, settings)
    assert type(found) is ImageUnavailable
    assert listener.received.startswith(b"CONNECT cdn.test:443 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://cdn.test/image", "the link is http://, not https://"),
        ("http://127.0.0.1/image", "the link is http://, not https://"),
        ("ftp://cdn.test/image", "the link is ftp://, not https://"),
        ("file:///etc/passwd", "the link is file://, not https://"),
        ("data:image/png;base64,aGk=", "the link is data://, not https://"),
        ("/image", "the link is no://, not https://"),
        ("", "the link is no://, not https://"),
        ("https://[::1", "the link is not a URL"),
    ],
)
def test_a_link_that_is_no_https_url_is_refused_at_once(path: Path, url: str, message: str) -> None:
    clock = Clock()
    found = refusal(url, path, make_settings(), clock)
    assert isinstance(found, ImageUnusable)
    assert str(found) == message
    assert clock.slept == []


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "http://cdn.test/", "http://localhost.localdomain/", "ftp://127.0.0.1/"]
)
def test_a_gateway_on_loopback_allows_plain_http_to_loopback_only(path: Path, url: str) -> None:
    found = refusal(url, path, make_settings(base_url="http://127.0.0.1:8080/v1"))
    assert isinstance(found, ImageUnusable)
    assert "not https://" in str(found)


@pytest.mark.parametrize(
    "url",
    [
        f"https://{'a' * 64}.test/",
        f"https://{'a.' * 200}test/",
        "https://\u2028.test/",
        "https:///image",
        "https://cdn test/",
        "https://cdn.test:99999/",
        "https://",
    ],
)
def test_a_name_that_cannot_exist_is_an_unavailable_image(path: Path, url: str) -> None:
    refusal(url, path, make_settings(max_retries=0))


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@given(url=st.text(max_size=30) | st.builds("https://{}".format, st.text(max_size=20)))
def test_whatever_a_link_is_it_is_fetched_or_unavailable(
    tmp_path_factory: pytest.TempPathFactory, url: str
) -> None:
    with pytest.raises(ImageUnavailable):
        mocked(refuse_connection, url, tmp_path_factory.getbasetemp() / "fuzz")


@given(location=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
def test_whatever_a_redirect_points_to_ends_as_unavailable(
    tmp_path_factory: pytest.TempPathFactory, location: str
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": location})

    with pytest.raises(ImageUnavailable):
        mocked(answer, "https://cdn.test/", tmp_path_factory.getbasetemp() / "fuzz")


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_no_log_of_any_library_holds_a_link(
    aisa_sandbox: Sandbox, path: Path, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    """A signed link in a task's log is an image for everyone who reads the log."""
    url = link(aisa_sandbox)
    signature = httpx.URL(url).params["X-Signature"]
    with (
        caplog.at_level(level),
        caplog.at_level(level, "httpx"),  # Airflow, where a test has imported it, sets a level of its own.
        caplog.at_level(level, "httpcore"),
    ):
        logging.getLogger("httpx").info("before")
        fetch(url, path, sandbox_settings(aisa_sandbox))
        logging.getLogger("httpx").info("after")
    assert "X-Signature" not in caplog.text
    assert signature not in caplog.text
    assert [record.message for record in caplog.records if record.name == "httpx"] == ["before", "after"]


@pytest.mark.parametrize(
    "kind",
    [
        "cdn_cut",
        "expired_link",
        "html_image",
        "oversized_image",
        "cdn_redirect_private",
        "truncated_image",
        "cdn_server_error",
    ],
)
def test_no_error_and_no_traceback_holds_a_link(aisa_sandbox: Sandbox, path: Path, kind: FaultKind) -> None:
    url = link(aisa_sandbox)
    aisa_sandbox.inject(Fault(kind))
    found = refusal(url, path, sandbox_settings(aisa_sandbox, max_retries=0))
    shown = "".join(traceback.format_exception(found)) + repr(found) + repr(found.__dict__)
    assert "X-Signature" not in shown
    assert httpx.URL(url).path not in shown


def test_a_new_attempt_begins_the_file_anew(path: Path) -> None:
    answers = iter([PNG * 50 + b"x", PNG])

    def answer(_: httpx.Request) -> httpx.Response:
        content = next(answers)
        return httpx.Response(200, stream=httpx.ByteStream(content if content == PNG else content[1:]))

    fetched = mocked(answer, "https://cdn.test/", path, max_retries=1)
    assert path.read_bytes() == PNG
    assert (fetched.info.width, fetched.info.height, fetched.bytes) == (64, 48, len(PNG))


def test_images_are_fetched_side_by_side_with_one_fetcher(aisa_sandbox: Sandbox, tmp_path: Path) -> None:
    urls = [link(aisa_sandbox) for _ in range(3)]

    def fetch_to(fetcher: Fetcher, url: str, path: Path) -> FetchedImage:
        with path.open("w+b", buffering=0) as file:
            return fetcher.fetch(url, file, Stop())

    paths = [tmp_path / str(index) for index in range(3)]
    with open_fetcher(sandbox_settings(aisa_sandbox)) as fetcher, ThreadPoolExecutor(3) as pool:
        fetched = list(pool.map(fetch_to, [fetcher] * 3, urls, paths))
    assert len({image.sha256 for image in fetched}) == 3
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] == [
        image.sha256 for image in fetched
    ]
