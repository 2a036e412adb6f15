"""An output file of a run, which can be read as a stream."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from attrs import field, frozen

from itwin_export_async._files.blob_reader import BlobReader


@frozen(kw_only=True)
class RunOutput:
    """An output file of a finished run: `RunHandle.outputs`.

    `file_id` is its id in Storage, empty for a blob of the caller's own. `size` is in bytes, None
    where the service does not give it. It pickles, but only the one from `outputs()` can be opened.
    """

    file_id: str
    name: str
    size: int | None = None
    _open: Callable[..., AbstractAsyncContextManager[BlobReader]] | None = field(
        default=None, eq=False, repr=False
    )

    def open(
        self, *, start: int = 0, stop: int | None = None, if_range: str | None = None
    ) -> AbstractAsyncContextManager[BlobReader]:
        """The content as a stream, as by `storage.open`. Nothing touches a disk."""
        if self._open is None:
            raise RuntimeError("this output has no client: get it from run.outputs()")
        return self._open(start=start, stop=stop, if_range=if_range)

    def __reduce__(self) -> Any:
        return _restore_output, (self.file_id, self.name, self.size)


def _restore_output(file_id: str, name: str, size: int | None) -> RunOutput:
    return RunOutput(file_id=file_id, name=name, size=size)
