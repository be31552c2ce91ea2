"""What botocore raises, as exceptions of `nstray.errors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto

from nstray.errors import (
    AccessDenied,
    BadCredentials,
    Changed,
    Corrupt,
    NoSuchBucket,
    NotFound,
    NstrayError,
    StorageError,
    Unreachable,
    UsageError,
)
from nstray.storage import s3_client
from nstray.text import redact

_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.MetadataRetrievalError,
    boto.ProfileNotFound,
)
NETWORK = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)
# Codes of a put whose body is not what its digest says: it was damaged on the way.
DAMAGED_ON_THE_WAY = frozenset(
    {
        "BadDigest",
        "InvalidDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
        "IncompleteBody",
    }
)
_open_buckets: set[str] = set()  # that gave something without a signature
_WHERE_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or AWS_PROFILE, "
    "or give the machine or pod an IAM role; on a cluster, on every node"
)
_DENIED = {
    "SignatureDoesNotMatch": (
        "the secret key is not this access key's: check AWS_SECRET_ACCESS_KEY"
    ),
    "InvalidAccessKeyId": (
        "no such access key: check AWS_ACCESS_KEY_ID, "
        "and AWS_ENDPOINT_URL for a store that is not AWS"
    ),
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidToken": (
        "the session token is not valid: renew the credentials, or unset AWS_SESSION_TOKEN"
    ),
    "TokenRefreshRequired": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
}
_NOT_ALLOWED = (
    "these credentials may not do this: check the bucket's policy and the role's "
    "(s3:GetObject, s3:PutObject, s3:ListBucket); "
    "without s3:ListBucket an object that does not exist looks the same"
)


_UNSIGNED = (
    "no credentials were found, and without them this may not be done, or the object does not "
    f"exist; {_WHERE_CREDENTIALS}"
)


@contextmanager
def errors(uri: str) -> Iterator[None]:
    """Turn what botocore raises into exceptions of `nstray.errors` that name `uri`, redacted."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    try:
        yield
        if s3_client.unsigned():
            _open_buckets.add(bucket)
    except boto.ClientError as error:
        if (
            answer_of(error)[0] in (401, 403)
            and s3_client.unsigned()
            and bucket not in _open_buckets
        ):
            s3_client.forget_client()  # the next call looks for credentials again
            raise BadCredentials(
                f"{redact(uri)}: S3 answered {answer_of(error)[0]}, and no credentials were found: "
                f"it was asked without a signature; {_WHERE_CREDENTIALS}"
            ) from None
        raise _explainanswer_of(error, uri) from None
    except boto.BotoCoreError as error:
        raise _explain_failure(error, uri) from None


def answer_of(error: boto.ClientError) -> tuple[int, str]:
    """(HTTP status, S3's code); a HEAD has no body, so its code is the status again."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status, str(error.response.get("Error", {}).get("Code", ""))


def _explainanswer_of(error: boto.ClientError, uri: str) -> NstrayError:
    status, code = answer_of(error)
    where, bucket = redact(uri), redact(uri).removeprefix("s3://").partition("/")[0]
    text = error.response.get("Error", {}).get("Message") or ""
    said = f"S3 answered {status} {code}".removesuffix(f" {status}") + (
        f" ({redact(text)})" if text and text != code else ""
    )
    if code == "NoSuchBucket":
        return NoSuchBucket(
            f"{where}: the bucket {bucket} does not exist; "
            "create it, or check its name and AWS_ENDPOINT_URL"
        )
    if status == 404:
        return NotFound(f"{where}: no such object")
    if code in DAMAGED_ON_THE_WAY:
        return Corrupt(
            f"{where}: {said} to every attempt: what is sent comes damaged; check the network"
        )
    if code in _DENIED:
        return BadCredentials(f"{where}: {said}; {_DENIED[code]}")
    if status in (401, 403):
        advice = _UNSIGNED if s3_client.unsigned() else _NOT_ALLOWED
        return AccessDenied(f"{where}: {said}; {advice}")
    if status in (301, 307) or code == "AuthorizationHeaderMalformed":
        return StorageError(
            f"{where}: {said}; the bucket is in another region: set AWS_DEFAULT_REGION"
        )
    if status == 429 or (status >= 500 and status != 501):
        return Unreachable(
            f"{where}: {said} to every attempt; try again later, or with fewer workers"
        )
    if status == 412:
        return Changed(f"{where}: changed since it was opened")
    return StorageError(f"{where}: {said}")


def _explain_failure(error: boto.BotoCoreError, uri: str) -> NstrayError:
    where, text = redact(uri), redact(str(error))
    text = text.replace(' on endpoint URL: "None"', "")  # botocore does not know a body's URL
    if isinstance(error, _CREDENTIALS):
        return BadCredentials(f"{where}: {text}; {_WHERE_CREDENTIALS}")
    if isinstance(error, boto.SSLError):
        return Unreachable(
            f"{where}: {text}; check the endpoint's certificate, "
            "or name its authority with AWS_CA_BUNDLE"
        )
    if isinstance(error, boto.FlexibleChecksumError):
        return Corrupt(
            f"{where}: {text}: its bytes are damaged in the store or on the way; "
            "try again, over https if it stays so, or put the object anew"
        )
    if isinstance(error, NETWORK):
        return Unreachable(
            f"{where}: {text}; check AWS_ENDPOINT_URL, the network, and that the server runs"
        )
    if isinstance(
        error,
        boto.ParamValidationError
        | boto.InvalidRegionError
        | boto.InvalidConfigError
        | boto.ConfigParseError,
    ):
        return UsageError(f"{where}: {text}")
    return StorageError(f"{where}: {type(error).__name__}: {text}")
