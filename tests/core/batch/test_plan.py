"""The plan finds whatever two items would do to each other, and hands out first what may be paid for."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aisa.core.batch.plan import Item, Plan
from airflow_provider_aisa.core.batch.source import RawRequest
from airflow_provider_aisa.core.batch.spec import BatchSpec
from airflow_provider_aisa.core.gateway.models import DEFAULT_MODEL
from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.exceptions import InvalidRequest
from tests.core.batch.scene import items, make_spec

SECRET = "a prompt that nobody else may read"


@contextmanager
def planned(folder: Path, requests: Iterable[object], **changes: Any) -> Iterator[tuple[BatchSpec, Plan]]:
    spec = make_spec(**changes)
    raws = (RawRequest(f"requests[{index}]", value) for index, value in enumerate(requests))
    with spec.plan(raws, folder) as plan:
        yield spec, plan


def refusal_of(folder: Path, requests: Iterable[object], **changes: Any) -> str:
    with pytest.raises(InvalidRequest) as caught, planned(folder, requests, **changes):
        pass
    return str(caught.value)


def left_of(plan: Plan) -> list[str]:
    return [planned.item.id for planned in plan.left()]


def item_of(plan: Plan) -> Item:
    """Return the one item that is left."""
    [planned] = plan.left()
    return planned.item


def journal_of(spec: BatchSpec, plan: Plan, item_id: str) -> str:
    """Return the name of an item's entry, as its job writes it."""
    [item] = [planned.item for planned in plan.left() if planned.item.id == item_id]
    return spec.job(item).journal_key.removeprefix(spec.layout.entries)


def test_an_item_comes_out_as_it_went_in(tmp_path: Path) -> None:
    requests = [{"id": "ä", "prompt": 'A "fox" \u2028', "n": 3, "size": "1920x1920", "s3_key": "x/{id}/"}]
    with planned(tmp_path, requests, prices={DEFAULT_MODEL: Decimal("0.0333")}) as (spec, plan):
        [planned_item] = plan.left()
        item, expected = planned_item.item, spec.defaults.read(requests[0])
        assert (item.id, item.request, item.target) == (expected.id, expected.request, expected.target)
        assert (item.price_usd, item.cost_usd) == (Decimal("0.0333"), Decimal("0.0999"))
        assert item.request.fingerprint() == expected.request.fingerprint()
        assert (planned_item.position, planned_item.has_entry) == (0, False)


def test_an_item_whose_price_nobody_knows_costs_nothing_for_now(tmp_path: Path) -> None:
    with planned(tmp_path, [{"prompt": "p", "model": "new"}]) as (_, plan):
        item = item_of(plan)
        assert (item.price_usd, item.cost_usd) == (None, Decimal(0))


def test_a_plan_is_closed_with_its_batch_and_when_its_items_are_wrong(tmp_path: Path) -> None:
    with planned(tmp_path, ["a"]) as (_, plan):
        pass
    with pytest.raises(sqlite3.ProgrammingError):
        left_of(plan)
    again = tmp_path / "again"
    again.mkdir()
    refusal_of(again, [7])
    # Nobody holds the file of the one that was refused: it can be made anew.
    with planned(again_in(again), ["a"]) as (_, plan):
        assert plan.total == 1


def again_in(folder: Path) -> Path:
    (folder / "plan.sqlite").unlink()
    return folder


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        ({"id": "a", "prompt": "1"}, {"id": "a", "prompt": "2"}, "has the id 'a', as requests[0] has"),
        ({"id": 7, "prompt": "1"}, {"id": "7", "prompt": "2"}, "has the id '7', as requests[0] has"),
        ("p", "p", "is the same request as requests[0]: drop one, or give both ids to pay twice"),
        ("p", {"prompt": "p", "n": "1", "id": None}, "is the same request as requests[0]"),
        (
            {"prompt": "p", "s3_key": "a.png"},
            {"prompt": "p", "s3_key": "b.png"},
            "is the same request as requests[0]",
        ),
    ],
)
def test_duplicates_are_refused_with_both_places(
    tmp_path: Path, one: object, other: object, problem: str
) -> None:
    message = refusal_of(tmp_path, [one, "in between", other])
    assert message.startswith("1 of 3 items are wrong:\nrequests[2]: ")
    assert problem in message
    assert message.endswith("\nNothing was sent.")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"id": "a", "prompt": "p"}, {"id": "b", "prompt": "p"}),
        ({"id": "a", "prompt": "p"}, {"prompt": "p"}),
        ("p", {"prompt": "p", "n": 2}),
        ("p", {"prompt": "p", "size": "2048x2049"}),
        ("p", {"prompt": "p", "model": "another"}),
    ],
)
def test_requests_that_differ_in_an_id_or_in_what_they_generate_are_both_bought(
    tmp_path: Path, one: object, other: object
) -> None:
    with planned(tmp_path, [one, other]) as (_, plan):
        assert plan.total == 2


@pytest.mark.parametrize(
    ("s3_key", "requests", "key"),
    [
        ("out/a.png", ["1", "2"], "out/a.png"),
        ("out/{index}.{ext}", ["1", "2"], "out/0.{ext}"),
        ("out/{index}.{ext}", [{"prompt": "1", "n": 3}, "2"], "out/0.{ext}"),
        ("{id}.{ext}", [{"id": "a", "prompt": "1", "n": 2}, {"id": "a-1", "prompt": "2"}], "a-1.{ext}"),
        ("{id}.{ext}", [{"id": "a-1", "prompt": "1"}, {"id": "a", "prompt": "2", "n": 2}], "a-1.{ext}"),
        ("{id}.{ext}", [{"id": "a", "prompt": "1"}, {"prompt": "2", "s3_key": "a.{ext}"}], "a.{ext}"),
        ("to/", [{"id": "a", "prompt": "1"}, {"prompt": "2", "s3_key": "to/a/"}, "3"], None),
        (
            "to/",
            [{"prompt": "1", "s3_key": "x.png"}, {"prompt": "2", "s3_key": "s3://bucket/x.png"}],
            "x.png",
        ),
        ("to/{sha256}.{ext}", ["1", "2"], None),
        ("to/{index}-{sha256}.png", [{"prompt": "1", "n": 2}, {"prompt": "2", "n": 2}], None),
        ("to/a.png", ["1", {"prompt": "2", "s3_key": "{sha256}.png"}], None),
        ("to/a.png", ["1", {"prompt": "2", "s3_key": "to/b.png"}], None),
        ("{id}.{ext}", [{"id": "a", "prompt": "1", "n": 2}, {"id": "a-2", "prompt": "2"}], None),
    ],
)
def test_images_that_would_overwrite_each_other_are_found_before_they_are_paid_for(
    tmp_path: Path, s3_key: str, requests: list[object], key: str | None
) -> None:
    if key is None:
        with planned(tmp_path, requests, s3_key=s3_key) as (_, plan):
            assert plan.total == len(requests)
    else:
        message = refusal_of(tmp_path, requests, s3_key=s3_key)
        assert (
            f"requests[1]: would overwrite the images of requests[0] in {key!r}: "
            "put {id} into s3_key, and {index}" in message
        )


def test_a_key_with_its_ending_and_one_that_gets_the_same_ending_collide(tmp_path: Path) -> None:
    requests = [{"prompt": "1", "s3_key": "a.png"}, {"prompt": "2", "s3_key": "a.{ext}"}]
    assert "would overwrite the images of requests[0]" in refusal_of(tmp_path, requests)


IDS = st.sampled_from(["a", "b", "a-0", "a-1", "b-0", "a-0-0", "0"])
KEYS = st.sampled_from([None, "{id}.{ext}", "{id}-{index}.{ext}", "{index}.{ext}", "a.{ext}", "{id}/"])
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.text("pq", min_size=1), "id": IDS, "n": st.integers(1, 3), "s3_key": KEYS}
    ),
    min_size=1,
    max_size=5,
)


@given(REQUESTS)
def test_a_plan_accepts_items_if_all_their_ids_and_all_keys_of_their_images_differ(
    tmp_path_factory: pytest.TempPathFactory, requests: list[object]
) -> None:
    everything = [make_spec(s3_key="{id}.{ext}").defaults.read(raw) for raw in requests]
    ids = [item.id for item in everything]
    keys = [
        item.target.key(index=index, ext="png", sha256="", several=item.request.n > 1)
        for item in everything
        for index in range(item.request.n)
    ]
    differ = len(set(ids)) == len(ids) and len(set(keys)) == len(keys)
    try:
        with planned(tmp_path_factory.mktemp("plan"), requests, s3_key="{id}.{ext}") as (_, plan):
            assert left_of(plan) == ids
            assert differ
    except InvalidRequest:
        assert not differ


def test_an_item_that_was_refused_itself_is_not_taken_for_its_successor(tmp_path: Path) -> None:
    requests = [
        {"id": "a", "prompt": "1", "s3_key": "x-1.png"},
        {"id": "b", "prompt": "2", "s3_key": "x.png", "n": 2},  # x-0.png, and x-1.png, which is taken
        {"id": "c", "prompt": "3", "s3_key": "c.png"},
        {"id": "d", "prompt": "4", "s3_key": "x-0.png"},
    ]
    assert "the images of requests[2]" not in refusal_of(tmp_path, requests)


def test_every_wrong_item_is_told_in_one_error(tmp_path: Path) -> None:
    requests = ["a", 7, {"prompt": "b", "size": "1x1"}, "a", {"prompt": "c", "s3_key": "s3://other/"}]
    message = refusal_of(tmp_path, requests)
    head, *problems, tail = message.splitlines()
    assert (head, tail) == ("4 of 5 items are wrong:", "Nothing was sent.")
    assert [problem.partition(": ")[0] for problem in problems] == [
        "requests[1]",
        "requests[2]",
        "requests[3]",
        "requests[4]",
    ]


def test_of_thousands_of_wrong_items_twenty_are_told_and_all_are_counted(tmp_path: Path) -> None:
    requests = [SECRET, *({"prompt": SECRET, "n": 0, "id": index} for index in range(1_233)), "b"]
    message = refusal_of(tmp_path, requests)
    head, *problems, tail = message.splitlines()
    assert (head, tail) == ("1,233 of 1,235 items are wrong; the first 20:", "Nothing was sent.")
    assert len(problems) == 20
    assert problems[0].startswith("requests[1]: n 0 is not a number of images")
    assert problems[-1].startswith("requests[20]: ")
    assert SECRET not in message


def test_exactly_twenty_wrong_items_are_all_told(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, [7] * 20)
    assert message.startswith("20 of 20 items are wrong:\n")
    assert message.count("is a int") == 20


def test_a_line_that_is_no_json_is_one_of_the_wrong_items(tmp_path: Path) -> None:
    raws = [RawRequest("line 1", "a"), RawRequest("line 2", InvalidRequest("is not JSON: words"))]
    with pytest.raises(InvalidRequest, match=r"1 of 2 items are wrong:\nline 2: is not JSON: words\n"):
        make_spec().plan(raws, tmp_path)


def test_an_error_while_reading_is_told_as_it_is_and_closes_the_plan(tmp_path: Path) -> None:
    def raws() -> Iterator[RawRequest]:
        yield RawRequest("line 1", "a")
        raise InvalidRequest("the file broke off")

    with pytest.raises(InvalidRequest, match=r"^the file broke off$"):
        make_spec().plan(raws(), tmp_path)


def test_no_refusal_of_a_plan_holds_a_prompt(tmp_path: Path) -> None:
    requests: list[object] = [
        SECRET,
        SECRET,
        {"prompt": SECRET},
        {"prompt": SECRET, "id": "a"},
        {"prompt": SECRET, "id": "a"},
        {"prompt": SECRET, "id": "c", "model": "new"},
        {"prompt": SECRET, "id": "d", "s3_key": "x.png"},
        {"prompt": SECRET, "id": "e", "s3_key": "x.png"},
        [SECRET],
    ]
    message = refusal_of(tmp_path, requests, max_cost_usd=Decimal(1))
    assert message.startswith("6 of 9 items are wrong")
    assert SECRET not in message


def test_an_item_without_a_known_price_is_refused_when_there_is_a_budget(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, [{"prompt": "a", "model": "new"}], max_cost_usd=Decimal(1))
    assert 'requests[0]: Add "prices": {"new": 0.04} to the AIsa connection' in message


def test_a_price_of_the_connection_makes_an_unknown_model_affordable(tmp_path: Path) -> None:
    with planned(
        tmp_path,
        [{"prompt": "a", "model": "new"}],
        max_cost_usd=Decimal(1),
        prices={"new": Decimal("0.5")},
    ) as (_, plan):
        assert item_of(plan).cost_usd == Decimal("0.5")


def test_unknown_models_are_told_once_each(tmp_path: Path) -> None:
    requests = [{"prompt": str(index), "model": f"new-{index % 2}"} for index in range(6)]
    with planned(tmp_path, [*requests, "known"]) as (_, plan):
        assert plan.unknown_models == {"new-0", "new-1"}


def test_a_number_of_images_beyond_all_measure_is_one_of_the_wrong_items(tmp_path: Path) -> None:
    assert "requests[0]: " in refusal_of(tmp_path, [{"prompt": "a", "n": 10**20}])


def test_of_an_item_with_thousands_of_images_the_first_hundred_keys_are_compared(tmp_path: Path) -> None:
    requests = [{"prompt": "a", "n": 5_000, "s3_key": "x-{index}.png"}]
    for key, is_found in (("x-99.png", True), ("x-100.png", False)):
        folder = tmp_path / key
        folder.mkdir()
        both = [*requests, {"prompt": "b", "s3_key": key}]
        if is_found:
            assert "would overwrite" in refusal_of(folder, both)
        else:
            with planned(folder, both) as (_, plan):
                assert plan.total == 2


def test_items_with_an_entry_come_first_and_each_kind_in_its_order(tmp_path: Path) -> None:
    with planned(tmp_path, items(450)) as (spec, plan):
        found = {"i3", "i200", "i449"}
        names = [journal_of(spec, plan, item_id) for item_id in found]
        plan.mark_found([*names, "somebody-elses.json"])
        everything = [item["id"] for item in items(450)]
        first = [item_id for item_id in everything if item_id in found]
        rest = [item_id for item_id in everything if item_id not in found]
        assert left_of(plan) == first + rest
        assert {one.item.id for one in plan.left() if one.has_entry} == found
        assert [one.item.id for one in plan.with_entry()] == first


def test_what_is_settled_is_not_left_even_while_the_rest_is_handed_out(tmp_path: Path) -> None:
    with planned(tmp_path, items(350)) as (_, plan):
        seen = []
        for one in plan.left():
            seen.append(one.item.id)
            plan.settle(one.position, f"line of {one.item.id}")
        assert seen == [item["id"] for item in items(350)]
        assert left_of(plan) == []
        assert list(plan.lines()) == [(item_id, f"line of {item_id}") for item_id in seen]


def test_items_are_settled_whose_expected_images_have_all_been_seen(tmp_path: Path) -> None:
    with planned(tmp_path, items(250)) as (_, plan):
        for position in range(250):
            keys = [f"{position:03}/{index}" for index in range(2)]
            plan.expect(position, f"line {position}", [(key, f"etag {key}") for key in keys])
        assert plan.next_expected("") == "000/0"
        seen = [
            (f"{position:03}/{index}", f"etag {position:03}/{index}")
            for position in range(200)
            for index in range(2)
        ]
        plan.see([*seen[:-1], ("foreign", "etag"), ("248/0", "another etag"), ("249/0", "etag 249/0")])
        assert plan.next_expected("") == "199/1"
        assert plan.next_expected("199/1") == "200/0"
        assert plan.next_expected("249/1") is None
        assert list(plan.settle_expected()) == [f"line {position}" for position in range(199)]
        assert left_of(plan) == [f"i{position}" for position in range(199, 250)]


def test_lines_come_in_the_order_of_the_input_whatever_came_first(tmp_path: Path) -> None:
    with planned(tmp_path, items(3)) as (_, plan):
        plan.settle(2, "last")
        plan.settle(0, "first")
        assert list(plan.lines()) == [("i0", "first"), ("i1", None), ("i2", "last")]


def test_only_what_has_no_entry_and_is_not_settled_is_new(tmp_path: Path) -> None:
    requests = [{"prompt": name, "id": name, "n": n} for name, n in (("a", 1), ("b", 2), ("c", 4), ("d", 8))]
    with planned(tmp_path, requests, prices={DEFAULT_MODEL: Decimal("0.10")}) as (spec, plan):
        assert plan.new_cost() == (Decimal("1.50"), 15)
        plan.mark_found([journal_of(spec, plan, "b")])
        plan.settle(2, "line")
        assert plan.new_cost() == (Decimal("0.90"), 9)
        plan.settle(0, "line")
        plan.settle(3, "line")
        assert plan.new_cost() == (Decimal(0), 0)


def test_entries_of_no_item_are_strangers_and_the_lines_about_them_come_last(tmp_path: Path) -> None:
    names = [f"{number:03}.json" for number in range(250)]
    with planned(tmp_path, ["p"]) as (spec, plan):
        own = journal_of(spec, plan, item_of(plan).id)
        plan.mark_found([*reversed(names), own, names[7]])
        assert list(plan.strangers()) == names
        for name in plan.strangers():
            if name in {names[200], names[3]}:
                plan.tell_stranger(name, f"line of {name}")
        plan.settle(0, "line of the item")
        assert [line for _, line in plan.lines()] == [
            "line of the item",
            f"line of {names[3]}",
            f"line of {names[200]}",
        ]


def test_memory_does_not_grow_with_the_number_of_items(tmp_path: Path) -> None:
    # Python's own memory; SQLite keeps a fixed cache.
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        requests = ({"id": f"i{number}", "prompt": f"i{number} {'x' * 1_000}"} for number in range(count))
        tracemalloc.start()
        try:
            with planned(folder, requests) as (_, plan):
                for one in plan.left():
                    plan.settle(one.position, "x" * 1_000)
                assert sum(1 for _ in plan.lines()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(3_000) < 2 * peak(300)


def test_a_job_is_made_of_the_item_and_of_what_is_the_same_for_all(tmp_path: Path) -> None:
    arguments = {"on_partial": "keep", "s3_extra_args": {"ACL": "private"}, "delivery": "at-most-once"}
    with planned(tmp_path, [{"id": "a", "prompt": "p"}], **arguments) as (spec, plan):
        item = item_of(plan)
        job = spec.job(item)
        assert (job.request, job.target, job.price_usd) == (item.request, item.target, item.price_usd)
        assert (job.on_partial, job.policy.delivery) == ("keep", "at-most-once")
        assert (job.buyer, job.s3_extra_args) == (spec.buyer, {"ACL": "private"})
        assert job.journal_key == f"{spec.layout.entries}{item.journal}"
        assert job.batch is not None
        assert job.batch.item_id == "a"
        assert Job.from_dict(job.to_dict()) == job
