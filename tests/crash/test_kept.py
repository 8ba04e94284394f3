"""A worker is killed around the write of an image that is in the answer itself, and Airflow runs it again.

Once that object is whole the purchase is safe, whatever becomes of the journal's entry: there is no link to
come back to, and nothing is asked for twice.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.tripwire import Act

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.scene import Scene
    from tests.crash.tripwire import Moment, Seen

    MakeScene = Callable[[bool], Scene]

#: Of each write: when the worker dies, and whether its purchase is lost then.
POINTS: list[tuple[str, Moment, bool]] = [
    ("answer", "before", True),
    ("answer", "half-way", True),
    ("answer", "after", False),
    ("paid", "before", False),
    ("paid", "half-way", False),
    ("paid", "after", False),
    ("image", "half-way", False),
    ("image", "after", False),
    ("stored", "half-way", False),
    ("stored", "after", False),
]


def at(where: str, moment: Moment, scene: Scene) -> Callable[[Seen], Act | None]:
    """Return a script that kills at the first such write."""
    done: list[Seen] = []

    def script(seen: Seen) -> Act | None:
        if not seen.label.startswith(f"PUT {where}") or done:
            return None
        done.append(seen)
        return Act(moment, kill=scene.kill)

    return script


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])
@pytest.mark.parametrize(("where", "moment", "is_lost"), POINTS, ids=str)
def test_an_image_in_the_answer_is_paid_for_once_when_it_is_kept(
    make_scene: MakeScene, where: str, moment: Moment, is_lost: bool, deferrable: bool
) -> None:
    scene = make_scene(deferrable)
    gemini: dict[str, Any] = {"family": "gemini", "n": 1, "size": None, "s3_key": scene.folder}
    scene.s3.script = at(where, moment, scene)
    assert scene.start(**gemini).wait().is_killed
    assert scene.sandbox.billed == 1

    outcome = scene.run(**gemini, **({} if deferrable else {"try_number": 2}))

    assert scene.sandbox.billed == (2 if is_lost else 1)
    assert outcome.result["unknown_outcomes"] == (1 if is_lost else 0)
    [image] = outcome.result["images"]
    objects = scene.objects()
    stored = objects[image["key"].removeprefix(scene.folder)]
    assert hashlib.sha256(stored).hexdigest() == image["sha256"]
    journals = [json.loads(body) for name, body in objects.items() if name.endswith(".json")]
    assert [entry["state"] for entry in journals] == ["stored"]
    assert max(len(body) for name, body in objects.items() if name.endswith(".json")) < 16_384
