"""What takes botocore long and is the same each time is done once in a process of the tests."""

from __future__ import annotations

from functools import cache

import botocore.loaders


def read_models_once() -> None:
    """Have all sessions share what is read of AWS's services.

    Every S3Hook makes a session of its own, which reads the endpoints of all of AWS anew: a quarter of a
    second and a full garbage collection, for each of a thousand tests. Sessions only look at what is read.
    """
    botocore.loaders.create_loader = cache(botocore.loaders.create_loader)
