"""A server on this machine that speaks as S3 does."""

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class S3Settings:
    """What a user sets to reach an object store; also in a child, which does not inherit it."""

    def __init__(self, endpoint: str) -> None:
        self.settings = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "S3_ENDPOINT_URL": endpoint,
        }

    def __call__(self) -> None:
        os.environ.update(self.settings)


@contextmanager
def s3_server(bucket: str) -> Iterator[S3Settings]:
    """The settings of a server with an empty bucket; this process has them meanwhile."""
    import boto3

    moto = pytest.importorskip("moto.server", reason="moto is not installed; `make setup` brings it")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    settings = S3Settings("http://{}:{}".format(*server.get_host_and_port()))
    try:
        # All servers of a process hold the same buckets.
        urllib.request.urlopen(f"{settings.settings['S3_ENDPOINT_URL']}/moto-api/reset", data=b"").close()
        with pytest.MonkeyPatch.context() as patch:
            for key, value in settings.settings.items():
                patch.setenv(key, value)
            boto3.client("s3").create_bucket(Bucket=bucket)
            yield settings
    finally:
        server.stop()
