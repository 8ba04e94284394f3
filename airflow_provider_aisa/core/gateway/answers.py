"""What comes back from the gateway, read within bounds: an answer is a stranger's until it has been read.

A length as sent and as decoded, a number of values, a depth. No error is raw, and no text that is shown
holds a key, a link or a control character.
"""

from __future__ import annotations

import io
import json
import math
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

import httpx

MIB: Final = 1024 * 1024
#: Bytes of a whole answer, as sent and as decoded. It has room for one base64 image of 48 MiB or a dozen of
#: 4 MiB; a hostile one costs no more than this in memory, because nothing is parsed that is longer than
#: :data:`TEXT_LIMIT`.
ANSWER_LIMIT: Final = 64 * MIB
#: Bytes of an answer without its long strings, that is without base64 images.
TEXT_LIMIT: Final = 2 * MIB
#: Bytes that are read of an answer which is no success. What is longer is an error page.
ERROR_LIMIT: Final = 64 * 1024
#: Lists, objects and their members in one answer.
VALUES_LIMIT: Final = 50_000
DEPTH_LIMIT: Final = 32

_LONG_STRING: Final = 64 * 1024
_LONGEST_TEXT: Final = 500
_WORDS: Final = 80
_PAGE_HEAD: Final = 4096  # bytes in which an HTML page has its title
_UNKEPT_HEADERS: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BASE64_PART = rb"[A-Za-z0-9+/=_-]*+"
_BASE64 = re.compile(
    rb"(?:data:[a-z/+.-]{1,40};base64,)?" + _BASE64_PART + rb"(?:\\[/nr]" + _BASE64_PART + rb")*+"
)
_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_\-]{4,}")
_LINK = re.compile(r"(https?://[^\s/?#]{1,100})[/?#]\S*")


class UnreadableAnswer(httpx.HTTPError):
    """A success whose body cannot be read. The text is ours, but for a few cleaned words of the body."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotJson(ValueError):
    """A body is not JSON within the bounds; says why."""


def receive(response: httpx.Response, request: httpx.Request, *, limit: int = ANSWER_LIMIT) -> httpx.Response:
    """Read the body of an answer and return it as a response that is complete and not encoded.

    :param limit: bytes of a success; of anything else, :data:`ERROR_LIMIT` are enough, and the rest is left.
    :raises UnreadableAnswer: a success is too long, or encoded in a way that was not asked for.
    :raises httpx.HTTPError: the connection broke before a success was complete.
    """
    body = _Body(response, limit if response.is_success else ERROR_LIMIT)
    try:
        body.read()
    except NotJson as e:
        if response.is_success:
            words = first_words(body.decoded())
            begins = f", beginning with {words!r}" if words else ""
            raise UnreadableAnswer(f"{e}{begins}", status=response.status_code) from None
    except httpx.HTTPError:
        if response.is_success:
            raise
    finally:
        response.close()
    headers = [pair for pair in response.headers.raw if pair[0].lower() not in _UNKEPT_HEADERS]
    return httpx.Response(response.status_code, headers=headers, content=body.decoded(), request=request)


class _Body:
    def __init__(self, response: httpx.Response, limit: int) -> None:
        self._response = response
        self._limit = limit
        # Not a list of blocks: joining them would hold everything twice. BytesIO gives its bytes away.
        self._decoded = io.BytesIO()

    def decoded(self) -> bytes:
        return self._decoded.getvalue()

    def read(self) -> None:
        encoding = self._response.headers.get("content-encoding", "identity").strip().lower()
        if encoding in {"", "identity"}:
            for block in self._blocks():
                self._keep(block)
        elif encoding in {"gzip", "x-gzip", "deflate"}:
            # Not asked for, but what is paid for is read if that is possible.
            self._inflate()
        else:
            raise NotJson(f"a body that is encoded as {clean(encoding)!r}, although none was asked for")

    def _inflate(self) -> None:
        inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it is
        try:
            for block in self._blocks():
                data = block
                while data and not inflater.eof:
                    self._keep(inflater.decompress(data, 4 * _LONG_STRING))
                    data = inflater.unconsumed_tail
            self._keep(inflater.flush())
        except zlib.error:
            raise NotJson("a compressed body that is damaged") from None
        if not inflater.eof:
            raise NotJson("a compressed body that stops half-way")

    def _blocks(self) -> Iterator[bytes]:
        sent = 0
        for block in cast("httpx.SyncByteStream", self._response.stream):
            sent += len(block)
            if sent > self._limit:
                self._keep(block)
                raise NotJson(self._too_long)
            yield block

    def _keep(self, block: bytes) -> None:
        room = self._limit - self._decoded.tell()
        self._decoded.write(block[:room] if len(block) > room else block)
        if len(block) > room:
            raise NotJson(self._too_long)

    @property
    def _too_long(self) -> str:
        return f"a body of more than {self._limit // MIB} MiB"


def read_json(body: bytes) -> object:
    """Return the JSON value of a body: finite numbers, whole characters, bounded in every way.

    Raises NotJson.
    """
    text, images = _lift_images(body)
    if len(text) > TEXT_LIMIT:
        raise NotJson(f"more than {TEXT_LIMIT // MIB} MiB of JSON without its images")
    if text.count(b",") + text.count(b"[") + text.count(b"{") > VALUES_LIMIT:
        raise NotJson(f"more than {VALUES_LIMIT:,} values")
    try:
        # NaN and its like are not JSON; Python reads them all the same.
        value = json.loads(text.decode("utf-8-sig"), parse_constant=lambda _: None, parse_float=_parse_float)
    except (ValueError, RecursionError):
        raise NotJson("no JSON") from None
    return _plain(value, images, DEPTH_LIMIT)


def read_object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a body, or an empty one for anything else."""
    try:
        value = read_json(body)
    except NotJson:
        return {}
    return value if isinstance(value, dict) else {}


def _lift_images(body: bytes) -> tuple[bytes, Mapping[str, str]]:
    """Take base64 out of a large body: parsing would hold each image three times in memory."""
    if len(body) <= TEXT_LIMIT or body.count(b'"') > 2 * VALUES_LIMIT:
        return body, {}
    token = secrets.token_hex()  # Nobody can write a placeholder of theirs into an answer.
    rest: list[bytes] = []
    images: dict[str, str] = {}
    end = 0
    for match in _STRING.finditer(body):
        start, stop = match.start() + 1, match.end() - 1
        if stop - start > _LONG_STRING and _BASE64.fullmatch(body, start, stop):
            name = f"{token}-{len(images)}"
            images[name] = _unescape(str(memoryview(body)[start:stop], "ascii"))
            rest += [body[end:start], name.encode()]
            end = stop
    return b"".join([*rest, body[end : end + TEXT_LIMIT + 1]]), images


def _unescape(base64: str) -> str:
    """Undo what some writers of JSON do to slashes and line breaks."""
    if "\\" not in base64:
        return base64
    return base64.replace("\\/", "/").replace("\\n", "").replace("\\r", "")


def _plain(value: object, images: Mapping[str, str], depth: int) -> object:
    if depth == 0:
        raise NotJson(f"JSON of more than {DEPTH_LIMIT} levels")
    if isinstance(value, str):
        return images.get(value) or _whole_characters(value)
    if isinstance(value, list):
        return [_plain(each, images, depth - 1) for each in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _plain(each, images, depth - 1) for name, each in value.items()}
    return value


def _whole_characters(text: str) -> str:
    """JSON can carry half a character; logs, S3 and HTTP cannot."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _parse_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def describe(response: httpx.Response, *, api_key: str = "") -> str:
    """Say what kind of answer came, for people who have to find the proxy that sent it."""
    if 300 <= response.status_code < 400:
        return f"a redirect to {_host(response.headers.get('location', ''), api_key)}"
    body = response.content
    if not body:
        return "an empty body"
    if title := re.search(rb"<title[^>]{0,100}>([^<]{1,200})", body[:_PAGE_HEAD], re.IGNORECASE):
        return f"an HTML page titled {clean(title[1].decode(errors='replace'), api_key=api_key)!r}"
    kind = clean(response.headers.get("content-type", "").partition(";")[0], api_key=api_key)
    words = first_words(body, api_key=api_key)
    begins = f", beginning with {words!r}" if words else ""
    return f"{len(body)} bytes of {kind or 'no content type'} that are not the expected JSON{begins}"


def first_words(body: bytes, *, api_key: str = "") -> str:
    """Return the beginning of a body as text that may be shown."""
    return clean(body[:_PAGE_HEAD].decode(errors="replace"), api_key=api_key)[:_WORDS]


def read_request_id(response: httpx.Response, body: Mapping[str, Any], *, api_key: str = "") -> str | None:
    """Return the gateway's id of a request, from the body or the header."""
    value = body.get("request_id") or response.headers.get("x-request-id")
    return clean(str(value), api_key=api_key)[:_WORDS] if value else None


def clean(text: str, *, api_key: str = "") -> str:
    """Keep a stranger's text on one line, short, printable, and free of keys and links."""
    text = _whole_characters(text[: 4 * _PAGE_HEAD])
    for form in {api_key, quote(api_key, safe="")} - {""}:
        text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return _LINK.sub(r"\1/***", _KEY_LIKE.sub("sk-***", text))[:_LONGEST_TEXT]


def _host(url: str, api_key: str) -> str:
    try:
        return clean(urlsplit(url).hostname or "", api_key=api_key) or "nowhere"
    except ValueError:
        return "something that is no URL"
