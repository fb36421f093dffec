"""Canonical samples from image headers, where only sizes and texts are needed."""

from __future__ import annotations

from usertune.data.canonical import Canonical
from usertune.data.images import BadImageError, size_in_header
from usertune.data.reader import BadSampleError, RawSample


class FromHeaders(Canonical):
    """Makes canonical samples without decoding images: their records have no digest."""

    def _open(self, raw: RawSample) -> BadSampleError | None:
        for path in raw.image_paths:
            if path not in self._images:
                try:
                    width, height = size_in_header(self.root, path)
                except BadImageError:
                    # Tried again below, for the message, and for images that are no files of their own.
                    break
                self._images[path] = {"path": path, "sha256": "", "width": width, "height": height}
        return super()._open(raw)
