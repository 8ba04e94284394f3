"""`python -m tests.crash`: the proofs by chaos and by siege, at the length that a release deserves."""

from __future__ import annotations

import argparse
import os
import sys
import time


def main() -> int:
    """Run it; return 1 when money was wasted or an image lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="workers to kill (300)")
    parser.add_argument("--batches", type=int, default=5, help="batches to kill ten times each (5)")
    parser.add_argument("--seed", type=int, default=1, help="decides what happens (1)")
    parser.add_argument("--parallel", type=int, default=8, help="tasks at a time (8)")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        del os.environ[name]

    from tests.crash.chaos import Chaos
    from tests.crash.siege import Siege
    from tests.crash.workers import Workers
    from tools.seaweedfs import SeaweedFS

    def progress(kills: int) -> None:
        if kills % 50 == 0:
            print(f"{kills} workers killed", flush=True)

    began = time.monotonic()
    with SeaweedFS() as store, Workers() as workers:
        bucket = store.create_bucket("chaos")
        store.client().put_object(Bucket=bucket, Key="warm", Body=b"x")  # The first write takes seconds.
        with Chaos(workers=workers, store=store, bucket=bucket, seed=options.seed) as chaos:
            report = chaos.run(kills=options.kills, parallel=options.parallel, progress=progress)
        print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s\n{report}", flush=True)
        is_good = report.is_good
        for seed in range(options.seed, options.seed + options.batches):
            began = time.monotonic()
            with Siege(workers=workers, store=store, bucket=bucket, seed=seed) as siege:
                batch = siege.run()
            print(f"\na batch, seed {seed}, {time.monotonic() - began:.0f} s\n{batch}", flush=True)
            is_good = is_good and batch.is_good
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
