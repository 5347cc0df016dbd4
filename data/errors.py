"""The exceptions that a user of data/ is meant to read."""

from __future__ import annotations

import errno

TOO_MANY_REQUESTS = 429
MISTAKES = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DataError(Exception):
    """A user's mistake in one sentence: what is wrong, where, and what to do.

    The command line prints it to stderr and exits with 2. Anything else that escapes is our bug and keeps its
    traceback.
    """


class Outage(DataError):
    """A store did not answer, or could not, in one sentence: no mistake, and the same command may do better later."""


def is_outage(error: Exception) -> bool:
    """Whether this, of any kind of store, is the store's own or the network's: not that something is not there, not
    allowed, or no room."""
    from botocore.exceptions import ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnection

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == TOO_MANY_REQUESTS
    if isinstance(error, OSError):
        return not isinstance(error, MISTAKES) and error.errno not in (*NO_ROOM, errno.EROFS)
    return isinstance(error, (HTTPClientError, NoConnection))
