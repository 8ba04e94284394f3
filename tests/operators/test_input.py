"""Whatever is wrong is found before anything is paid, and the message says what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.exceptions import (
    InvalidConnection,
    InvalidRequest,
    ModelNotRouted,
    OverBudget,
    StorageFailed,
)
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from tests.operators.conftest import context_of

if TYPE_CHECKING:
    from tests.operators.conftest import Desk

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"size": "1024x1024"}, InvalidRequest, "needs at least 3,686,400: try '1920x1920'"),
    ({"size": "1024"}, InvalidRequest, "WIDTHxHEIGHT"),
    ({"size": "2K"}, InvalidRequest, "try '2048x2048'"),
    ({"size": "2048*2048"}, InvalidRequest, "try '2048x2048'"),
    ({"size": "0x9000000"}, InvalidRequest, "try '2048x2048'"),
    ({"size": "-2048x-2048"}, InvalidRequest, "try '2048x2048'"),
    ({"size": "２０４８x2048"}, InvalidRequest, "try '2048x2048'"),  # noqa: RUF001 - that is the point
    ({"n": 0}, InvalidRequest, "whole number from 1"),
    ({"n": -1}, InvalidRequest, "whole number from 1"),
    ({"n": 1.5}, InvalidRequest, "whole number from 1"),
    ({"n": "two"}, InvalidRequest, "whole number from 1"),
    ({"n": True}, InvalidRequest, "whole number from 1"),
    ({"prompt": ""}, InvalidRequest, "blank"),
    ({"prompt": " \n"}, InvalidRequest, "blank"),
    ({"prompt": None}, InvalidRequest, "not a string"),
    ({"model": "wan2.7-image"}, ModelNotRouted, "Use WanGenerateOperator"),
    ({"model": "gemini-3-pro-image"}, ModelNotRouted, "Use GeminiGenerateOperator"),
    ({"model": ""}, InvalidRequest, "model id"),
    ({"max_cost_usd": "cheap"}, InvalidRequest, "amount in USD"),
    ({"s3_key": "{number}.png"}, InvalidRequest, "nobody fills in"),
    ({"s3_key": "s3://a/k", "s3_bucket": "b"}, InvalidRequest, "Leave one out"),
    ({"s3_extra_args": {"Body": b""}}, InvalidRequest, "may not set Body"),
    ({"on_partial": "ignore"}, InvalidRequest, "'fail' or 'keep'"),
    ({"on_existing": "overwrite"}, InvalidRequest, "'reuse' or 'regenerate' or 'fail'"),
    ({"delivery": "exactly-once"}, InvalidRequest, "'at-least-once' or 'at-most-once'"),
    ({"idempotency_key": " "}, InvalidRequest, "no key"),
]
TEMPLATED = set(SeedreamGenerateOperator.template_fields)


@pytest.mark.parametrize(("arguments", "error", "words"), BAD, ids=[str(bad[0]) for bad in BAD])
def test_a_wrong_literal_fails_the_dags_import(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        SeedreamGenerateOperator(**{"task_id": "t", "prompt": "p", **arguments})

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [bad for bad in BAD if set(bad[0]) <= TEMPLATED],
    ids=[str(bad[0]) for bad in BAD if set(bad[0]) <= TEMPLATED],
)
def test_the_same_from_a_template_fails_the_task_before_anything_is_sent(
    desk: Desk, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    templates: dict[str, Any] = dict.fromkeys(arguments, "{{ anything }}")
    operator = SeedreamGenerateOperator(**{"task_id": "generate", "prompt": "p", **templates})
    for name, rendered in arguments.items():
        setattr(operator, name, rendered)

    with pytest.raises(error) as caught:
        operator.execute(context_of())

    assert words in str(caught.value)
    assert desk.gateway.requests == []


def test_an_upper_case_x_and_blanks_around_a_size_are_accepted(desk: Desk) -> None:
    assert desk.run(size="2048X2048 ")["images"][0]["size"] == "2048x2048"


def test_numbers_that_templates_render_to_strings_are_accepted(desk: Desk) -> None:
    assert len(desk.run(n="2", max_cost_usd="0.08")["images"]) == 2


def test_a_budget_below_the_cost_is_refused_with_both_figures(desk: Desk) -> None:
    with pytest.raises(OverBudget, match=r"it is 0\.1 USD, and 3 image\(s\) .* cost 0\.120 USD"):
        desk.run(n=3, max_cost_usd=0.1)

    assert desk.gateway.requests == []


def test_the_connections_prices_decide_the_budget_and_the_cost(desk: Desk) -> None:
    desk.connect(prices={"seedream-4-5-251128": 0.01})

    assert desk.run(n=3, max_cost_usd=0.03)["cost_usd"] == 0.03


def test_an_unknown_model_is_passed_on_with_a_warning(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidRequest, match="unknown_model"):
        desk.run(model="seedream-9", size="64x64")

    assert "'seedream-9' is not known here" in capsys.readouterr().out
    assert [request.method for request in desk.gateway.requests] == ["GET", "POST"]  # a list, which is free
    assert desk.keys() == []


def test_no_bucket_anywhere_is_an_error_that_shows_where_to_put_it(desk: Desk) -> None:
    desk.monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", desk.store.airflow_connection())

    with pytest.raises(InvalidRequest, match=r"set s3_bucket, .* 'aws_default' the extra"):
        desk.run()

    assert desk.gateway.requests == []


def test_a_missing_bucket_is_found_before_the_post(desk: Desk) -> None:
    with pytest.raises(StorageFailed, match=r"^Create the bucket, .* S3 says NoSuchBucket"):
        desk.run(s3_bucket="no-such-bucket")

    assert desk.gateway.requests == []


def test_a_bucket_that_may_not_be_written_is_found_before_the_post(desk: Desk) -> None:
    connection = desk.store.airflow_connection(bucket=desk.bucket, read_only=True)
    desk.monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection)

    with pytest.raises(StorageFailed, match=r"^Allow the AWS connection s3:GetObject and s3:PutObject there"):
        desk.run()

    assert desk.gateway.requests == []


def test_upload_arguments_that_s3_does_not_have_are_found_before_the_post(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match="StorageKlass"):
        desk.run(s3_extra_args={"StorageKlass": "STANDARD"})

    assert desk.gateway.requests == []


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        (None, "'aisa_default' is not defined"),
        ({"conn_type": "aisa"}, "'aisa_default': API key (password) is empty"),
        ({"conn_type": "aisa", "password": "own-key1", "host": "ftp://x"}, "'aisa_default': Base URL (host)"),
        (
            {"conn_type": "aisa", "password": "own-key1", "extra": {"timeout": "soon"}},
            "'aisa_default': extra 'timeout'",
        ),
    ],
)
def test_a_connection_that_is_missing_or_wrong_is_named_with_its_field(
    desk: Desk, connection: dict[str, Any] | None, words: str
) -> None:
    if connection is None:
        desk.monkeypatch.delenv("AIRFLOW_CONN_AISA_DEFAULT")
    else:
        desk.monkeypatch.setenv("AIRFLOW_CONN_AISA_DEFAULT", json.dumps(connection))

    with pytest.raises(InvalidConnection) as caught:
        desk.run()

    assert words in str(caught.value)
    assert desk.gateway.requests == []


def test_a_prompt_that_ends_in_json_stays_a_prompt() -> None:
    assert SeedreamGenerateOperator.template_ext == ()


@pytest.mark.parametrize(
    "metadata",
    [
        {"team": "café"},
        {"team": "a\nb"},
        {"te am": "x"},
        {"tëam": "x"},
        {"Model": "x"},
        {"SHA256": "x"},
        "team",
    ],
)
def test_metadata_that_no_upload_could_carry_fails_the_dags_import(metadata: object) -> None:
    with pytest.raises(InvalidRequest, match=r"s3_extra_args\['Metadata'\]"):
        SeedreamGenerateOperator(task_id="t", prompt="p", s3_extra_args={"Metadata": metadata})
