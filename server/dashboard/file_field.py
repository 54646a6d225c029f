"""A field that uploads a file."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path, PurePath
from typing import Generic, TypeVar

from nicegui import events, ui
from nicegui.elements.mixins.text_element import TextElement

from nas.core.errors import HwnasError, InvalidInput
from server.dashboard.elements import text
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.service_calls import call_service

UploadT = TypeVar("UploadT")
# Quasar's own header has its field inside the button, without a name, which screen readers do not get past.
_HEADER = """<div class="flow chooser">
<q-btn flat no-caps icon="upload_file" label="LABEL" @click="props.pickFiles"></q-btn>
<label class="unseen">LABEL<q-uploader-add-trigger></q-uploader-add-trigger></label>
<span v-if="props.isUploading" class="small">{{ props.uploadSizeLabel }}, {{ props.uploadProgressLabel }}</span>
</div>"""


def file_chooser(
    label: str, suffixes: Sequence[str], on_upload: Callable[[events.UploadEventArguments], Awaitable[None]]
) -> ui.upload:
    """A button that uploads a file with one of the suffixes as soon as it is chosen. ``label`` is plain text."""
    chooser = ui.upload(on_upload=on_upload, auto_upload=True)
    chooser.add_slot("header", _HEADER.replace("LABEL", label))
    return chooser.props(f"accept={','.join(suffixes)} flat bordered")


class FileField(Generic[UploadT]):
    """Uploads one file by ``upload(path, filename)`` at once when it is chosen. ``uploaded`` is None until it has
    arrived; then ``on_uploaded`` gets its name, and ``describe`` says what arrived. ``noun`` is what the file should
    hold, ``rejection`` what is said of a file that the browser does not let through: it tells no names of others."""

    def __init__(
        self,
        label: str,
        suffixes: Sequence[str],
        upload: Callable[[Path, str], UploadT],
        problem: MemoizedView[[str | None]],
        on_uploaded: Callable[[str], None],
        *,
        noun: str,
        rejection: str,
        describe: Callable[[UploadT], str] = lambda _: "",
    ) -> None:
        self._send, self._problem, self._on_uploaded = upload, problem, on_uploaded
        self._noun, self._rejection, self._describe = noun, rejection, describe
        self.uploaded: UploadT | None = None
        chooser = file_chooser(f"{label} {' or '.join(suffixes)}", suffixes, self._upload)
        chooser.on_rejected(lambda: self._problem.show(self._rejection))
        self._state: TextElement = text("", "small muted")

    def require(self) -> UploadT:
        """What was uploaded. Raises InvalidInput without a file."""
        if self.uploaded is None:
            raise InvalidInput(f"expected {self._noun}: choose a file first")
        return self.uploaded

    async def _upload(self, event: events.UploadEventArguments) -> None:
        filename = PurePath(event.file.name).name
        try:
            with tempfile.TemporaryDirectory(prefix="hwnas-upload-") as folder:
                path = Path(folder) / "file"
                await event.file.save(path)
                self.uploaded = await call_service(self._send, path, filename)
        except HwnasError as error:
            self.uploaded, self._state.text = None, ""
            self._problem.show(str(error))
            return
        self._state.text = f"{filename} is uploaded{self._describe(self.uploaded)}"
        self._on_uploaded(filename)
        self._problem.show(None)
