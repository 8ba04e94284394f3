"""Somebody who deletes and rewrites journals while their requests are under way: a cleanup job, a person.

It goes to the store directly, past the tripwire. Paid images it leaves alone.
"""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import TYPE_CHECKING, Literal

from tests.crash.tripwire import Act

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from tests.crash.tripwire import Answered

Meddling = Literal["delete", "rewrite"]


class Meddler:
    """Knows of each prompt where the store keeps its latest claim, because it is told of all answers."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._keys: dict[str, str] = {}
        self._lock = threading.Lock()
        #: How often each thing was done.
        self.deleted = 0
        self.rewritten = 0

    def watch(self, answered: Answered) -> None:
        """Note where a claim has been written."""
        seen = answered.seen
        if seen.label == "PUT claimed" and 200 <= answered.status < 300:
            prompt = json.loads(seen.body)["request"]["prompt"]
            self._keys[prompt] = seen.path.removeprefix(f"/{self._bucket}/")

    def act(self, what: Meddling, prompt: str) -> Act:
        """Return what is done to the claim of a prompt before its request reaches the gateway."""
        return Act("before", aside=partial(self._delete if what == "delete" else self._rewrite, prompt))

    def _delete(self, prompt: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._keys[prompt])
        with self._lock:
            self.deleted += 1

    def _rewrite(self, prompt: str) -> None:
        """Save the entry as an editor does. The same bytes would have the same ETag: it is a digest here."""
        key = self._keys[prompt]
        body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body + b"\n")
        with self._lock:
            self.rewritten += 1
