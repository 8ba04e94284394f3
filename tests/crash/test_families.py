"""Sixty items of three families, with reference images, a refusal in each, and a worker that is killed."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_aisa.sandbox import Fault
from tests.fakes.png import png

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

    from tests.crash.scene import Scene

    MakeScene = Callable[[bool], Scene]

SEEDREAM, WAN, GEMINI = "seedream-4-5-251128", "wan2.7-image", "gemini-3-pro-image-preview"
COUNT: Final = 60
REFUSED: Final = ("i0", "i1", "i2")  # one of each family


def items(reference: str) -> list[dict[str, Any]]:
    """Return the requests; few are Gemini's, which are sent two seconds apart."""
    models = [GEMINI, SEEDREAM, WAN, *[SEEDREAM, WAN] * 4]
    shown = {WAN: [reference], GEMINI: [reference, reference]}
    return [
        {
            "id": f"i{number}",
            "prompt": f"<i{number}> of sixty",
            "model": (model := models[number % len(models)]),
            **({"reference_images": shown[model]} if model in shown else {}),
        }
        for number in range(COUNT)
    ]


def test_one_manifest_and_one_bill_say_the_same(
    make_scene: MakeScene, s3_client: S3Client, warm_bucket: str
) -> None:
    scene = make_scene(False)
    key = f"references/{scene.run_id}.png"
    s3_client.put_object(Bucket=warm_bucket, Key=key, Body=png("otter"))
    for item in REFUSED:
        scene.sandbox.inject(Fault("content_refused", prompt=f"<{item}>", times=9))
    batch: dict[str, Any] = {
        "requests": items(f"s3://{warm_bucket}/{key}"),
        "prompt": None,
        "deferrable": None,
        "n": 1,
        "on_item_failure": "keep",
        "s3_key": scene.folder,
    }
    scene.on_request = lambda _: scene.kill() if scene.sandbox.billed >= COUNT // 2 else None
    assert scene.start(**batch).wait().is_killed
    billed = scene.sandbox.billed

    result = scene.run(**batch, try_number=2).result

    assert COUNT // 2 <= billed < COUNT - len(REFUSED)
    assert (result["stored"], result["failed"]) == (COUNT - len(REFUSED), len(REFUSED))
    assert result["errors"] == {"ContentRefused": len(REFUSED)}
    [manifest] = [body for name, body in scene.objects().items() if "/manifest-" in name]
    lines = {line["id"]: line for line in map(json.loads, manifest.splitlines())}
    assert {item for item, line in lines.items() if line["status"] == "failed"} == set(REFUSED)
    # What was billed is what was received, and what is said to be unknown.
    bill = Counter(entry.prompt for entry in scene.sandbox.ledger for _ in range(entry.images))
    for request in batch["requests"]:
        line = lines[request["id"]]
        assert bill[request["prompt"]] <= len(line["images"]) + line["unknown_outcomes"]
    assert scene.sandbox.billed <= result["images"] + result["unknown_outcomes"]
