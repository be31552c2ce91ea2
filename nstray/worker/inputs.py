"""What a pair needs: its images and masks, fetched, decoded and brought to size.

If one of them can't be had, the pair ends here with the reason. No torch runs here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from nstray import storage
from nstray.engine import settings
from nstray.engine.pair import pair_seed
from nstray.errors import (
    AccessDenied,
    BadArchive,
    BadCredentials,
    Changed,
    Corrupt,
    ErrorCode,
    NotFound,
    PairError,
    StorageError,
    TooLarge,
    Unreachable,
    UsageError,
)
from nstray.images.decode import decode, decode_mask
from nstray.images.resize import fit, fit_mask
from nstray.manifest.pair import Pair, pairs
from nstray.manifest.shards import Shard
from nstray.sources import loose
from nstray.sources.read import Sources
from nstray.sources.reference import split_member
from nstray.storage.backoff import retry
from nstray.text import log_event
from nstray.worker.image_cache import ImageCache, Picture
from nstray.worker.messages import JobSpec
from nstray.worker.requests import Request, Requests
from nstray.worker.style_cache import StyleCache
from nstray.worker.timing import PhaseTimes

log = logging.getLogger(__name__)
CACHE_BYTES = 256 * 2**20
# What damaged bytes can look like.
_OF_BYTES = frozenset(
    {
        ErrorCode.DECODE_FAILED,
        ErrorCode.EMPTY_FILE,
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.TOO_MANY_PIXELS,
        ErrorCode.UNSUPPORTED_FORMAT,
    }
)
_SHARED = ("style", "fine style")  # the roles of images that many pairs of a job use


@dataclass
class LoadedPair:
    """A pair with its images, or with the reason why it ends here.

    Attributes:
        masks: of the content: one per style, or none.
        style_masks: one per style, None for all of a style; or none.
        start: the image that the optimisation starts from, if `init` names one.
    """

    pair: Pair
    seed: int
    content: Picture | None = None
    styles: list[Picture] = field(default_factory=list)
    masks: list[Picture] = field(default_factory=list)
    style_masks: list[Picture | None] = field(default_factory=list)
    fine: Picture | None = None
    start: Picture | None = None
    error: PairError | None = None


class Inputs:
    """The images of a job's pairs, with a cache of those used last.

    Methods may be called from several threads.

    Args:
        pool: where images are fetched and decoded.
        merged: the job's settings with a pair's own.
        minimum_side: of the network, in pixels, for the taps that a picture needs.
        phases: told of the time that fetching and decoding take.
        on_step: called for each image, and for each pause for a store that is out of reach.
    """

    def __init__(
        self,
        spec: JobSpec,
        pool: ThreadPoolExecutor,
        merged: Callable[[Mapping[str, Any]], settings.StylizeConfig],
        minimum_side: Callable[[Sequence[str]], int],
        phases: PhaseTimes,
        on_step: Callable[[], None],
    ) -> None:
        self.spec, self._pool, self._merged = spec, pool, merged
        self._minimum_side = minimum_side
        self._phases, self._on_step = phases, on_step
        self._requests = Requests(spec.config, spec.init)
        self._cache = ImageCache(CACHE_BYTES)
        self._styles = StyleCache(spec.run)
        self._sources = Sources(spec.config.max_bytes, self._styles, on_step)
        self._given: dict[str, str] = {}  # the image that each store gave last

    def prepare(self, shard: Shard) -> list[LoadedPair]:
        """Every pair of the shard with its images or its error.

        Raises `StorageError` if a store stays out of reach.
        """
        return self.load(pairs(shard.table, self.spec.info))

    def load(self, rows: Sequence[Pair]) -> list[LoadedPair]:
        """Each of these pairs with its images or its error; raises as `prepare` does."""
        futures: dict[Request, Future[Picture]] = {}

        def submit(requests: Iterable[Request]) -> None:
            # The role is part of a request, since an error names it.
            for request in requests:
                if request not in futures:
                    futures[request] = self._pool.submit(self._fetch, request)

        submit(self._requests.content(pair) for pair in rows)
        waiting: list[Pair] = []
        for pair in rows:
            if self._requests.depend_on_content(pair):
                waiting.append(pair)
            else:
                submit(self._requests.others(pair))
        for pair in waiting:
            with contextlib.suppress(PairError, StorageError):  # `_assemble` meets it again
                submit(self._others(pair, futures[self._requests.content(pair)].result()))
        return [self._assemble(pair, futures) for pair in rows]

    def _others(self, pair: Pair, content: Picture) -> list[Request]:
        height, width = content.pixels.shape[:2]
        return self._requests.others(pair, width * height)

    def _assemble(self, pair: Pair, futures: Mapping[Request, Future[Picture]]) -> LoadedPair:
        ready = LoadedPair(pair, self.seed(pair))
        try:
            masks: dict[str, list[Picture]] = {"content mask": [], "style mask": []}
            ready.content = futures[self._requests.content(pair)].result()
            for request in self._others(pair, ready.content):
                role, image = request.role, futures[request].result()
                if role == "style":
                    ready.styles.append(image)
                elif role == "fine style":
                    ready.fine = image
                elif role == "init":
                    ready.start = image
                else:
                    masks[role].append(image)
            self._fit_masks(ready, masks["content mask"], masks["style mask"])
            self._check_sides(ready)
        except PairError as error:
            ready.error = error
        except StorageError:
            raise  # the store is out of reach, which is no pair's fault
        except Exception as error:
            log.exception("pair=%s", pair.pair_id)
            ready.error = PairError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
        return ready

    def _fit_masks(
        self, ready: LoadedPair, masks: Sequence[Picture], style_masks: Sequence[Picture]
    ) -> None:
        """Bring every mask to its picture; raises PairError BAD_MASK."""
        pair, content = ready.pair, ready.content
        assert content is not None
        rule = pair.overrides.get("size_rule", self.spec.config.size_rule)
        ready.masks = [
            _fitted(m, content, rule, f"content mask {storage.redact(u)}")
            for m, u in zip(masks, pair.content_masks, strict=True)
        ]
        given = iter(style_masks)
        # whatever the rule, a style keeps its aspect
        ready.style_masks = [
            _fitted(next(given), style, "area", f"style mask {storage.redact(uri)}")
            if uri
            else None
            for uri, style in zip(pair.style_masks, ready.styles, strict=bool(pair.style_masks))
        ]

    def _check_sides(self, ready: LoadedPair) -> None:
        config = self._merged(self.own_settings(ready.pair))
        content_taps = config.content_layers if config.content_weight > 0 else ()
        style_taps = config.style_layers if ready.styles and config.style_weight > 0 else ()
        least = self._minimum_side((*content_taps, *style_taps))
        least_style = self._minimum_side(style_taps)
        assert ready.content is not None
        sides = [("content", ready.pair.content or "", ready.content, least)]
        sides += [
            ("style", uri, image, least_style)
            for uri, image in zip(ready.pair.styles, ready.styles, strict=True)
        ]
        if ready.fine is not None:
            least_fine = self._minimum_side(config.fine_layers)
            sides += [
                ("style", uri, image, least_fine)
                for uri, image in zip(ready.pair.styles, ready.styles, strict=True)
            ]
            sides += [("fine style", ready.pair.fine_style or "", ready.fine, least_fine)]
        for role, uri, image, side in sides:
            h, w = image.pixels.shape[:2]
            if min(h, w) < side:
                raise PairError(
                    ErrorCode.TOO_SMALL,
                    f"{role} {storage.redact(uri)} is {w} x {h} pixels after resizing; "
                    f"the deepest layer needs {side} a side: "
                    "use a larger size or image, or shallower layers",
                )

    def _fetch(self, request: Request) -> Picture:
        """One image, decoded and resized; it goes into the cache.

        Raises `PairError` for what is wrong with this image. Raises `StorageError` if its store
        stays out of reach or does not know the credentials.
        """
        if (cached := self._cache.get(request.key)) is not None:
            return cached
        data = self._fetch_bytes(request)
        try:
            image = self._decode(request, data)
        except PairError as error:
            # Not every store gives a digest that would show damage on the way.
            if storage.split(request.uri)[0] is None or error.code not in _OF_BYTES:
                raise
            self._styles.forget(_shared_name(request))
            again = self._fetch_bytes(request, again=True)
            if again == data:
                raise
            log_event("read_again", log.warning, image=request.uri, reason=error)
            image = self._decode(request, again)
        self._cache.put(request.key, image)
        self._on_step()
        return image

    def _fetch_bytes(self, request: Request, *, again: bool = False) -> bytes:
        """The bytes of an image; raises as `_fetch` does.

        Args:
            again: what came before may be damaged.
        """
        role, uri = request.role, request.uri
        try:
            with self._phases.timed("fetch"):
                data = retry(
                    storage.redact(uri),
                    Unreachable,
                    lambda: self._read(request, again),
                    self._on_step,
                    lambda: self._gives_others(uri),
                )
        except NotFound as error:
            raise PairError(ErrorCode.NOT_FOUND, f"{role}: {error}{_spaces(uri)}") from None
        except BadCredentials:  # every image would be refused
            raise
        except AccessDenied as error:
            raise PairError(ErrorCode.ACCESS_DENIED, f"{role}: {error}") from None
        except TooLarge as error:
            raise PairError(ErrorCode.TOO_MANY_BYTES, f"{role}: {error}") from None
        except BadArchive as error:
            raise PairError(ErrorCode.BAD_ARCHIVE, f"{role}: {error}") from None
        except Changed as error:
            raise PairError(
                ErrorCode.SOURCE_CHANGED,
                f"{role} {storage.redact(uri)}: the archive is not the version that the manifest "
                f"names ({error}); make the manifest anew, or put that version back",
            ) from None
        except Unreachable as error:
            if not isinstance(error, Corrupt) and not self._gives_others(uri):
                raise
            # it is this object that its store can't give
            raise PairError(ErrorCode.FETCH_FAILED, f"{role}: {error}") from None
        except (StorageError, UsageError) as error:
            raise PairError(ErrorCode.FETCH_FAILED, f"{role}: {error}") from None
        return data

    def _decode(self, request: Request, data: bytes) -> Picture:
        config, what = self.spec.config, f"{request.role} {storage.redact(request.uri)}"
        read_pixels = decode_mask if request.mask else decode
        most = config.max_pixels
        with self._phases.timed("decode"):
            pixels = read_pixels(data, what=what, max_bytes=config.max_bytes, max_pixels=most)
            source = pixels.shape[:2]
            if request.size is not None:
                size, rule = request.size, request.rule
                pixels = fit(pixels, size, rule, request.upsample, what=what, max_pixels=most)
        return Picture(pixels, hashlib.sha256(data).hexdigest(), source)

    def close(self) -> None:
        """Stop using what is shared with the other workers of this machine."""
        self._styles.close()

    def _read(self, request: Request, again: bool) -> bytes:
        uri, place = request.uri, request.place

        def fetch() -> bytes:
            read = self._sources.read_again if again else self._sources.read
            data = read(uri, place)
            self._given[_store(uri)] = uri
            return data

        # A content belongs to one pair, or to a few that come one after another. A local file needs
        # no copy.
        shared = request.role in _SHARED and storage.is_uri(uri)
        return self._styles.get(_shared_name(request), fetch) if shared else fetch()

    def _gives_others(self, uri: str) -> bool:
        """Whether the store of `uri` still gives another image that it gave before.

        Then it is this image that can't be read, and not the store that is out of reach. Of an
        archive its first byte is enough.
        """
        other = self._given.get(_store(uri), uri)
        if other == uri:
            return False
        self._on_step()
        try:
            if (member := split_member(other)) is not None:
                storage.read_start(member[0], 1)
            else:
                loose.read(other, self.spec.config.max_bytes)
        except Corrupt:
            pass
        except Unreachable:
            return False
        except StorageError:  # an answer too
            pass
        return True

    def seed(self, pair: Pair) -> int:
        """The row's own seed, or one derived from the job's and the pair's id."""
        own = pair.overrides.get("seed")
        return int(own) if own is not None else pair_seed(self.spec.config.seed, pair.pair_id)

    def own_settings(self, pair: Pair) -> dict[str, Any]:
        """The row's own settings for the engine.

        An `init` that is an image is left out: it is the pair's `start`.
        """
        own = {
            name: value
            for name, value in pair.overrides.items()
            if name in settings.NAMES and name != "seed"
        }
        if own.get("init", "content") not in settings.INITS:
            del own["init"]
        return own


def _spaces(uri: str) -> str:
    """The name in quotes, if a folder's or file's begins or ends with white space; else empty."""
    found = re.search(r"/\s|\s/|\s$", uri)
    return f" (with white space in its name: {storage.redact(uri)!r})" if found else ""


def _shared_name(request: Request) -> str:
    """What names an image's bytes in the cache that workers share."""
    return request.uri if request.place is None else f"{request.uri}\0{request.place}"


def _store(uri: str) -> str:
    """The bucket of a URI, or "" for local files."""
    return uri.split("/")[2] if storage.is_uri(uri) else ""


def _fitted(mask: Picture, picture: Picture, rule: str, what: str) -> Picture:
    """`mask`, brought to the size of its picture; raises PairError BAD_MASK."""
    height, width = picture.pixels.shape[:2]
    pixels = fit_mask(mask.pixels, picture.source, (height, width), rule, what=what)
    return Picture(pixels, mask.sha256, mask.source)
