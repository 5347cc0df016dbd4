"""What a store's error means: wait, or mend something."""

import errno

import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from data.errors import is_outage


def answer(status: int) -> ClientError:
    return ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    "error",
    [
        answer(503),
        answer(429),
        EndpointConnectionError(endpoint_url="https://s3.example"),
        ReadTimeoutError(endpoint_url="https://s3.example"),
        requests.ConnectionError("no route"),
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.ESTALE, "Stale file handle"),
    ],
    ids=repr,
)
def test_what_may_be_over_soon(error: Exception) -> None:
    assert is_outage(error)


@pytest.mark.parametrize(
    "error",
    [
        answer(403),
        answer(404),
        FileNotFoundError(),
        PermissionError(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        ValueError("its hash differs"),
    ],
    ids=repr,
)
def test_what_will_not(error: Exception) -> None:
    assert not is_outage(error)
