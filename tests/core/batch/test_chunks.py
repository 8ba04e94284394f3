from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mypy_boto3_s3 import S3Client

from airflow_provider_aisa.core.batch.chunks import chunk_file, chunk_list
from airflow_provider_aisa.core.batch.source import iter_requests
from airflow_provider_aisa.exceptions import InvalidRequest, StorageFailed
from tests.core.batch.request_file import URI, client_of

BOM = b"\xef\xbb\xbf"


def jsonl(*values: object) -> bytes:
    return "\n".join(json.dumps(value) for value in values).encode()


def refusal_of_list(values: list[object]) -> str:
    """Return why a list cannot be cut, even into chunks of one."""
    with pytest.raises(InvalidRequest) as caught:
        chunk_list(values, 1)
    return str(caught.value)


def refusal_of_file(content: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        chunk_file(URI, 1, client_of(content))
    return str(caught.value)


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(1, [["a"], ["b"], ["c"]]), (2, [["a", "b"], ["c"]]), (3, [["a", "b", "c"]]), (9, [["a", "b", "c"]])],
)
def test_a_list_is_cut_in_its_order(size: int, chunks: list[list[str]]) -> None:
    assert chunk_list(["a", "b", "c"], size) == chunks


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "2", None])
def test_a_size_is_a_whole_number_from_one(size: int) -> None:
    for cut in (lambda: chunk_list(["a"], size), lambda: chunk_file(URI, size, client_of(b'"a"'))):
        with pytest.raises(InvalidRequest, match="is not a number of requests per chunk: use a whole number"):
            cut()


FILES = st.tuples(
    st.sampled_from([b"", BOM]),
    st.lists(st.sampled_from([b"", b" \r", b"%d", b'"%d"', b'  {"prompt": "\xc3\xa4%d"}\r']), min_size=1),
    st.sampled_from([b"", b"\n", b"\n\n"]),
).map(
    lambda parts: (
        parts[0]
        + b"\n".join(line % number if b"%" in line else line for number, line in enumerate(parts[1]))
        + parts[2]
    )
)


@given(FILES.filter(lambda content: content.removeprefix(BOM).strip() != b""), st.integers(1, 5))
def test_the_chunks_of_a_file_hold_what_the_file_holds(content: bytes, size: int) -> None:
    client = client_of(content)
    whole = list(iter_requests(URI, client))
    chunks = [list(iter_requests(uri, client)) for uri in chunk_file(URI, size, client)]
    assert [item for chunk in chunks for item in chunk] == whole
    assert len(chunks) == math.ceil(len(whole) / size)
    assert all(len(chunk) == size for chunk in chunks[:-1])


def test_the_chunks_of_a_file_touch_and_reach_its_end() -> None:
    content = b'\n"a"\n\n"b"\n"c"\n\n'
    assert [
        uri.partition("#")[2].partition("&etag")[0] for uri in chunk_file(URI, 2, client_of(content))
    ] == [
        "bytes=1-9&line=2",
        "bytes=10-14&line=5",
    ]


def test_chunks_are_read_from_a_real_store(s3_client: S3Client, bucket: str) -> None:
    prompts = [f"{number} {'ä' * (number % 300)}" for number in range(2_000)]
    s3_client.put_object(Bucket=bucket, Key="a#b/ä.jsonl", Body=jsonl(*prompts))
    uris = chunk_file(f"s3://{bucket}/a#b/ä.jsonl", 300, s3_client)
    items = [item for uri in uris for item in iter_requests(uri, s3_client)]
    assert len(uris) == 7
    assert [item.value for item in items] == prompts
    assert items[-1].where == "line 2000"


def test_a_missing_file_fails_with_the_next_step(s3_client: S3Client, bucket: str) -> None:
    with pytest.raises(
        StorageFailed, match=r"^Correct the URI of requests, .* there is no such file\. Nothing was sent"
    ):
        chunk_file(f"s3://{bucket}/no.jsonl", 10, s3_client)


@pytest.mark.parametrize("content", [b"", b"\n \r\n"])
def test_a_file_without_requests_is_refused(content: bytes) -> None:
    message = refusal_of_file(content)
    assert message.startswith("Look at what writes the requests: there are none.")
    assert message.endswith(f"Nothing was sent ({URI}).")


def test_a_chunk_is_not_cut_again() -> None:
    client = client_of(b'"a"\n"b"')
    with pytest.raises(InvalidRequest, match="is a chunk of a file already: cut the whole file"):
        chunk_file(chunk_file(URI, 1, client)[0], 1, client)


def test_something_else_than_a_uri_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="requests 'A fox' is a text, neither a list nor the URI"):
        chunk_file("A fox", 1, client_of(b'"a"'))


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        ({"id": "sku-1", "prompt": "a"}, {"id": "sku-1", "prompt": "b"}, "has the id 'sku-1' of"),
        ({"id": 7, "prompt": "a"}, {"id": "7", "prompt": "b"}, "has the id '7' of"),
        ("a", "a", "is the same request as"),
        ("a", {"prompt": "a", "id": None}, "is the same request as"),
        ({"prompt": "a", "n": 2}, {"n": 2, "prompt": "a"}, "is the same request as"),
        ({"prompt": "a", "s3_key": "a.png"}, {"prompt": "b", "s3_key": "a.png"}, "has the s3_key of"),
        (
            {"id": 1, "prompt": "a", "s3_key": "s3://b/{index}"},
            {"prompt": "b", "s3_key": "s3://b/{index}"},
            "has the s3_key of",
        ),
    ],
)
def test_two_requests_that_would_get_in_each_others_way_are_refused_with_both_places(
    one: object, other: object, problem: str
) -> None:
    assert f" cannot be cut into chunks: requests[2] {problem} requests[0]. " in refusal_of_list(
        [one, "x", other]
    )
    assert f" cannot be cut into chunks: line 3 {problem} line 1. " in refusal_of_file(jsonl(one, "x", other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"id": "1", "prompt": "a"}, {"id": "2", "prompt": "a"}),
        ({"id": "1", "prompt": "a"}, {"prompt": "a"}),
        ("a", {"prompt": "a", "n": 2}),
        ("id 1", {"id": 1, "prompt": "a"}),
        ({"prompt": "a", "s3_key": "to/"}, {"prompt": "b", "s3_key": "to/"}),
        ({"prompt": "a", "s3_key": "s3://to"}, {"prompt": "b", "s3_key": "s3://to"}),
        ({"prompt": "a", "s3_key": "{id}.png"}, {"prompt": "b", "s3_key": "{id}.png"}),
        ({"prompt": "a", "s3_key": "{sha256}"}, {"prompt": "b", "s3_key": "{sha256}"}),
    ],
)
def test_two_requests_that_can_be_told_apart_are_cut(one: object, other: object) -> None:
    assert chunk_list([one, other], 1) == [[one], [other]]
    assert len(chunk_file(URI, 1, client_of(jsonl(one, other)))) == 2


def test_what_is_no_request_is_left_to_the_batch() -> None:
    values = [None, 7, ["a"], {}, {"id": {"a": 1}}, {1: 2, "a": 3}, "\ud800", {"id": "\ud800"}]
    assert chunk_list(values, 100) == [values]


def test_broken_lines_and_duplicates_are_told_together() -> None:
    message = refusal_of_file(b'"a"\n{"prompt"\n"b"\n"a"\n\xff')
    assert message == (
        "Write one JSON object per line; drop one of two such requests, or give each an id and an s3_key of "
        "its own. These requests cannot be cut into chunks: line 2 is not JSON: Expecting ':' delimiter, at "
        "its character 10; line 4 is the same request as line 1; line 5 is not UTF-8, at its byte 1. "
        f"Nothing was sent ({URI})."
    )


def test_of_many_wrong_lines_twenty_are_told_and_all_are_counted() -> None:
    message = refusal_of_file(b"\n".join([b"{"] * 1_234))
    assert message.count("is not JSON") == 20
    assert "line 20 is not JSON" in message
    assert "; and 1,214 more. Nothing was sent" in message


def test_a_refusal_never_holds_a_prompt() -> None:
    secret = "a prompt that nobody else may read"
    assert secret not in refusal_of_file(jsonl(secret, secret) + b"\n{" + secret.encode())
    assert secret not in refusal_of_list([{"prompt": secret}, {"prompt": secret}])
