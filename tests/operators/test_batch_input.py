"""A batch's requests come in many forms; whatever is wrong with one is told before any is paid for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_aisa import chunk_requests
from airflow_provider_aisa.exceptions import (
    InvalidConnection,
    InvalidRequest,
    OverBudget,
    StorageFailed,
)
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.image_batch import PARSED_ITEMS
from tests.operators.conftest import SMALL, context_of
from tests.series import needs_3_0

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.sdk import Context

    from tests.operators.conftest import Desk

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"requests": "A red panda"}, InvalidRequest, "is a text, neither a list nor the URI of a file"),
    ({"requests": "s3://images/"}, InvalidRequest, "is a text, neither a list nor the URI of a file"),
    ({"requests": []}, InvalidRequest, "Look at what writes the requests: there are none"),
    ({"requests": None}, InvalidRequest, "requests is a NoneType, not a list"),
    ({"requests": {"prompt": "p"}}, InvalidRequest, "put it into a list"),
    ({"requests": {"p"}}, InvalidRequest, "it has no order"),
    ({"requests": ["p", " "]}, InvalidRequest, "requests[1]: prompt is blank"),
    ({"requests": [5]}, InvalidRequest, "requests[0]: is a int"),
    ({"requests": [{"id": "a"}]}, InvalidRequest, "requests[0]: has no prompt"),
    ({"requests": [{"prompt": "p", "sise": "1x1"}]}, InvalidRequest, "'sise', which means nothing here"),
    ({"requests": [{"prompt": "p", "id": ""}]}, InvalidRequest, "id '' is no id"),
    ({"requests": [{"prompt": "p", "n": 0}]}, InvalidRequest, "requests[0]: n 0 is not a number of images"),
    ({"requests": [{"prompt": "p", "size": "64x64"}]}, InvalidRequest, "try '1920x1920'"),
    ({"requests": [{"prompt": "p", "model": "wan2.7-image", "n": 5}]}, InvalidRequest, "at most 4 images"),
    ({"requests": [{"prompt": "p", "s3_key": "{sku}.png"}]}, InvalidRequest, "{id}, {index}, {sha256}"),
    ({"size": "1024x1024"}, InvalidRequest, "needs at least 3,686,400: try '1920x1920'"),
    ({"n": "two"}, InvalidRequest, "whole number from 1"),
    ({"requests": ["p"], "model": "gemini-9", "extra_body": {"n": 2}}, InvalidRequest, "may not set 'n'"),
    ({"max_cost_usd": "cheap"}, InvalidRequest, "amount in USD"),
    ({"s3_key": "{number}.png"}, InvalidRequest, "nobody fills in"),
    ({"on_existing": "overwrite"}, InvalidRequest, "'reuse' or 'regenerate' or 'fail'"),
    ({"idempotency_key": " "}, InvalidRequest, "no key"),
    ({"max_concurrency": 0}, InvalidRequest, "whole number from 1, or None"),
    ({"max_concurrency": True}, InvalidRequest, "whole number from 1, or None"),
    ({"max_failures": -1}, InvalidRequest, "neither a number of items nor a share"),
    ({"max_failures": 1.5}, InvalidRequest, "neither a number of items nor a share"),
    ({"on_item_failure": "ignore"}, InvalidRequest, "'keep' or 'fail'"),
    ({"s3_extra_args": {"Body": b""}}, InvalidRequest, "may not set Body"),
]
NAMES = [str(bad[0]) for bad in BAD]


def prompts(desk: Desk) -> list[str]:
    """Return the prompts that were paid for, in no order."""
    return sorted(entry.prompt for entry in desk.gateway.ledger)


@pytest.mark.parametrize(("arguments", "error", "words"), BAD, ids=NAMES)
def test_a_wrong_literal_fails_the_dags_import(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        SeedreamBatchOperator(**{"task_id": "t", "requests": ["p"], **arguments})

    assert words in str(caught.value)


@pytest.mark.parametrize(("arguments", "error", "words"), BAD[::4], ids=NAMES[::4])
def test_a_wrong_value_of_a_mapped_task_fails_its_instance_before_anything_is_sent(
    desk: Desk, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Instances are made when their templates are rendered, where no retry policy would be asked."""
    given = {"size": SMALL, "requests": ["p"], **arguments}
    with DAG("dag", schedule=None):
        mapped = SeedreamBatchOperator.partial(task_id="generate").expand(
            **{name: [value] for name, value in given.items()}
        )
    operator = cast("SeedreamBatchOperator", cast("Any", mapped).unmap(given))

    with pytest.raises(error) as caught:
        operator.execute(context_of(map_index=0))

    assert words in str(caught.value)
    assert desk.gateway.requests == []


def test_templates_and_outputs_of_tasks_are_checked_only_when_the_task_runs() -> None:
    with DAG("dag", schedule=None):
        output = BaseOperator(task_id="upstream").output
        for number, requests in enumerate(
            [
                "{{ params.uri }}",
                ["{{ params.prompt }}", {"prompt": "p", "size": "{{ params.size }}"}],
                [{"prompt": output}, output],
                output,
            ]
        ):
            SeedreamBatchOperator(task_id=f"t{number}", requests=cast("Any", requests))


def test_a_long_literal_list_is_checked_to_its_end_when_the_task_runs(desk: Desk) -> None:
    """A DAG's file is parsed every 30 seconds: there only the first items are looked at."""
    with pytest.raises(InvalidRequest, match=rf"requests\[{PARSED_ITEMS}\]: prompt is blank"):
        desk.run_batch([*(f"fox {number}" for number in range(PARSED_ITEMS)), ""])

    assert desk.gateway.requests == []


def test_a_list_of_prompts_has_ids_that_are_made_of_its_requests(desk: Desk) -> None:
    desk.run_batch(["A fox", "An owl"])
    first = [line["id"] for line in desk.manifest()]
    desk.s3.delete_object(Bucket=desk.bucket, Key=next(key for key in desk.all_keys() if "manifest" in key))
    desk.run_batch(["An owl", "A fox"], run_id="other")

    assert [line["id"] for line in desk.manifest()] == first[::-1]
    assert {len(item_id) for item_id in first} == {16}


def test_an_item_decides_what_it_wants_and_the_task_the_rest(desk: Desk) -> None:
    desk.run_batch(
        [
            {"prompt": "A fox", "id": "fox", "size": "2048x2048", "n": 2, "s3_key": "special/{id}"},
            {"prompt": "An owl", "id": 42},
            "A heron",
        ],
        n=1,
        s3_key="animals/{id}.{ext}",
    )

    fox, owl, heron = desk.manifest()
    assert [image["key"] for image in fox["images"]] == ["special/fox-0", "special/fox-1"]
    assert [image["size"] for image in fox["images"]] == ["2048x2048"] * 2
    assert (owl["id"], owl["images"][0]["key"], owl["images"][0]["size"]) == ("42", "animals/42.png", SMALL)
    assert heron["images"][0]["key"] == f"animals/{heron['id']}.png"
    assert desk.gateway.billed == 4


def test_an_id_becomes_part_of_a_key_that_every_tool_can_read(desk: Desk) -> None:
    desk.run_batch([{"prompt": "A fox", "id": "../größe 4"}, {"prompt": "An owl", "id": ".._gr__e_4"}])

    odd, plain = desk.manifest()
    assert odd["id"] == "../größe 4"
    assert odd["images"][0]["key"].startswith("seedream/dag/run/generate/.._gr__e_4-")
    assert plain["images"][0]["key"] == "seedream/dag/run/generate/.._gr__e_4/0.png"


def test_a_file_holds_prompts_or_objects_one_per_line(desk: Desk) -> None:
    body = '\ufeff"A fox"\r\n\n{"prompt": "An owl", "id": "owl"}'.encode()
    desk.s3.put_object(Bucket=desk.bucket, Key="requests.jsonl", Body=body)

    result = desk.run_batch(f"s3://{desk.bucket}/requests.jsonl")

    assert result["stored"] == 2
    assert desk.manifest()[1]["id"] == "owl"
    assert prompts(desk) == ["A fox", "An owl"]


def test_all_lines_of_a_long_file_are_priced_before_the_first_is_sent(desk: Desk) -> None:
    uri = desk.upload("requests.jsonl", (f"fox {number}" for number in range(2_000)))

    with pytest.raises(OverBudget, match=r"is 79\.99 USD, and 2000 image\(s\) to buy cost 80\.000 USD"):
        desk.run_batch(uri, max_cost_usd=79.99)

    assert desk.gateway.requests == []


def test_a_chunk_of_a_long_file_is_a_batch_of_its_own(desk: Desk) -> None:
    lines = ({"id": number, "prompt": f"fox {number}"} for number in range(2_000))
    chunks = chunk_requests(desk.upload("requests.jsonl", lines), size=6)

    result = desk.run_batch(chunks[123], map_index=123)

    assert (len(chunks), result["stored"], desk.gateway.billed) == (334, 6, 6)
    assert [line["id"] for line in desk.manifest()] == [str(number) for number in range(738, 744)]
    images = desk.keys()
    assert [key.rpartition("/")[0] for key in images] == [
        f"seedream/dag/run/generate/123/{number}" for number in range(738, 744)
    ]


def test_a_chunk_of_a_file_that_has_changed_since_is_refused(desk: Desk) -> None:
    uri = desk.upload("requests.jsonl", ["A fox", "An owl"])
    [chunk] = chunk_requests(uri)
    desk.upload("requests.jsonl", ["A bat", "An owl"])

    with pytest.raises(InvalidRequest, match="it has changed since"):
        desk.run_batch(chunk)

    assert desk.gateway.requests == []


def test_every_bad_item_is_counted_and_the_first_twenty_are_told_in_one_error(desk: Desk) -> None:
    lines: list[object] = [f"fox {number}" for number in range(2_000)]
    for number in range(100, 2_000, 75):
        lines[number] = {"prompt": f"secret fox {number}", "size": "640x480"}
    uri = desk.upload("requests.jsonl", lines)

    with pytest.raises(InvalidRequest) as caught:
        desk.run_batch(uri)

    first, *told, last = str(caught.value).splitlines()
    assert first == "26 of 2,000 items are wrong; the first 20:"
    assert [line.partition(":")[0] for line in told] == [f"line {101 + 75 * number}" for number in range(20)]
    assert last == "Nothing was sent."
    assert "secret" not in str(caught.value)
    assert desk.gateway.requests == []


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        (["A fox", "A fox"], r"requests\[1\]: is the same request as requests\[0\]"),
        (
            [{"prompt": "A fox", "id": 1}, {"prompt": "A bat", "id": "1"}],
            r"requests\[1\]: has the id '1', as requests\[0\] has",
        ),
        (
            [{"prompt": "A fox", "s3_key": "hero.png"}, {"prompt": "A bat", "s3_key": "hero.png"}],
            r"requests\[1\]: would overwrite the images of requests\[0\] in 'hero.png': put \{id\}",
        ),
        ([{"prompt": "A fox", "s3_key": "s3://elsewhere/"}], "names bucket 'elsewhere'"),
    ],
)
def test_items_that_would_get_in_each_others_way_are_refused(
    desk: Desk, requests: object, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        desk.run_batch(requests)

    assert desk.gateway.requests == []


def test_two_items_that_share_their_s3_key_by_default_are_refused(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match=r"would overwrite .* put \{id\} into s3_key"):
        desk.run_batch(["A fox", "A bat"], s3_key="hero.png")

    assert desk.gateway.requests == []


def render(operator: SeedreamBatchOperator, **context: object) -> None:
    operator.render_template_fields(cast("Context", {**cast("Mapping[str, Any]", context_of()), **context}))


def test_a_literal_list_is_rendered_item_by_item(desk: Desk) -> None:
    operator = SeedreamBatchOperator(
        task_id="generate",
        size=SMALL,
        requests=[
            "A {{ params.animal }}",
            {"prompt": "Two {{ params.animal }}s", "id": "{{ params.animal }}", "n": "{{ params.n }}"},
        ],
    )
    render(operator, params={"animal": "fox", "n": 2})
    operator.execute(context_of())

    assert prompts(desk) == ["A fox", "Two foxs"]
    assert (desk.manifest()[1]["id"], desk.gateway.billed) == ("fox", 3)


def test_a_templates_uri_is_read_and_its_lines_are_not_rendered(desk: Desk) -> None:
    desk.upload("2026/requests.jsonl", ["A fox in {{ braces }}"])
    operator = SeedreamBatchOperator(
        task_id="generate", size=SMALL, requests=f"s3://{desk.bucket}/{{{{ params.year }}}}/requests.jsonl"
    )
    render(operator, params={"year": 2026})
    operator.execute(context_of())

    assert prompts(desk) == ["A fox in {{ braces }}"]


@needs_3_0  # 2.11 asks the database for what is given here
def test_what_another_task_returned_is_not_rendered_again(desk: Desk) -> None:
    with DAG("dag", schedule=None):
        output = BaseOperator(task_id="upstream").output
        operator = SeedreamBatchOperator(task_id="generate", size=SMALL, requests=cast("Any", output))
    returned = ["A fox in {{ braces }}", {"prompt": "{% raw %}", "id": "{{ id }}"}]
    context = context_of()
    cast("Any", context["ti"]).xcom_pull = lambda **_: returned
    operator.render_template_fields(context)
    operator.execute(context)

    assert prompts(desk) == ["A fox in {{ braces }}", "{% raw %}"]
    assert desk.manifest()[1]["id"] == "{{ id }}"


def test_a_missing_file_is_an_error_that_says_so(desk: Desk) -> None:
    with pytest.raises(StorageFailed, match=r"^Correct the URI of requests, .* there is no such file"):
        desk.run_batch(f"s3://{desk.bucket}/no-such-file.jsonl")

    assert desk.gateway.requests == []


def test_a_missing_bucket_is_found_before_anything_is_paid(desk: Desk) -> None:
    with pytest.raises(StorageFailed, match=r"^Create the bucket, .* S3 says NoSuchBucket"):
        desk.run_batch(["A fox"], s3_bucket="no-such-bucket")

    assert desk.gateway.requests == []


def test_a_bucket_that_may_not_be_written_is_found_before_anything_is_paid(desk: Desk) -> None:
    connection = desk.store.airflow_connection(bucket=desk.bucket, read_only=True)
    desk.monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection)

    with pytest.raises(StorageFailed, match=r"^Allow the AWS connection s3:GetObject and s3:PutObject there"):
        desk.run_batch(["A fox"])

    assert desk.gateway.requests == []


def test_a_wrong_connection_is_found_before_anything_is_paid(desk: Desk) -> None:
    connection = {**json.loads(desk.gateway.connection), "password": ""}
    desk.monkeypatch.setenv("AIRFLOW_CONN_AISA_DEFAULT", json.dumps(connection))

    with pytest.raises(InvalidConnection, match="is empty: put the AIsa API key there"):
        desk.run_batch(["A fox"])

    assert desk.gateway.requests == []


def test_a_model_without_a_price_needs_one_in_the_connection_to_have_a_budget(desk: Desk) -> None:
    request = {"prompt": "A fox", "model": "seedream-9"}

    with pytest.raises(InvalidRequest, match=r"requests\[0\]: Add \"prices\": .* the price of model"):
        desk.run_batch([request], max_cost_usd=1)

    assert [request.path for request in desk.gateway.requests] == ["/v1/models"]


def test_unknown_models_are_passed_on_with_one_warning_each(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [{"prompt": f"fox {number}", "model": "seedream-9"} for number in range(3)]

    result = desk.run_batch(requests, on_item_failure="keep")

    assert result["errors"] == {"InvalidRequest": 3}  # The sandbox does not know it either.
    assert capsys.readouterr().out.count("'seedream-9' is not known here") == 1
