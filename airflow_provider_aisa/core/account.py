"""All that a task instance has bought, or may have: what a budget counts, and what a retry can look up."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_aisa.core.job import Job
from airflow_provider_aisa.core.journal.store import Found, Journal
from airflow_provider_aisa.core.layout import journals_of
from airflow_provider_aisa.core.s3.bucket import Bucket


def purchases(job: Job, bucket: Bucket) -> Iterator[tuple[str, Found]]:
    """Yield the key of each of its entries, and the entry: for requests that its author has changed, too.

    With an author's own key, only that key's entries count. One listing takes the place of the reads that
    there would be without. Blocks.
    """
    if job.idempotency_key is None:
        prefix = journals_of(job.target, job.buyer.owner)
        keys = [key for key, _ in bucket.list_keys(prefix) if key.endswith(".json")]
    else:
        keys = [part.journal_key for part in job.parts()]
    for key in keys:
        if (found := Journal(bucket, key).load()) is not None:
            yield key, found
