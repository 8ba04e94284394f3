"""The lines of a batch keep their order, their numbers and their figures, however many there are."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_aisa.ui import lines as module
from airflow_provider_aisa.ui.lines import LONGEST_LINE, Lines


def line(number: int, *, images: int = 1, status: str = "stored", **more: Any) -> bytes:
    """Return an item's line as a manifest has it."""
    some = [
        {
            "index": n,
            "bucket": "b",
            "key": f"{number}/{n}.png",
            "width": 1,
            "height": 1,
            "bytes": 1,
            "sha256": f"{n:064x}",
        }
        for n in range(images)
    ]
    error = {"error": "ContentRefused", "message": "refused"} if status == "failed" else {}
    document = {
        "id": f"item-{number}",
        "status": status,
        "images": some,
        "cost_usd": 0.04 * images,
        **error,
        **more,
    }
    return json.dumps(document).encode()


def test_tiles_are_numbered_through_images_and_failures() -> None:
    lines = Lines()
    for text in (
        line(0, images=2),
        line(1, status="failed", images=0),
        line(2, status="not_sent", images=0),
        line(3),
    ):
        lines.add(text)
    lines.add(line(4, status="failed", images=1))  # it failed, and one of its images is stored all the same

    shown = [(found.id, position) for found, position in map(lines.tile, range(lines.tiles))]
    assert shown == [
        ("item-0", 0),
        ("item-0", 1),
        ("item-1", None),
        ("item-3", 0),
        ("item-4", 0),
        ("item-4", None),
    ]
    failures = [lines.tile(number, only_failures=True)[0].id for number in range(lines.failures)]
    assert failures == ["item-1", "item-4"]


def test_the_figures_are_the_sum_of_the_lines() -> None:
    lines = Lines.read(
        [
            line(0, images=2, reused=True),
            line(1, status="failed", images=0, unknown_outcomes=2, cost_usd=0.0),
            line(2, status="not_sent", images=0, cost_usd=0.0),
            line(3, cost_usd=None),
        ],
        most_bytes=10**6,
    )
    tally = lines.tally

    assert (tally.items, tally.stored, tally.failed, tally.not_sent) == (4, 2, 1, 1)
    assert (tally.images, tally.reused, tally.refused, tally.unknown_outcomes) == (3, 1, 1, 2)
    assert (tally.cost_usd, tally.unpriced) == (0.08, 1)


def test_ten_thousand_lines_are_found_by_number_and_by_id() -> None:
    lines = Lines.read((line(number) for number in range(10_000)), most_bytes=10**8)

    for number in (0, 1, 4_999, 9_999):
        assert lines.tile(number)[0].id == f"item-{number}"
        found = lines.find(f"item-{number}")
        assert found is not None
        assert found.purchase.pictures[0].place.key == f"{number}/0.png"
    assert lines.find("item-10000") is None


def test_purchases_that_no_request_asks_for_any_more_make_no_tiles() -> None:
    lines = Lines.read([line(0, status="unmatched"), line(1)], most_bytes=10**6)

    assert (lines.tiles, lines.tally.items) == (1, 1)


def test_a_manifest_is_read_only_as_far_as_it_fits(monkeypatch: Any) -> None:
    length = len(line(1))
    assert Lines.read(map(line, range(1, 9)), most_bytes=3 * length).tiles == 3
    monkeypatch.setattr(module, "MOST_LINES", 5)
    assert Lines.read(map(line, range(9)), most_bytes=10**6).tiles == 5
    too_long = line(0, message="x" * LONGEST_LINE)
    assert Lines.read([too_long, line(1)], most_bytes=10**7).tiles == 1
