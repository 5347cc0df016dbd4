"""Files at any address that fsspec knows (file://, gs://, abfs://, ...), and in S3 by way of boto3."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from data.errors import DataError

PARTIAL = ".partial-"  # being put; a process that was killed leaves it, and putting the same file again replaces it
DELETED_AT_ONCE = 1000  # objects; S3 takes no more


class Store(Protocol):
    """Files below an address, by their keys: paths with slashes, relative to it. Whatever fails raises what the library
    of that kind of store raises."""

    url: str

    def put(self, file: Path, key: str) -> None:
        """Where this fails, what was at the key is still there, except in file systems that are neither this machine's
        nor object stores."""
        ...

    def get(self, key: str, file: Path) -> None: ...
    def sizes(self, below: str = "") -> dict[str, int]:
        """The bytes of those that begin with `below`, sorted."""
        ...

    def find(self, below: str = "") -> list[str]:
        """Those that begin with `below`, sorted."""
        ...

    def remove(self, keys: Sequence[str]) -> None: ...


def open_store(url: str) -> Store:
    """The store at an address.

    Raises:
        DataError: nothing here can speak to such an address.
    """
    try:
        return S3Store(url) if url.startswith("s3://") else FsspecStore(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url}: {' '.join(str(error).split())}") from None


class FsspecStore:
    """Any file system of fsspec; other packages bring further ones (gcsfs, adlfs, ...)."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url = url
        self._files, root = url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._files, LocalFileSystem)

    def put(self, file: Path, key: str) -> None:
        path = f"{self._root}/{key}"
        folder, _, name = path.rpartition("/")
        self._files.makedirs(folder, exist_ok=True)
        if not self._local:
            self._files.put_file(str(file), path)
            return
        partial = Path(folder, f"{PARTIAL}{name}")
        try:
            self._files.put_file(str(file), str(partial))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def get(self, key: str, file: Path) -> None:
        self._files.get_file(f"{self._root}/{key}", str(file))

    def sizes(self, below: str = "") -> dict[str, int]:
        self._files.invalidate_cache()
        found = self._files.find(f"{self._root}/{below.rpartition('/')[0]}", detail=True)
        keys = {str(path).removeprefix(f"{self._root}/"): of["size"] for path, of in found.items()}
        return {key: keys[key] for key in sorted(keys) if key.startswith(below) and f"/{PARTIAL}" not in f"/{key}"}

    def find(self, below: str = "") -> list[str]:
        return list(self.sizes(below))

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._files.rm_file(f"{self._root}/{key}")


class S3Store:
    """S3, or what speaks as it does at AWS_ENDPOINT_URL or S3_ENDPOINT_URL."""

    def __init__(self, url: str) -> None:
        import boto3  # half a second

        self.url = url
        self._bucket, _, root = url.removeprefix("s3://").partition("/")
        self._root = f"{root.strip('/')}/".lstrip("/")
        # boto3 looks for AWS_ENDPOINT_URL by itself; Streaming, which reads the data, for the other one.
        self._client: Any = boto3.client("s3", endpoint_url=os.environ.get("S3_ENDPOINT_URL"))

    def put(self, file: Path, key: str) -> None:
        self._client.upload_file(str(file), self._bucket, self._root + key)

    def get(self, key: str, file: Path) -> None:
        self._client.download_file(self._bucket, self._root + key, str(file))

    def sizes(self, below: str = "") -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + below)
        entries = (entry for page in pages for entry in page.get("Contents", ()))
        return {entry["Key"].removeprefix(self._root): entry["Size"] for entry in entries}

    def find(self, below: str = "") -> list[str]:
        return list(self.sizes(below))

    def remove(self, keys: Sequence[str]) -> None:
        from botocore.exceptions import ClientError

        for first in range(0, len(keys), DELETED_AT_ONCE):
            objects = [{"Key": self._root + key} for key in keys[first : first + DELETED_AT_ONCE]]
            answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            if refused := answer.get("Errors"):  # the request as a whole has succeeded all the same
                raise ClientError({"Error": refused[0]}, f"DeleteObjects ({refused[0]['Key']})")
