"""Write the prepared samples of a split for another trainer, with their images by path or as copies."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import naming
from usertune.data.images import BadImageError, is_turned, load_image, locate, read_checked
from usertune.data.samples import Image, read_user
from usertune.data.writer import Writer, named

logger = logging.getLogger(__name__)

FOLDER = "images"


class ImagePaths:
    """The paths of images for another trainer; each image is looked at, or copied, once.

    Args:
        root: the dataset's root.
        copies: folder in which the copies are made; None to name the images where they are.
    """

    def __init__(self, root: Path, copies: Path | None) -> None:
        self.root, self.copies = root, copies
        self._found: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._found)

    def of(self, image: Image) -> str:
        """Return the absolute path of an image, or, if it is copied, its path relative to the folder of copies' parent.

        A photo that is stored turned is copied upright, without loss: other trainers ignore its orientation, and its
        points would be wrong.

        Raises:
            BadImageError: the image is missing or has other bytes than when it was prepared, or it is stored turned and
                is not copied.
        """
        if image["path"] not in self._found:
            self._found[image["path"]] = self._path(image) if self.copies is None else self._copy(image, self.copies)
        return self._found[image["path"]]

    def _path(self, image: Image) -> str:
        path = locate(self.root, image).absolute()
        if is_turned(path):
            raise BadImageError(
                f"{path}: the photo is stored turned (EXIF orientation), which other trainers ignore; use "
                "--copy-images, which copies it upright"
            )
        return str(path)

    def _copy(self, image: Image, copies: Path) -> str:
        content = read_checked(self.root, image)
        path = copies / image["path"]
        if is_turned(locate(self.root, image)):
            path = copies / "upright" / f"{image['sha256']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            if path.name == f"{image['sha256']}.png":
                load_image(self.root, image).save(path, format="PNG")
            else:
                path.write_bytes(content)
        return path.relative_to(copies.parent).as_posix()


def write_split(writer: Writer, manifests: Sequence[Path], images: ImagePaths, file: Path) -> dict[str, Any]:
    """Write the samples of a split's users, one line a sample.

    Args:
        writer: the format.
        manifests: what the prepare step wrote for each user.
        images: decides the path of each image.
        file: JSON Lines to write.

    Returns:
        ``users``, ``samples``, the ``sha256`` of the file, and user -> digest of the prepared samples as ``prepared``.

    Raises:
        UserError: samples or images changed since they were prepared, or the format cannot express a sample.
    """
    total, count, prepared = hashlib.sha256(), 0, {}
    with naming(file), file.open("xb") as out:
        for path in manifests:
            manifest, samples = read_user(path)
            prepared[manifest["user"]] = manifest["output"]
            for sample in samples:
                try:
                    paths = [images.of(image) for image in sample["images"]]
                except BadImageError as error:
                    raise UserError(f"{named(sample)}: {error}") from None
                line = json.dumps(writer.record(sample, paths), ensure_ascii=False).encode("utf-8") + b"\n"
                total.update(line)
                out.write(line)
            count += len(samples)
            logger.info("user %s: %d samples", manifest["user"], len(samples))
    return {"users": len(prepared), "samples": count, "sha256": total.hexdigest(), "prepared": prepared}
