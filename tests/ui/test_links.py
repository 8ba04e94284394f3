"""Addresses of images, for other people's pages."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_aisa.ui.links import image_url, image_urls


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_an_address_names_who_made_the_image_and_never_where_it_is() -> None:
    result = {
        "images": [{"index": index, "key": "secret/key", "sha256": str(index) * 64} for index in (0, 1)]
    }
    urls = image_urls(result, dag_id="d", run_id="r", task_id="t", map_index=3)

    expected = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "3"}
    assert [query_of(url) for url in urls] == [
        {**expected, "index": "0", "v": "0" * 16},
        {**expected, "index": "1", "v": "1" * 16},
    ]


def test_an_address_is_relative_so_that_it_works_behind_any_base_url() -> None:
    assert image_url("d", "r", "t") == "aisa/image?dag_id=d&run_id=r&task_id=t&index=0"


@pytest.mark.parametrize(
    "text", ["manual__2026-11-25T08:55:25+00:00", "a)b](c", "a b&c=d", "ü/☃", '"><script>']
)
def test_no_id_can_end_an_address_in_markdown_or_html(text: str) -> None:
    url = image_url("d", text, "t", item=text)

    assert set(url) & set("()[]<>\"' ") == set()
    assert (query_of(url)["run_id"], query_of(url)["item"]) == (text, text)
