"""Every exception that nstray raises on purpose, and the closed list of an error row's codes.

NstrayError
 +-- UsageError              the call or the configuration is wrong (exit 2)
 |    +-- ConfigError        a field of the job's settings
 |    +-- ManifestError      the manifest, with file, row and column
 |    +-- WeightsError       the network's weights
 |    +-- OutputError        the output belongs to another job, or is not one of ours
 +-- StorageError            a file or an object store (exit 1)
 |    +-- NotFound           no such object, file or bucket
 |    |    +-- NoSuchBucket  no such bucket
 |    +-- AccessDenied       credentials missing, wrong, or not allowed
 |    |    +-- BadCredentials  missing, wrong or expired, whatever they are used for
 |    +-- Unreachable        the endpoint is down or timed out
 |    |    +-- Corrupt       it answers, with bytes that are not those that it holds
 |    +-- AlreadyExists      a create-if-absent put found the key taken
 |    +-- Changed            a conditional put found another version
 |    +-- TooLarge           the object is larger than the reader allows
 |    +-- ShortRead          the object ends before the bytes that are asked for
 |    +-- BadArchive         an archive that is truncated, or not what it says it is
 +-- JobFailed               the job cannot go on (exit 1)
 +-- PairError               this pair cannot be stylised: becomes its error row

A user's mistake reaches the terminal as the message alone, never as a traceback.
"""

from __future__ import annotations

from enum import StrEnum

from nstray.text import redact


class ErrorCode(StrEnum):
    """The closed list of values of the column ``error_code``."""

    NOT_FOUND = "not_found"  # the image's URI names nothing
    ACCESS_DENIED = "access_denied"  # the image may not be read with these credentials
    FETCH_FAILED = "fetch_failed"  # the store answered with anything else, or not at all
    SOURCE_CHANGED = "source_changed"  # the archive is not the version that the manifest names
    BAD_ARCHIVE = "bad_archive"  # truncated, or not what it says it is
    EMPTY_FILE = "empty_file"  # zero bytes
    TOO_MANY_BYTES = "too_many_bytes"  # over the byte cap, not read
    TOO_MANY_PIXELS = "too_many_pixels"  # over the pixel cap, not decoded
    NOT_AN_IMAGE = "not_an_image"  # HTML, text, anything no image decoder knows
    UNSUPPORTED_FORMAT = "unsupported_format"  # an image, but not a still JPEG, PNG or WebP
    DECODE_FAILED = "decode_failed"  # truncated or corrupt
    TOO_SMALL = "too_small"  # too few pixels for the deepest layer, or `exact` without upsampling
    BAD_MASK = "bad_mask"  # a mask of another aspect than its picture's, or without any white
    OUT_OF_MEMORY = "out_of_memory"  # this pair alone does not fit the device
    DIVERGED = "diverged"  # the loss is not a finite number at the start or at the end
    WORKER_DIED = "worker_died"  # this pair, alone, killed its worker twice
    TIMED_OUT = "timed_out"  # this pair, alone, made no progress before its deadline
    INTERNAL = "internal"  # an unexpected exception, with its text in error_message


class NstrayError(Exception):
    """The base of all; its texts are redacted when it is made.

    Attributes:
        exit_code: of the command line that ends with this exception.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(a) if type(a) is str else a for a in args))


class UsageError(NstrayError):
    """The user's call or configuration is wrong; the message says what to change."""

    exit_code = 2


class ConfigError(UsageError):
    """A field of the job's settings is wrong; the message names it."""


class ManifestError(UsageError):
    """The manifest is wrong; the message names file, row and column."""


class WeightsError(UsageError):
    """The weights can't be found or read, or they lack a layer that the job needs."""


class OutputError(UsageError):
    """The output folder holds another job, or something that is not a job."""


class StorageError(NstrayError):
    """A file or object could not be read, listed or written; the message names its redacted URI."""


class NotFound(StorageError):
    """No such file, object or bucket."""


class NoSuchBucket(NotFound):
    """The bucket itself does not exist."""


class AccessDenied(StorageError):
    """Credentials are missing, wrong, or do not allow this."""


class BadCredentials(AccessDenied):
    """Credentials are missing, unknown, expired, or signed by a wrong clock.

    It says nothing about the object that was asked for.
    """


class Unreachable(StorageError):
    """The endpoint did not answer in time or refused the connection."""


class Corrupt(Unreachable):
    """Bytes that came, or went, are not those of their digest, however often they are asked for."""


class AlreadyExists(StorageError):
    """A create-if-absent put found the key taken by another writer's bytes."""


class Changed(StorageError):
    """A conditional put or read found another version than the expected one."""


class TooLarge(StorageError):
    """The object is larger than the caller allows; its body was not read."""


class ShortRead(StorageError):
    """The object ends before the bytes that are asked for."""


class BadArchive(StorageError):
    """An archive is truncated, contradicts itself, or holds what no picture is read from."""


class JobFailed(NstrayError):
    """The job cannot go on: no worker starts, or every one of them dies."""


class PairError(NstrayError):
    """One pair cannot be stylised.

    Args:
        code: one of `ErrorCode`.
        message: for the column ``error_message``: what was wrong, where, and what to do. It is
            redacted.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = redact(message)

    def __str__(self) -> str:
        return f"{self.code.value}: {self.message}"
