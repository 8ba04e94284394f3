"""Addresses of images, for other people's pages."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_aisa.ui.links import image_url, task_path


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_an_address_names_who_made_the_image_and_never_where_it_is() -> None:
    url = image_url("d", "r", "t", map_index=3, index=1, sha256="1" * 64, is_small=True)

    assert url.startswith("aisa/thumbnail?")
    assert query_of(url) == {
        "dag_id": "d",
        "run_id": "r",
        "task_id": "t",
        "map_index": "3",
        "index": "1",
        "v": "1" * 16,
    }


def test_the_path_of_a_tab_is_that_of_airflows_own_router() -> None:
    """It highlights a tab only when its address is the same to the letter."""
    path = task_path("d", "manual__2026-11-25T08:55:25+00:00", "t", 2)

    assert (
        path == "/dags/d/runs/manual__2026-11-25T08:55:25+00:00/tasks/t/mapped/2/plugin/images-task-instance"
    )
    assert task_path("d", "a/b", "t") == "/dags/d/runs/a%2Fb/tasks/t/plugin/images-task-instance"


def test_an_address_is_relative_so_that_it_works_behind_any_base_url() -> None:
    assert image_url("d", "r", "t") == "aisa/image?dag_id=d&run_id=r&task_id=t&index=0"


@pytest.mark.parametrize(
    "text", ["manual__2026-11-25T08:55:25+00:00", "a)b](c", "a b&c=d", "ü/☃", '"><script>']
)
def test_no_id_can_end_an_address_in_markdown_or_html(text: str) -> None:
    url = image_url("d", text, "t", item=text)

    assert set(url) & set("()[]<>\"' ") == set()
    assert (query_of(url)["run_id"], query_of(url)["item"]) == (text, text)
