"""Be a triggerer for one trigger: get it by class path and arguments, wait for the start, print its event."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


def load_trigger(class_path: str, arguments: dict[str, Any]) -> BaseTrigger:
    """Build a trigger from what :meth:`BaseTrigger.serialize` gave: one that fires as soon as it is done."""
    module, _, name = class_path.rpartition(".")
    trigger: BaseTrigger = getattr(importlib.import_module(module), name)(**arguments, earliest_event=0)
    return trigger


async def first_event(trigger: BaseTrigger) -> Any:
    """Run a trigger until it fires, and return what it says."""
    async for event in trigger.run():
        return event.payload
    raise RuntimeError("the trigger ended without an event")


def main() -> None:
    class_path, arguments = json.loads(sys.stdin.readline())
    trigger = load_trigger(class_path, arguments)
    _say("ready")
    sys.stdin.readline()
    _say(json.dumps(asyncio.run(first_event(trigger))))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
