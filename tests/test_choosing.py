"""Which image a person has chosen, and what they see before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.choosing import choices, chosen, options, others
from airflow_provider_aisa.exceptions import InvalidRequest
from tests.operators.conftest import Desk, desk

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["desk"]

IMAGES: Sequence[dict[str, Any]] = [{"key": f"shop/{index}.png", "index": index} for index in range(4)]
RESULT = {"images": IMAGES}


def test_options_are_numbered_as_people_count() -> None:
    assert options(3) == ["Image 1", "Image 2", "Image 3"]


@pytest.mark.parametrize(
    "answer",
    [
        {"chosen_options": ["Image 3"], "params_input": {}, "responded_by_user": {"id": "1", "name": "Ada"}},
        ["Image 3"],
        "Image 3",
    ],
)
def test_an_answer_means_the_image_at_that_place(answer: object) -> None:
    assert chosen(RESULT, answer) is IMAGES[2]
    assert others(RESULT, answer) == [IMAGES[0], IMAGES[1], IMAGES[3]]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"chosen_options": []}, "the answer is none"),
        ({"chosen_options": ["Image 1", "Image 2"]}, "the answer is Image 1, Image 2"),
        ({"chosen_options": ["Approve"]}, "choose one of Image 1, Image 2, Image 3, Image 4"),
        (["Image 5"], "the answer is Image 5"),
        (None, "the answer is none"),
    ],
)
def test_an_answer_that_means_no_one_image_is_an_error(answer: object, words: str) -> None:
    """Nothing is deleted for an answer that nobody understands."""
    for ask in (chosen, others):
        with pytest.raises(InvalidRequest, match=words):
            ask(RESULT, answer)


def test_a_person_sees_each_image_with_its_size_and_where_to_look(desk: Desk) -> None:
    result = desk.run(n=2, s3_key="shop/hero_[x]/{index}.{ext}")

    shown = choices(result).split("\n\n")

    first = result["images"][0]
    address = f"{desk.store.endpoint_url}/{desk.bucket}/shop/hero_%5Bx%5D/0.png"
    assert shown[0] == f"**Image 1**: [0.png]({address}), 2048x2048, {first['bytes'] / 1024:,.0f} KiB"
    assert shown[1].startswith("**Image 2**: [1.png](")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], Any]:
    """Let a task of run `a b` run after others; return what those have left, by their task and map index."""
    left: dict[tuple[str, int], Any] = {}
    ti = SimpleNamespace(
        dag_id="dag",
        run_id="a b",
        map_index=2,
        xcom_pull=lambda *, task_ids, map_indexes: left.get((task_ids, map_indexes)),
    )
    context = {"ti": ti, "task": SimpleNamespace(upstream_task_ids={"prompts", "generate"})}
    monkeypatch.setattr("airflow_provider_aisa.choosing.get_current_context", lambda: context)
    return left


@pytest.mark.parametrize(("map_index", "said"), [(-1, ""), (2, "map_index=2&")])
def test_images_of_a_task_before_are_shown_by_the_gallery(
    desk: Desk, ran: dict[tuple[str, int], Any], map_index: int, said: str
) -> None:
    result = desk.run(n=2)
    ran |= {("prompts", -1): ["A panda"], ("generate", map_index): result}

    names, line, pictures, links = choices(result).splitlines()

    address = f"aisa/thumbnail?dag_id=dag&run_id=a%20b&task_id=generate&{said}index=0"
    first = result["images"][0]
    assert names == "| Image 1 | Image 2 |"
    assert line == "| --- | --- |"
    assert pictures.startswith(f"| ![Image 1]({address}&v={first['sha256'][:16]}) | ![Image 2](")
    assert links.startswith(f"| [0.png]({desk.store.endpoint_url}/{desk.bucket}/")


@pytest.mark.parametrize(("images", "rows"), [(1, [1]), (3, [3]), (4, [2, 2]), (7, [3, 3, 1])])
def test_images_are_shown_in_rows_that_fit_a_tab(
    desk: Desk, ran: dict[tuple[str, int], Any], images: int, rows: list[int]
) -> None:
    result = ran["generate", -1] = desk.run(n=images)

    assert [row.count("![") for row in choices(result).split("\n\n")] == rows


def test_result_of_another_run_is_shown_as_links(desk: Desk, ran: dict[tuple[str, int], Any]) -> None:
    """The gallery serves what stands in this run's own results."""
    result = desk.run()
    ran["generate", -1] = {**result, "journal_uri": "s3://elsewhere/_aisa/x.json"}

    assert choices(result).startswith("**Image 1**: [0.png](")


def test_before_airflow_3_1_images_are_shown_as_links(
    desk: Desk, ran: dict[tuple[str, int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_aisa.choosing.AIRFLOW_V_3_1_PLUS", False)
    result = ran["generate", -1] = desk.run()

    assert choices(result).startswith("**Image 1**: [0.png](")


def test_what_a_person_sees_opens_for_nobody_who_may_not_see_it(desk: Desk) -> None:
    shown = choices(desk.run())

    for secret in ("Signature", "X-Amz", desk.store.secret_key):
        assert secret not in shown
