"""The servers that all measured work uses, and fresh processes for it: nothing of one counts in another."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from airflow_provider_aisa.sandbox import Sandbox
from benchmarks.work import BUCKET
from tools.ports import find_free_ports
from tools.seaweedfs import PORT_FLAGS, SeaweedFS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VOLUMES = 64  # of 64 MB: more than one measurement writes
_TIMEOUT = 600.0  # seconds for one process
_MOST_DELETED = 1000  # objects per request


@dataclass
class Servers:
    """A gateway with its CDN, an S3 store with an empty bucket, and the environment that leads to them."""

    sandbox: Sandbox
    store: SeaweedFS
    env: Mapping[str, str]
    _master: str  # the URL of SeaweedFS's master
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def work(self, way: str) -> dict[str, float]:
        """Do the task once, in a fresh process, and return what it took; see `benchmarks.work`."""
        return self._measure(way, "benchmarks.work", way)

    def batch(
        self, way: str, count: int, in_flight: int, *, limits: Mapping[str, int] | None = None
    ) -> dict[str, float]:
        """Do a batch once, in a fresh process, and return what it took; see `benchmarks.batch_work`.

        :param limits: further extras of the connection.
        """
        connection = json.loads(self.env["AIRFLOW_CONN_AISA_DEFAULT"])
        extra = {**connection.get("extra", {}), "max_concurrency": in_flight, **(limits or {})}
        connection = json.dumps({**connection, "extra": extra})
        env = {**self.env, "AIRFLOW_CONN_AISA_DEFAULT": connection}
        return self._measure(way, "benchmarks.batch_work", way, str(count), str(in_flight), env=env)

    def links(self, way: str, link: str, count: int, certificate: str) -> dict[str, float]:
        """Move an image from its link to S3 so often, in a fresh process; see `benchmarks.links_work`.

        :param certificate: the file with the authority of the link's server.
        """
        env = {**self.env, "SSL_CERT_FILE": certificate}
        return self._measure(way, "benchmarks.links_work", way, link, str(count), env=env, images=count)

    def _measure(
        self,
        way: str,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        images: int | None = None,
    ) -> dict[str, float]:
        prefix = f"{way}-{next(self._numbers)}"
        billed, cpu = self.sandbox.billed, _cpu_seconds()
        answer = run_python("-m", module, *arguments, prefix, env=env or self.env)
        cpu = _cpu_seconds() - cpu
        stored = self._delete(prefix)
        expected_images = self.sandbox.billed - billed if images is None else images
        expected = {f"{prefix}/{index}.png" for index in range(expected_images)}
        if expected - stored or bool(expected) == (way == "start"):
            raise RuntimeError(f"{way} stored {len(stored)} objects instead of {len(expected)} images")
        figures: dict[str, float] = json.loads(answer.splitlines()[-1])
        return {**figures, "servers_cpu_seconds": cpu}

    def _delete(self, prefix: str) -> set[str]:
        client = self.store.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        for first in range(0, len(keys), _MOST_DELETED):
            some = keys[first : first + _MOST_DELETED]
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in some]})
        # What is deleted still fills its volumes. Full ones, and what the disk still writes of them, would
        # hold up the measurements to come.
        _get(f"{self._master}/vol/vacuum?garbageThreshold=0.001")
        return set(keys)


@contextmanager
def open_servers() -> Iterator[Servers]:
    """Run the servers, warmed up, for as long as the context lasts."""
    ports = find_free_ports(len(PORT_FLAGS))
    with SeaweedFS(free_ports=lambda _: ports) as store, Sandbox() as sandbox, environment() as env:
        store.create_bucket(BUCKET)
        master = f"http://127.0.0.1:{ports[PORT_FLAGS.index('master.port')]}"
        # Make room now: a write that finds none waits for a second, whoever sends it.
        _get(f"{master}/vol/grow?collection={BUCKET}&count={_VOLUMES}")
        yield Servers(
            sandbox,
            store,
            {
                **env,
                "AIRFLOW_CONN_AISA_DEFAULT": sandbox.connection,
                "AIRFLOW_CONN_AWS_DEFAULT": store.airflow_connection(),
                "AWS_ACCESS_KEY_ID": store.access_key,
                "AWS_DEFAULT_REGION": store.region,
                "AWS_ENDPOINT_URL_S3": store.endpoint_url,
                "AWS_SECRET_ACCESS_KEY": store.secret_key,
                "OPENAI_API_KEY": sandbox.api_key,
                "OPENAI_BASE_URL": sandbox.base_url,
            },
            master,
        )


def _get(url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(url, timeout=60).close()


def _cpu_seconds() -> float:
    """Return what the servers have computed: the gateway in threads of this process, the store in others."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Yield an environment with an Airflow home of its own and nothing of this machine's configuration."""
    foreign = ("AIRFLOW_", "AISA_", "AWS_", "OPENAI_")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    with tempfile.TemporaryDirectory(prefix="aisa-benchmarks-") as home:
        yield {
            **env,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def run_python(*arguments: str, env: Mapping[str, str]) -> str:
    """Run this Python with these arguments and return what it printed; raise RuntimeError if it failed."""
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3_000:]}")
    return done.stdout
