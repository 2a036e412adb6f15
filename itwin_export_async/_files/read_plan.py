"""Which bytes of a blob to request next, and what a response or a failure means for the stream.

A stream may need several responses: after a broken connection, where the file has another version
than the caller expects, or where its length has to be requested from Storage first.
"""

from enum import Enum, auto

from attrs import evolve, frozen

from itwin_export_async._errors import (
    ExportError,
    NotFound,
    RateLimited,
    ResponseError,
    ServerError,
    TransportError,
)
from itwin_export_async._errors.workflow import DownloadFailure
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._protocol.blobs import (
    Content,
    ReadState,
    SizesDiffer,
    UnusableContent,
    get_blob_request,
    must_ask_size,
    parse_blob,
    with_size,
)
from itwin_export_async._protocol.messages import Request, Response

MIN_SPEED = 1024  # bytes per second, over SPEED_WINDOW seconds of waiting for the server
SPEED_WINDOW = 60.0
_EXPIRED = (401, 403)  # statuses that a new signature may cure


class NextStep(Enum):
    """What to do instead of reading a response."""

    REQUEST_AGAIN = auto()
    ASK_SIZE = auto()  # from Storage; without it the stream can still be read
    NEED_SIZE = auto()


@frozen(kw_only=True)
class GivenUp:
    """Why no other connection is tried: message and reason of the `DownloadError`."""

    message: str
    reason: DownloadFailure
    is_transient: bool = False


class TooSlow(TransportError):
    """The server sends, but below the least speed."""


@frozen
class Speed:
    """The bytes that came within `seconds` of waiting for the server."""

    seconds: float = 0.0
    count: int = 0

    def after(self, seconds: float, count: int) -> "Speed":
        """After another wait. A full window is followed by a new one."""
        if self.seconds >= SPEED_WINDOW:
            return Speed(seconds, count)
        return Speed(self.seconds + seconds, self.count + count)

    @property
    def is_too_slow(self) -> bool:
        """Whether a full window had less than the least speed."""
        return self.seconds >= SPEED_WINDOW and self.count < MIN_SPEED * self.seconds


@frozen(kw_only=True)
class ReadPlan:
    """The bytes that a stream gives, and how far it has come.

    `start` and `stop` are its bounds, `stop` None up to the end. They count only for the version
    `if_range`, an ETag; None for any. `storage_size` is the length by Storage, None where that is
    not known; `can_ask_size` says whether it can be requested there. `state` is how far the blob
    has been read. `needs_digest`: whether the digest of the bytes will show if they are right.
    """

    start: int
    stop: int | None
    if_range: str | None
    storage_size: int | None
    can_ask_size: bool
    state: ReadState
    needs_digest: bool = False

    @classmethod
    def of(
        cls,
        start: int,
        stop: int | None,
        if_range: str | None,
        *,
        size: int | None,
        can_ask_size: bool,
    ) -> "ReadPlan":
        """The plan of a new stream. Raises an error for bounds that no file has."""
        _check_range(start, stop, size if if_range is None else None)
        if if_range is not None and not if_range.startswith('"'):
            start, stop, if_range = 0, None, None  # a date or a weak ETag matches no version
        return cls(
            start=start,
            stop=stop,
            if_range=if_range,
            storage_size=size,
            can_ask_size=can_ask_size,
            state=ReadState(start=start, stop=stop),
        )

    @property
    def size(self) -> int | None:
        """The length of the whole file, None where it is not known."""
        return self.storage_size if self.state.known is None else self.state.total

    @property
    def end(self) -> int | None:
        """Where the stream ends, None where that is not known."""
        return self.stop if self.state.known is None else self.state.end

    @property
    def etag(self) -> str | None:
        """The version that is being read, None without a strong ETag."""
        return None if self.state.known is None else self.state.known.etag

    def request(self, url: str) -> Request:
        """The request of the bytes that are missing."""
        state = self.state
        etag = self.if_range if state.known is None else self.etag
        return get_blob_request(url, start=state.request_start, stop=state.stop, etag=etag)

    def after_response(self, response: Response) -> "tuple[ReadPlan, Content | NextStep]":
        """The plan after a response, and what to read of it or to do instead.

        Raises `UnusableContent`, and the error of an error response.
        """
        state = self.state
        is_first = state.known is None
        if is_first and self.if_range:
            if response.status == 412:
                return self._of_whole_file(), NextStep.REQUEST_AGAIN
            if response.status == 416 and state.start:  # one byte shows which version it is
                return evolve(self, state=ReadState(stop=0)), NextStep.REQUEST_AGAIN
        content = parse_blob(response, start=state.request_start, etag=self.etag, total=state.total)
        if is_first:
            return self._after_first(content)
        if state.repeats(content) and not self.needs_digest:
            raise UnusableContent("cannot be resumed: the store gives no ETag any more")
        return evolve(self, state=state.with_content(content)), content

    def _after_first(self, content: Content) -> "tuple[ReadPlan, Content | NextStep]":
        if self.if_range not in (None, content.etag):
            return self._of_whole_file(), NextStep.REQUEST_AGAIN
        if self.state.start != self.start and content.total != self.start:
            raise UnusableContent(
                f"cannot start at byte {self.start}: the file has {content.total} bytes", "refused"
            )
        if self.can_ask_size and must_ask_size(content, self.storage_size):
            return self, NextStep.ASK_SIZE if content.is_bounded else NextStep.NEED_SIZE
        content = with_size(content, self.storage_size)
        # the one byte that showed the version is none of the stream's
        state = evolve(self.state, start=self.start, position=self.start, stop=self.stop)
        state = state.with_content(content)
        needs_digest = content.etag is None or state.md5 is not None
        return evolve(self, state=state, needs_digest=needs_digest), content

    def _of_whole_file(self) -> "ReadPlan":
        """The file is not of the version `if_range`: read all of its present version."""
        return evolve(self, start=0, stop=None, if_range=None, state=ReadState())

    def with_storage_size(self, size: int | None) -> "ReadPlan":
        """After the request of the length from Storage, which is not repeated."""
        return evolve(self, storage_size=size, can_ask_size=False)

    def is_past_end(self, content: Content) -> bool:
        """Whether nothing is left to read of a response, although it may go on."""
        is_empty = content.start == content.stop
        return self.state.is_complete and (is_empty or self._is_cut(content))

    def after_chunk(
        self, content: Content, chunk: bytes, offset: int
    ) -> tuple["ReadPlan", bytes, bytes]:
        """The plan after a chunk of a response that begins at byte `offset` of the file.

        Also returns the bytes of the chunk that came before, and those that the stream gives next.
        """
        state, repeated = self.state, b""
        if offset < state.position:
            repeated = chunk[max(0, state.start - offset) : state.position - offset]
            chunk = chunk[state.position - offset :]
        room = len(chunk) if state.end is None else state.end - state.position
        if len(chunk) > room:
            if not self._is_cut(content):
                raise SizesDiffer(
                    f"received more than the {state.end} bytes that Storage reports: "
                    "the file may be changing"
                )
            chunk = chunk[:room]
        return evolve(self, state=state.with_bytes(len(chunk))), repeated, chunk

    def _is_cut(self, content: Content) -> bool:
        """Whether the stream ends before the response does."""
        return self.state.stop is not None and content.stop != self.state.end

    def after_failure(self, error: ExportError) -> "ReadPlan":
        """The plan after a connection that failed."""
        counts_bytes = not isinstance(error, TooSlow)
        return evolve(self, state=self.state.with_failure(counts_bytes=counts_bytes))

    def next_wait(
        self, error: ExportError, retry: RetryPolicy, *, can_renew: bool
    ) -> float | GivenUp:
        """Seconds to wait before the next connection, after as many failures as `state` counts.

        `can_renew`: whether there is a new URL for one that has expired.
        """
        refusal = _refusal(error, can_renew=can_renew)
        if refusal is not None:
            return refusal
        failures = self.state.failures
        requested = error.retry_after if isinstance(error, ResponseError) else None
        if failures < retry.attempts and (requested or 0.0) <= retry.max_retry_after:
            return max(requested or 0.0, retry.backoff(failures))
        message = f"gave up after attempt {failures} of {retry.attempts}: {error}"
        if is_expired(error):
            message += "; each had a new signed URL: a proxy or firewall may refuse"
            return GivenUp(message=message, reason="refused")
        return GivenUp(message=message, reason="incomplete", is_transient=True)


def is_expired(error: ExportError) -> bool:
    """Whether the signature of the URL may have expired."""
    return isinstance(error, ResponseError) and error.status in _EXPIRED


def _refusal(error: ExportError, *, can_renew: bool) -> GivenUp | None:
    """Why another connection cannot help, None where it can."""
    if is_expired(error):
        if can_renew:
            return None
        message = f"the URL has expired or does not allow reading: {error}"
        return GivenUp(message=message, reason="refused")
    if isinstance(error, NotFound):
        message = f"the blob store has no such file: {error}"
        return GivenUp(message=message, reason="not_available")
    is_408 = isinstance(error, ResponseError) and error.status == 408
    if is_408 or isinstance(error, TransportError | ServerError | RateLimited):
        return None
    return GivenUp(message=f"the blob store refuses: {error}", reason="refused")


def _check_range(start: int, stop: int | None, size: int | None) -> None:
    for name, value in (("start", start), ("stop", stop)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be an integer, not {value!r}")
    if start < 0:
        raise ValueError(f"start must be at least 0, not {start}")
    if size is not None and start > size:
        raise ValueError(f"start must be at most {size}, the size of the file, not {start}")
    if stop is not None and stop < start:
        raise ValueError(f"stop must be at least {start}, the start, not {stop}")
