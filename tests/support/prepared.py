"""Data sets in every format that can be prepared on disk."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nas.core.spec import DataSpec
from tests.support.image_files import encoded, random_images, write_images

FORMATS = ("folder", "npz", "parquet", "arrow", "webdataset")
CLASSES = ("cat", "dog")


def write_data(kind: str, root: Path, count: int = 24, side: int = 8, seed: int = 0) -> DataSpec:
    """Random colour images of two classes in turn, ``count`` in all."""
    pixels = random_images(count, side, seed=seed)
    images = [Image.fromarray(image_HWC) for image_HWC in pixels]
    labels = [at % 2 for at in range(count)]
    root.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        return write_images(root / "images", images)
    if kind == "npz":
        np.savez_compressed(root / "data.npz", images=pixels, labels=np.array(labels), class_names=np.array(CLASSES))
        return DataSpec(name="npz", path=str(root / "data.npz"))
    if kind == "webdataset":
        write_tar(root / "tars" / "part-0.tar", images[: count // 2], labels[: count // 2])
        write_tar(root / "tars" / "part-1.tar", images[count // 2 :], labels[count // 2 :])
        return DataSpec(name="webdataset", path=str(root / "tars"), params={"class_names": list(CLASSES)})
    table = hugging_face_table([encoded(image) for image in images], labels)
    (root / "table").mkdir()
    if kind == "parquet":
        pq.write_table(table, root / "table" / "part-0.parquet", row_group_size=5)
    else:
        file = str(root / "table" / "data-00000-of-00001.arrow")
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return DataSpec(name="parquet", path=str(root / "table"))


def hugging_face_table(images: Sequence[bytes], labels: Sequence[int]) -> pa.Table:
    """A table as Hugging Face's datasets write it."""
    rows = [{"bytes": content, "path": None} for content in images]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    table = pa.table({"image": pa.array(rows, struct), "label": pa.array(labels, pa.int64())})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_tar(path: Path, images: Sequence[Image.Image], labels: Sequence[int]) -> None:
    """A tar file of samples ``000.png`` and ``000.cls``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for at, (image, label) in enumerate(zip(images, labels, strict=True)):
            add_member(tar, f"{at:03}.png", encoded(image))
            add_member(tar, f"{at:03}.cls", str(label).encode())


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A file of a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
