"""What a URI is: ``s3://bucket/key``, ``file:///absolute/path`` or a plain local path.

Also ``gs://bucket/key`` and the other schemes of `nstray.storage.schemes`, if they are allowed.
Their bucket is named with its scheme: ``gs://bucket``.

The key of S3 is taken literally: nothing is percent-decoded, and an empty segment, ``.`` and ``..``
stay in it. In a path that is relative to a folder, ``.`` and ``..`` mean what they mean on a disk.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from nstray.errors import UsageError
from nstray.storage.schemes import STORES, is_allowed, refuse_scheme
from nstray.text import USER_INFO, redact

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_OTHER_S3 = ("s3a", "s3n")  # Hadoop's
# A URI that is mistyped, and would name a local folder: s3:/b, s3:b, s3//b, " s3://b".
_MISTYPED = re.compile(
    r"[\s\"'<]*(?P<scheme>s3[an]?|file|https?|gs|az|hf)(?::|(?<!file)(?<!az)(?<!hf)//)"
    r"[:/\\]*(?P<rest>.*?)[\s\"'>]*",
    re.IGNORECASE | re.DOTALL,
)


def is_uri(text: str) -> bool:
    """Whether `text` starts with a scheme, such as ``s3://`` or ``file://``."""
    return _SCHEME.match(text) is not None


def absolute(uri: str) -> str:
    """The canonical form: a store's object unchanged, everything local an absolute path.

    Raises `UsageError` for a scheme that nstray does not read, and for a path that is not UTF-8:
    no Parquet or JSON file can hold it.
    """
    bucket, path = resolve(uri)
    if bucket is None:
        path = os.path.abspath(path)
        if not path.isascii():
            _refuse_unnamable(path)
        return path
    return f"{root(bucket)}/{path}" if path or uri.endswith("/") else root(bucket)


def root(bucket: str) -> str:
    """The URI of a bucket, as `resolve` names it, without a slash at its end."""
    return bucket if "://" in bucket else f"s3://{bucket}"


def _refuse_unnamable(path: str) -> None:
    """Raise `UsageError` if `path` is no UTF-8, or if the locale has no name for it.

    Python stands for bytes that are no text with a lone surrogate.
    """
    try:
        path.encode()
        os.fsencode(path)
    except UnicodeEncodeError:
        raise UsageError(
            f"{redact(path)}: this path is not UTF-8, so nothing can record it; rename the file or "
            "folder, or set PYTHONUTF8=1 if only the locale is not UTF-8 (LC_ALL, LANG)"
        ) from None


def split(uri: str) -> tuple[str | None, str]:
    """(bucket, key), or (None, absolute path); raises `UsageError`."""
    bucket, path = resolve(uri)
    return bucket, os.path.abspath(path) if bucket is None else path


def resolve(uri: str) -> tuple[str | None, str]:
    """(bucket, key), or (None, path as given); raises `UsageError`.

    A path as given may be relative or end with a slash. One that is almost a URI is refused.
    """
    if not uri or "\0" in uri:
        raise UsageError(f"not a path or URI: {redact(uri)!r}")
    match = _SCHEME.match(uri)
    if match is None:
        _refuse_mistyped(uri)
        return None, uri
    scheme, rest = match[1].lower(), uri[match.end() :]
    if scheme == "s3" or (scheme in STORES and is_allowed(scheme)):
        bucket, _, key = rest.partition("/")
        if any(pattern.search(uri) for pattern in USER_INFO):
            source = (
                "AWS_ACCESS_KEY_ID, AWS_PROFILE, roles"
                if scheme == "s3"
                else STORES[scheme].credentials
            )
            raise UsageError(
                f"{redact(uri)}: no credentials in a URI; they come from the environment ({source})"
            )
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", bucket):
            raise UsageError(
                f"{redact(uri)}: {bucket!r} is no bucket name; write {scheme}://BUCKET/KEY"
            )
        return bucket if scheme == "s3" else f"{scheme}://{bucket}", key
    if scheme == "file":
        path = unquote(rest.removeprefix("localhost"))
        if not path.startswith("/") or "\0" in path:
            raise UsageError(f"{redact(uri)}: a file URI is file:///absolute/path")
        return None, path
    raise refuse_scheme(scheme, uri)


def _refuse_mistyped(path: str) -> None:
    """Raise `UsageError` for a local path that looks like a URI with a slip in its scheme."""
    match = _MISTYPED.fullmatch(path)
    if match is None:
        return
    scheme = match["scheme"].lower()
    scheme = "s3" if scheme in _OTHER_S3 else scheme
    meant = f"{scheme}://{'/' if scheme == 'file' else ''}{match['rest']}"
    # The path itself is not shown: `redact` finds no secret in a URI that is mistyped.
    raise UsageError(
        f"{path[: match.start('rest')]!r} begins no URI: did you mean {redact(meant)}? "
        "Write ./ before a local path that begins so"
    )


def join(base_folder: str, relative: str) -> str:
    """`relative` as seen from `base_folder`; a URI or an absolute path in `relative` wins.

    Raises `UsageError` if ``..`` leads out of the bucket, and for a URI that is mistyped.
    """
    if is_uri(relative) or relative.startswith("/"):
        return absolute(relative)
    _refuse_mistyped(relative)
    bucket, base = split(base_folder)
    if bucket is None:
        return absolute(os.path.join(base, relative))
    # A folder may be written with a slash at its end; every other empty segment is part of it.
    parts = base.removesuffix("/").split("/") if base else []
    for part in relative.split("/"):
        if part == "..":
            if not parts:
                raise UsageError(
                    f"{redact(relative)}, seen from {redact(base_folder)}, leads out of the bucket"
                )
            parts.pop()
        elif part != ".":
            parts.append(part)
    return f"{root(bucket)}/" + "/".join(parts)


def parent(uri: str) -> str:
    """The folder a URI lies in, without a slash at its end; of a bucket or the root, itself.

    A folder whose own name is empty (that of ``s3://b/a//k``) keeps one: ``s3://b/a//``.
    """
    bucket, path = split(uri)
    if bucket is None:
        return os.path.dirname(path)
    folder, slash, _ = path.removesuffix("/").rpartition("/")
    if not slash:
        return root(bucket)
    return f"{root(bucket)}/{folder}" + ("" if folder and not folder.endswith("/") else "/")


def name(uri: str) -> str:
    """The last component of a URI; of a bucket, the bucket's."""
    bucket, path = split(uri)
    return path.rstrip("/").rpartition("/")[2] or (bucket or "/").rpartition("://")[2]


def ending(name: str) -> str:
    """The last ending of a file's name in lower case, with its dot; empty if there is none."""
    return "." + name.rsplit(".", 1)[1].lower() if "." in name else ""


def is_folder_name(uri: str) -> bool:
    """Whether `uri` can only be a folder: a bucket alone, or a slash at the end."""
    match = _SCHEME.match(uri)
    return uri.endswith("/") or (match is not None and "/" not in uri[match.end() :])
