"""Sixty items over three families, a refusal in each, and a process that dies in the middle: one bill."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from airflow_provider_aisa.core.gateway.models import MODELS
from tests.core.batch.scene import Scene
from tests.fakes.gateway import CONTENT_REFUSED

SEEDREAM, WAN, GEMINI = "seedream-4-5-251128", "wan2.7-image", "gemini-3-pro-image-preview"
COUNT: Final = 60
REFUSED: Final = {"i3", "i4", "i5"}  # one of each family


class Killed(BaseException):
    """Stands for SIGKILL: whatever the process does after it fails with this."""


def requests() -> list[dict[str, Any]]:
    models = [SEEDREAM, WAN, GEMINI]
    return [
        {"id": f"i{number}", "prompt": f"i{number}", "model": models[number % 3]} for number in range(COUNT)
    ]


def test_sixty_items_of_three_families_survive_a_kill_with_one_bill(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.gateway.script = {prompt: [CONTENT_REFUSED] * 9 for prompt in REFUSED}

    def die(_operation: str, _key: str) -> None:
        if len(scene.gateway.sent) >= COUNT // 2:
            raise Killed

    scene.on_store = die
    with pytest.raises(Killed):
        scene.run(requests())
    assert 0 < scene.gateway.billed < COUNT
    scene.outdate_claims()
    scene.on_store = lambda _operation, _key: None
    result = scene.run(requests(), on_item_failure="keep")

    assert (result["items"], result["stored"], result["failed"]) == (COUNT, COUNT - 3, 3)
    assert result["errors"] == {"ContentRefused": 3}
    statuses = scene.statuses()
    assert {item for item, status in statuses.items() if status == "failed"} == REFUSED
    # What was billed is what was received, and what is said to be unknown.
    stored = result["images"]
    assert stored <= scene.gateway.billed <= stored + result["unknown_outcomes"]
    prices = {model: spec.price_usd or Decimal(0) for model, spec in MODELS.items()}
    lines = {line["id"]: line for line in scene.manifest}
    for request in requests():
        line = lines[request["id"]]
        assert line["cost_usd"] == pytest.approx(float(prices[request["model"]]) * len(line["images"]))
        assert scene.gateway.generated[request["prompt"]] <= len(line["images"]) + line["unknown_outcomes"]
    journals = [found.body for key, found in scene.s3.objects.items() if key.endswith(".json")]
    assert max(map(len, journals)) < 16_384
    assert b"https://" not in b"".join(journals)

    again = scene.run(requests(), on_item_failure="keep")
    assert (again["reused"], again["cost_usd"]) == (COUNT - 3, result["cost_usd"])
