"""Ranges of objects on S3: one of them, and an object as a file that is read by them."""

from __future__ import annotations

from nstray.errors import StorageError
from nstray.storage import s3_digests
from nstray.storage.s3 import Body, corrupt, get
from nstray.storage.seekable import BlockFile
from nstray.text import redact


def get_range(
    bucket: str,
    key: str,
    start: int,
    length: int,
    *,
    max_bytes: int,
    if_match: str | None = None,
) -> Body:
    """`length` bytes from `start` on, or the last `length` ones if `start` is below 0; see `get`.

    Fewer come if the object has fewer. A store that ignores ranges sends the whole object, if
    `max_bytes` allow it.
    """
    if length == 0:  # no Range header names no bytes
        body = get(bucket, key, span="bytes=0-0", if_match=if_match)
        return Body(b"", max(0, start), body.size, body.etag)
    span = f"bytes=-{length}" if start < 0 else f"bytes={start}-{start + length - 1}"
    body = get(bucket, key, max_bytes=max_bytes, span=span, if_match=if_match)
    if not body.size:
        return Body(b"", max(0, start), 0, body.etag)
    begin = max(0, body.size - length) if start < 0 else start
    skipped = begin - body.start
    if skipped < 0:
        raise StorageError(
            f"{redact(f's3://{bucket}/{key}')}: the store sent other bytes than those asked for "
            f"at {begin:,}"
        )
    return Body(body.data[skipped : skipped + length], begin, body.size, body.etag, body.md5)


class Input(BlockFile):
    """An object as a seekable file that reads ranges of one version of it.

    The first request brings the last `tail` bytes and with them the size, so a Parquet footer costs
    one request.

    What is read from the first byte to the last is compared with the object's MD5, if the store
    gives it: the last read then raises `Corrupt`. An object of at most `tail` bytes was compared
    before, and was asked for again.
    """

    def __init__(self, bucket: str, key: str, block: int, tail: int) -> None:
        body = get(bucket, key, span=f"bytes=-{tail}")
        super().__init__(body.size, body.data, body.start, block)
        self._bucket, self._key, self._etag = bucket, key, body.etag
        self._md5, self._hash, self._hashed = body.md5, s3_digests.new_md5(), 0

    def _fetch(self, start: int, length: int) -> tuple[bytes, int]:
        span, known = f"bytes={start}-{start + length - 1}", self._etag or None
        body = get(self._bucket, self._key, span=span, if_match=known)
        if not 0 <= start - body.start < len(body.data):
            raise StorageError(
                f"{redact(f's3://{self._bucket}/{self._key}')}: the store sent other bytes than "
                f"those asked for at {start:,}"
            )
        return body.data, body.start

    def _compare(self, piece: bytes) -> None:
        """Take what was read at the position into the MD5; raise `Corrupt` at a wrong end."""
        known = self._hashed - self._position  # bytes of `piece` that were read before
        if self._md5 is None or not 0 <= known < len(piece):
            return
        self._hash.update(piece[known:])
        self._hashed += len(piece) - known
        found = self._hash.hexdigest() if self._hashed == self._size else self._md5
        if found != self._md5 and s3_digests.etags_are_md5(self._bucket, self._key):
            raise corrupt(self._bucket, self._key, self._size, found, self._md5)
