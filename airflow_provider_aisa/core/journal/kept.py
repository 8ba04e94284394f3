"""An image that is in the answer itself is in S3 before the journal says ``paid``, and the journal names it.

There is no link to come back to, so the bytes are the record. They are put beside the entry, under keys that
the claim's id decides, so whoever finds the claim stale finds them: a process that died between these writes
and the entry's has lost nothing. The journal holds no base64: an entry stays small, whatever it is about.

They do not go to their final keys at once: a copy that took a stale claim over may have stored its own images
there, and what is stored stands. When the images are at their final keys, what was kept is emptied.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from airflow_provider_aisa.core.gateway.response import GeneratedImage, GenerationResponse
from airflow_provider_aisa.core.images.inline import decode, nameless_file
from airflow_provider_aisa.core.journal.entry import Entry, EntryState, without_claim
from airflow_provider_aisa.core.layout import kept_key
from airflow_provider_aisa.core.s3.bucket import Bucket
from airflow_provider_aisa.exceptions import StorageFailed

log = logging.getLogger(__name__)

#: Characters of what an object's metadata say about the answer: S3 takes 2 KB in all.
_LONGEST_ANSWER: Final = 1400
_MOST_IMAGES: Final = 100


@dataclass(frozen=True, slots=True)
class Keeper:
    """Where the images of one purchase are kept. Blocks.

    :param key: of the journal's entry.
    """

    bucket: Bucket
    key: str

    def keep(self, response: GenerationResponse, claim_id: str, folder: Path) -> GenerationResponse:
        """Put the images that came as base64 into S3, and return the response that names them there.

        An image that cannot be put there stays in the response: then the entry has to hold it.

        :param folder: for files without a name.
        """
        inline = [image for image in response.images if image.b64_json is not None]
        if not inline:
            return response
        is_all = len(inline) == len(response.available)
        answer = _described(response, len(inline)) if is_all else None
        kept: dict[int, GeneratedImage] = {}
        # The first one last: whoever finds it finds all.
        for position, image in reversed(list(enumerate(inline))):
            try:
                key = kept_key(self.key, claim_id, position)
                self._put(image, key, claim_id, answer if position == 0 else None, folder)
            except Exception as e:
                # Whatever it is, the image is paid for and must not be lost over it.
                log.warning("An image could not be kept beside the journal, which holds it instead: %r", e)
                continue
            kept[image.index] = GeneratedImage(image.index, kept=key)
        return replace(response, images=tuple(kept.get(image.index, image) for image in response.images))

    def _put(self, image: GeneratedImage, key: str, claim_id: str, answer: str | None, folder: Path) -> None:
        with nameless_file(folder) as file:
            fetched = decode(image.b64_json or "", file)
            file.seek(0)
            metadata = {"claim": claim_id, "index": str(image.index)}
            self.bucket.put_kept(
                file,
                key=key,
                content_type=fetched.info.content_type,
                sha256=fetched.sha256,
                metadata=metadata | ({} if answer is None else {"answer": answer}),
            )

    def with_answer(self, entry: Entry) -> Entry:
        """Return a stale claim as paid if its images were kept, and as it is if they were not.

        :raises StorageFailed: S3 does not tell.
        """
        response = self._find(entry)
        if response is None:
            return entry
        unknown = without_claim(entry.unknown, entry.claim.id)
        paid = replace(entry, state=EntryState.PAID, response=response, unknown=unknown)
        return paid.noted(f"paid: {response.billed} image(s), found beside this entry")

    def _find(self, entry: Entry) -> GenerationResponse | None:
        head = self._head(entry, 0)
        response, count = _read(head, entry) if head is not None else (None, 0)
        if response is None:
            return None
        images = []
        for position in range(count):
            head = self._head(entry, position)
            index = head["Metadata"].get("index", "") if head else ""
            if not index.isdecimal():
                return None
            images.append(GeneratedImage(int(index), kept=kept_key(self.key, entry.claim.id, position)))
        return replace(response, images=tuple(images))

    def _head(self, entry: Entry, position: int) -> Mapping[str, Any] | None:
        head = self.bucket.head_image(kept_key(self.key, entry.claim.id, position))
        is_ours = head is not None and head["Metadata"].get("claim") == entry.claim.id
        return head if is_ours else None

    def empty(self, response: GenerationResponse) -> None:
        """Give the room back that kept images take up, once they are stored. To delete takes a permission."""
        for image in response.images:
            if image.kept is not None:
                try:
                    self.bucket.empty(image.kept)
                except StorageFailed as e:
                    log.info("What was kept of a stored image could not be emptied: %s", e)


def _described(response: GenerationResponse, images: int) -> str:
    """Return what must be known of an answer besides its images: ASCII, for a header."""
    facts = {
        "model": response.model,
        "created": response.created,
        "request_id": response.request_id,
        "delivered": response.delivered,
        "images": images,
        "usage": dict(response.usage),
    }
    text = json.dumps(facts, separators=(",", ":"))
    if len(text) <= _LONGEST_ANSWER:
        return text
    return json.dumps(facts | {"usage": {"generated_images": response.billed}}, separators=(",", ":"))


def _read(head: Mapping[str, Any], entry: Entry) -> tuple[GenerationResponse | None, int]:
    try:
        facts = json.loads(head["Metadata"]["answer"])
        count, delivered = facts["images"], facts["delivered"]
        usage = facts["usage"] if isinstance(facts["usage"], dict) else {}
        is_sound = isinstance(count, int) and 0 < count <= _MOST_IMAGES and isinstance(delivered, int)
        if not is_sound:
            return None, 0
        created, request_id = facts.get("created"), facts.get("request_id")
        response = GenerationResponse(
            str(facts.get("model") or entry.request.get("model")),
            created if isinstance(created, int) else None,
            (),
            usage,
            request_id if isinstance(request_id, str) else None,
            delivered=delivered,
        )
    except (KeyError, TypeError, ValueError):
        return None, 0  # Somebody has changed it: as if it were not there.
    return response, count
