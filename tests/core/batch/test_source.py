from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.response import StreamingBody
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from mypy_boto3_s3 import S3Client

from airflow_provider_aisa.core.batch.source import (
    LONGEST_LINE,
    Chunk,
    RawRequest,
    RequestFile,
    TextLine,
    check_requests,
    iter_requests,
    split_lines,
)
from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed
from tests.core.batch.request_file import KEY, URI, client_of, store_of
from tools.ports import find_free_ports
from tools.seaweedfs import SeaweedFS

SECRET = "a prompt that nobody else may read"


def read(content: bytes) -> list[tuple[str, object]]:
    return [(item.where, item.value) for item in iter_requests(URI, client_of(content))]


def errors(content: bytes) -> list[tuple[str, str]]:
    """Return where the errors are and what they say; all other items are good."""
    return [(where, str(value)) for where, value in read(content) if isinstance(value, InvalidRequest)]


@pytest.fixture
def stubbed() -> Iterator[tuple[S3Client, Stubber]]:
    """Yield a client of a store that is not there, whose answers are given by the test."""
    (port,) = find_free_ports(1)
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with Stubber(client) as stubber:
        yield client, stubber


@pytest.mark.parametrize(
    "requests",
    [
        ["A red panda"],
        ("A red panda", {"prompt": "A fox"}),
        [None, 7],
        URI,
        f"  {URI}\n",
        "S3://bucket/a/b c/ä#1.jsonl",
        f"{URI}#bytes=0-9&line=1&etag=%22e%22",
    ],
)
def test_a_list_or_the_uri_of_a_file_is_accepted_whatever_is_in_it(requests: object) -> None:
    check_requests(requests)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "Look at what writes the requests: there are none."),
        ((), "Look at what writes the requests: there are none."),
        ({"prompt": "A fox"}, "requests is a dict, not a list: put it into a list"),
        ({"A fox", "A cat"}, "requests is a set, not a list: it has no order"),
        (iter(["A fox"]), "requests is a list_iterator, not a list: it can be read only once"),
        ((prompt for prompt in ["A fox"]), "requests is a generator, not a list: it can be read only once"),
        (b"s3://bucket/key", "requests is a bytes, not a list: use a list, an XComArg"),
        (None, "requests is a NoneType, not a list: use a list, an XComArg such as task.output"),
        (7, "requests is a int, not a list"),
        (PurePosixPath("a.jsonl"), "requests is a PurePosixPath, not a list"),
        (type("DataFrame", (list,), {})(["prompt"]), "requests is a DataFrame, not a list of its rows"),
        ("", "requests '' is a text, neither a list nor the URI of a file"),
        ("['A fox']", """requests "['A fox']" is a text, neither a list nor the URI of a file: use a list"""),
        ("requests.jsonl", "requests 'requests.jsonl' is a text"),
        ("https://bucket/key", "requests 'https://bucket/key' is a text"),
        ("s3://bucket", "requests 's3://bucket' is a text"),
        ("s3://bucket/folder/", "requests 's3://bucket/folder/' is a text"),
        ("s3://{{ bucket }}/key", "requests 's3://{{ bucket }}/key' is a text"),
    ],
)
def test_anything_else_is_refused_with_what_to_use(requests: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_requests(requests)
    assert str(caught.value).startswith(message)


def test_a_rendered_template_is_told_that_it_is_a_text() -> None:
    with pytest.raises(InvalidRequest, match="A template that renders to text does not render to a list"):
        check_requests(str(["A fox", "A cat"]))


@pytest.mark.parametrize("character", ["x", "\x00", "ä", "\U0001f98a"])
def test_a_wrong_value_is_not_repeated_at_length(character: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_requests(character * 10_000)
    assert len(str(caught.value)) < 400


def test_the_items_of_a_list_are_counted_from_zero_and_not_looked_at() -> None:
    items = iter_requests(["A fox", {"prompt": 7}, None], client_of(b""))
    assert list(items) == [
        RawRequest("requests[0]", "A fox"),
        RawRequest("requests[1]", {"prompt": 7}),
        RawRequest("requests[2]", None),
    ]


def test_what_can_only_be_iterated_is_a_list_too_but_not_an_empty_one() -> None:
    class Lazy:
        def __init__(self, *values: str) -> None:
            self.values = values

        def __iter__(self) -> Iterator[str]:
            return iter(self.values)

    assert [item.value for item in iter_requests(Lazy("A fox"), client_of(b""))] == ["A fox"]
    with pytest.raises(InvalidRequest, match=r"^Look at what writes the requests: there are none"):
        iter_requests(Lazy(), client_of(b""))


def test_the_items_of_a_file_are_its_lines_counted_from_one() -> None:
    content = b'"A fox"\n{"prompt": "A cat", "n": 2}\n7\n'
    assert read(content) == [("line 1", "A fox"), ("line 2", {"prompt": "A cat", "n": 2}), ("line 3", 7)]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b'"a"\n"b"', [1, 2]),
        (b'"a"\n"b"\n', [1, 2]),
        (b'"a"\r\n"b"\r\n', [1, 2]),
        (b'\n\n"a"\n \t\r\n\n"b"\n\n', [3, 6]),
        (b'\xef\xbb\xbf"a"\n"b"\n', [1, 2]),
        (b'\xef\xbb\xbf\r\n"a"\n"b"', [2, 3]),
        (b'  "a"  \n\t"b"', [1, 2]),
    ],
)
def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(content: bytes, lines: list[int]) -> None:
    assert read(content) == [(f"line {lines[0]}", "a"), (f"line {lines[1]}", "b")]


def test_only_a_newline_ends_a_line() -> None:
    text = "a\u2028b\u0085c\x0bd"
    assert read(json.dumps(text, ensure_ascii=False).encode()) == [("line 1", text)]


def naive(content: bytes) -> list[TextLine]:
    """Split a file the simple way."""
    lines, offset = [], 0
    for number, text in enumerate(content.split(b"\n"), 1):
        bare = text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text
        if bare.rstrip():
            lines.append(TextLine(number, offset, bare.rstrip()))
        offset += len(text) + 1
    return lines


FILES = st.lists(st.sampled_from([b"", b" ", b"\r", b'"a"', b'"\xc3\xa4"\r', b"\xef\xbb\xbf", b"x" * 9])).map(
    b"\n".join
)


@given(FILES, st.integers(1, 12))
def test_lines_are_the_same_wherever_blocks_end(content: bytes, size: int) -> None:
    blocks = [content[start : start + size] for start in range(0, len(content), size)]
    assert list(split_lines(blocks, uri=URI)) == naive(content)


def test_lines_are_the_same_for_a_cut_at_every_offset() -> None:
    content = b'\xef\xbb\xbf"a"\r\n\n{"prompt": "\xc3\xa4"}\n \n"b"'
    for cut in range(len(content) + 1):
        assert list(split_lines([content[:cut], content[cut:]], uri=URI)) == naive(content)


def test_broken_lines_are_errors_in_their_places_and_reading_goes_on() -> None:
    content = b'"a"\n{"prompt": "a",}\n"b"\n{"prompt"\n\xff\n"c" "d"\n"e"'
    assert [where for where, _ in read(content)] == [f"line {number}" for number in range(1, 8)]
    assert errors(content) == [
        ("line 2", "is not JSON: Expecting property name enclosed in double quotes, at its character 16"),
        ("line 4", "is not JSON: Expecting ':' delimiter, at its character 10"),
        ("line 5", "is not UTF-8, at its byte 1"),
        ("line 6", "is not JSON: Extra data, at its character 5"),
    ]


@pytest.mark.parametrize("text", [b"[" * 200_000, b"9" * 5_000], ids=["depth", "digits"])
def test_a_line_that_the_parser_cannot_take_is_an_error_in_its_place_too(text: bytes) -> None:
    [(where, message)] = errors(b'"a"\n' + text + b'\n"b"')
    assert (where, message.startswith("is not JSON that can be read: ")) == ("line 2", True)


@given(st.binary(max_size=40).filter(lambda noise: b"\n" not in noise))
def test_no_line_stops_the_reading(noise: bytes) -> None:
    lines = read(b'"a"\n' + noise + b'\n"b"')
    assert lines[0] == ("line 1", "a")
    assert lines[-1] == ("line 3", "b")


@pytest.mark.parametrize(
    "line",
    [SECRET, f'"{SECRET}', f'{{"{SECRET}"}}', f"['{SECRET}']", f'"{SECRET}" "{SECRET}"', f'"{SECRET}\\q"'],
)
def test_an_error_never_holds_the_text_of_the_line(line: str) -> None:
    [(_, message)] = errors(line.encode())
    assert "prompt" not in message


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_requests_is_refused(content: bytes) -> None:
    with pytest.raises(
        InvalidRequest, match=r"there are none\. .*Nothing was sent \(s3://bucket/requests\.jsonl\)"
    ):
        iter_requests(URI, client_of(content))


def test_the_longest_line_is_read() -> None:
    text = "x" * (LONGEST_LINE - 2)
    assert read(f'"{text}"\n"b"'.encode()) == [("line 1", text), ("line 2", "b")]


@pytest.mark.parametrize("end", [b"", b'\n"b"'], ids=["at the end", "before another"])
def test_a_longer_line_is_refused_as_no_json_lines_at_all(end: bytes) -> None:
    items = iter_requests(URI, client_of(b'"a"\n"' + b"x" * LONGEST_LINE + b'"' + end))
    assert next(items).value == "a"
    with pytest.raises(InvalidRequest, match=r"^Write one JSON object per line: line 2 is longer than"):
        next(items)


def test_no_more_of_an_endless_line_is_read_than_it_takes_to_see_that() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 100_000

    with pytest.raises(InvalidRequest, match="line 1 is longer"):
        next(split_lines(endless(), uri=URI))
    assert taken == LONGEST_LINE // 100_000 + 1


def test_a_compressed_file_is_refused_as_that() -> None:
    with pytest.raises(InvalidRequest, match=r"^Store the file of requests uncompressed: it is a gzip"):
        iter_requests(URI, client_of(gzip.compress(b'"a"\n' * 100)))


def test_the_stream_is_closed_when_it_is_read_broken_or_left_alone() -> None:
    content = b'"a"\n' * 3
    client, compressed = store_of(content), store_of(gzip.compress(content))
    list(iter_requests(URI, client.as_boto3()))
    items = iter_requests(URI, client.as_boto3())
    next(items)
    del items
    with pytest.raises(InvalidRequest):
        iter_requests(URI, compressed.as_boto3())
    bodies = client.bodies + compressed.bodies
    assert [body._raw_stream.closed for body in bodies] == [True, True, True]  # type: ignore[attr-defined]  # botocore's body does not tell


@pytest.mark.parametrize("etag", ['"d41d8cd98f00b204"', '"d41d-12"', 'W/"a&b=c#d e%"', "plain", '"ä"'])
@pytest.mark.parametrize("key", ["k.jsonl", "a#b/c d%20e+f.jsonl", "a#bytes=0-1&line=1", "ä\n#.jsonl"])
def test_a_chunk_is_read_back_from_its_uri_whatever_the_key_and_the_etag(key: str, etag: str) -> None:
    whole = RequestFile.parse(f"s3://bucket/{key}")
    assert whole == RequestFile("bucket", key)
    chunk = Chunk(first=5, last=1_048_575, line=3, etag=etag)
    assert RequestFile.parse(whole.chunk_uri(chunk)) == RequestFile("bucket", key, chunk)


def test_a_chunk_looks_as_documented() -> None:
    chunk = Chunk(first=0, last=1_048_575, line=1, etag='"ab-1"')
    assert RequestFile("bucket", "requests.jsonl").chunk_uri(chunk) == (
        "s3://bucket/requests.jsonl#bytes=0-1048575&line=1&etag=%22ab-1%22"
    )


@pytest.mark.parametrize(
    "fragment",
    ["#1", "#bytes=0-9", "#bytes=0-9&line=1", "#line=1&bytes=0-9&etag=e", "#bytes=0-9&line=1&etag=e&x=1"],
)
def test_any_other_fragment_belongs_to_the_key(fragment: str) -> None:
    assert RequestFile.parse(URI + fragment) == RequestFile("bucket", f"requests.jsonl{fragment}")


def test_the_lines_of_a_chunk_have_the_numbers_of_the_whole_file() -> None:
    content = b'"a"\n\n"b"\n"c"\nbroken\n"d"\n'
    client = store_of(content)
    chunk = Chunk(first=5, last=19, line=3, etag=client.store.objects[KEY].etag)
    uri = RequestFile("bucket", "requests.jsonl").chunk_uri(chunk)
    items = list(iter_requests(uri, client.as_boto3()))
    assert [item.where for item in items] == ["line 3", "line 4", "line 5"]
    assert [item.value for item in items[:2]] == ["b", "c"]
    assert isinstance(items[2].value, InvalidRequest)


CHUNK = Chunk(first=10, last=13, line=2, etag='"e-1"')
CHUNK_URI = RequestFile("bucket", "requests.jsonl").chunk_uri(CHUNK)
CHUNK_SENT = {"Bucket": "bucket", "Key": "requests.jsonl", "Range": "bytes=10-13", "IfMatch": '"e-1"'}


def answer(text: bytes, **fields: Any) -> dict[str, Any]:
    body = StreamingBody(BytesIO(text), fields.get("ContentLength", len(text)))
    return {"Body": body, "ETag": '"e-1"', "ContentLength": len(text), **fields}


def test_a_chunk_asks_for_its_bytes_of_the_file_that_was_cut(stubbed: tuple[S3Client, Stubber]) -> None:
    client, stubber = stubbed
    stubber.add_response("get_object", answer(b'"b"\n'), CHUNK_SENT)
    assert list(iter_requests(CHUNK_URI, client)) == [RawRequest("line 2", "b")]


@pytest.mark.parametrize(
    "changed",
    [
        lambda stubber: stubber.add_client_error("get_object", "PreconditionFailed", http_status_code=412),
        lambda stubber: stubber.add_response("get_object", answer(b'"b"\n', ETag='"f"')),
        lambda stubber: stubber.add_response("get_object", answer(b'"a"\n"b"\n')),
    ],
    ids=["by the store", "store that overlooks If-Match", "store that overlooks ranges"],
)
def test_a_chunk_of_a_file_that_has_changed_is_refused_with_the_next_step(
    stubbed: tuple[S3Client, Stubber], changed: Callable[[Stubber], None]
) -> None:
    client, stubber = stubbed
    changed(stubber)
    with pytest.raises(InvalidRequest) as caught:
        iter_requests(CHUNK_URI, client)
    assert str(caught.value) == (
        "Cut the file again, by clearing the task that did, with its downstream tasks: it has changed since. "
        "Nothing was sent (s3://bucket/requests.jsonl)."
    )


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (409, "OperationAborted")])
def test_a_store_that_cannot_tell_whether_a_file_has_changed_is_refused(
    stubbed: tuple[S3Client, Stubber], status: int, code: str
) -> None:
    client, stubber = stubbed
    stubber.add_client_error("get_object", code, http_status_code=status)
    with pytest.raises(
        StorageFailed, match=r"^Do not cut the file .* this one does not know If-Match on reads"
    ):
        iter_requests(CHUNK_URI, client)


def test_a_stream_that_breaks_off_is_an_error_not_a_shorter_list(stubbed: tuple[S3Client, Stubber]) -> None:
    client, stubber = stubbed
    stubber.add_response("get_object", answer(b'"a"\n"b"\n', ContentLength=1_000))
    items = iter_requests(URI, client)
    assert next(items).value == "a"
    with pytest.raises(StorageFailed) as caught:
        list(items)
    assert str(caught.value) == (
        "Check the AWS connection, its endpoint and its credentials. "
        "IncompleteReadError: requests s3://bucket/requests.jsonl could not be read, so nothing was sent."
    )
    assert caught.value.retryable


def test_a_file_that_may_not_be_read_fails_with_the_next_step(stubbed: tuple[S3Client, Stubber]) -> None:
    client, stubber = stubbed
    stubber.add_client_error("get_object", "AccessDenied", http_status_code=403)
    with pytest.raises(StorageFailed, match=r"^Allow .* S3 says AccessDenied: .* so nothing was sent"):
        iter_requests(URI, client)


def put(client: S3Client, bucket: str, content: bytes, key: str = "in/requests #1.jsonl") -> str:
    client.put_object(Bucket=bucket, Key=key, Body=content)
    return f"s3://{bucket}/{key}"


def test_a_file_is_read_from_a_real_store_block_by_block(s3_client: S3Client, bucket: str) -> None:
    prompts = [f"{number}: {'ä' * (number % 700)}" for number in range(3_000)]
    content = "\n".join(json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts).encode()
    assert len(content) > 2_000_000
    items = list(iter_requests(put(s3_client, bucket, content), s3_client))
    assert [item.value for item in items] == [{"prompt": prompt} for prompt in prompts]
    assert items[-1].where == "line 3000"


def test_a_chunk_is_read_from_a_real_store_until_the_file_changes(s3_client: S3Client, bucket: str) -> None:
    uri = put(s3_client, bucket, b'"a"\n"b"\n"c"')
    file = RequestFile.parse(uri)
    assert file
    etag = s3_client.head_object(Bucket=bucket, Key=file.key)["ETag"]
    chunk_uri = file.chunk_uri(Chunk(4, 7, 2, etag))
    assert list(iter_requests(chunk_uri, s3_client)) == [RawRequest("line 2", "b")]
    put(s3_client, bucket, b'"a"\n"x"\n"c"')
    with pytest.raises(InvalidRequest, match="it has changed since"):
        iter_requests(chunk_uri, s3_client)


def test_a_missing_file_or_bucket_fails_with_the_next_step(s3_client: S3Client, bucket: str) -> None:
    for uri, missing in [(f"s3://{bucket}/no.jsonl", "file"), ("s3://no-such-bucket/no.jsonl", "bucket")]:
        with pytest.raises(StorageFailed) as caught:
            iter_requests(uri, s3_client)
        assert str(caught.value) == (
            "Correct the URI of requests, or let the task that writes the file run before this one: there is "
            f"no such {missing}. Nothing was sent ({uri})."
        )
        assert caught.value.status == 404


def test_an_empty_file_in_a_real_store_is_refused(s3_client: S3Client, bucket: str) -> None:
    with pytest.raises(InvalidRequest, match="there are none"):
        iter_requests(put(s3_client, bucket, b""), s3_client)


def test_reading_needs_no_more_than_the_right_to_read(
    s3_store: SeaweedFS, s3_client: S3Client, bucket: str
) -> None:
    uri = put(s3_client, bucket, b'"a"')
    assert list(iter_requests(uri, s3_store.client(read_only=True))) == [RawRequest("line 1", "a")]
