"""Loading of prepared data sets: small images kept as pixels and photographs kept encoded, from three formats.

20,000 images of 64x64 pixels and 5,000 JPEGs of 256x256 (repeats of ``imagenet_sample.npz``), each from a folder,
Parquet and tar files. A worker's peak memory covers preparing the data set and reading an epoch; ``growth`` is that
with twice the images over that with the images. ``cores_ratio``: images per second on two cores over one, in turns.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks._cli import ROOT, Options, main, shared_file
from nas.core.spec import DataSpec

SMALL_SIDE = 64
PHOTO_SIDE = 224  # of the network's input
SPEED_S = 4.0  # for which batches are read, each turn
TAR_SAMPLES = 1000
SourceWriter = Callable[[Path, Sequence[bytes], Sequence[int]], str]  # writes a source and returns its kind


def photographs(archive: Path) -> tuple[list[bytes], list[int]]:
    """Encoded photographs and their classes."""
    with np.load(archive, allow_pickle=False) as arrays:
        content, offset = arrays["jpeg"].tobytes(), arrays["offset"].tolist()
        labels = arrays["label"].tolist()
    return [content[a:b] for a, b in pairwise(offset)], labels


def small_images(photos: Sequence[bytes], count: int) -> list[bytes]:
    """JPEGs of ``SMALL_SIDE`` pixels that all differ: photographs scaled down, and moved by some pixels."""
    scaled = [Image.open(io.BytesIO(photo)).convert("RGB").resize((SMALL_SIDE, SMALL_SIDE)) for photo in photos]
    pixels = [np.asarray(image) for image in scaled]
    images = []
    for at in range(count):
        content = io.BytesIO()
        moved = np.roll(pixels[at % len(pixels)], at // len(pixels), axis=1)
        Image.fromarray(moved).save(content, "jpeg", quality=90)
        images.append(content.getvalue())
    return images


def write_folder(root: Path, images: Sequence[bytes], labels: Sequence[int]) -> str:
    """One folder for each class."""
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / f"{label:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at:06}.jpg").write_bytes(image)
    return "folder"


def write_parquet(root: Path, images: Sequence[bytes], labels: Sequence[int]) -> str:
    """One file as Hugging Face's datasets write it."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": image, "path": None} for image in images], struct)
    root.mkdir(parents=True)
    pq.write_table(pa.table({"image": rows, "label": pa.array(labels)}), root / "train.parquet", row_group_size=1000)
    return "parquet"


def write_tar(root: Path, images: Sequence[bytes], labels: Sequence[int]) -> str:
    """Tar files of ``TAR_SAMPLES`` samples each."""
    root.mkdir(parents=True)
    for start in range(0, len(images), TAR_SAMPLES):
        with tarfile.open(root / f"{start:06}.tar", "w") as tar:
            for at in range(start, min(start + TAR_SAMPLES, len(images))):
                for name, content in ((f"{at:06}.jpg", images[at]), (f"{at:06}.cls", str(labels[at]).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return "webdataset"


WRITERS: Mapping[str, SourceWriter] = {"folder": write_folder, "parquet": write_parquet, "tar": write_tar}


def measure(spec: DataSpec, cache: Path, seconds: float) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, "-m", "benchmarks._loading_child", spec.model_dump_json(), str(cache), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def measure_source(
    write: SourceWriter, images: Sequence[bytes], labels: Sequence[int], params: Mapping[str, Any], count: int
) -> dict[str, float]:
    """The figures of one source: its first ``count`` images, and then all, twice as many."""
    with tempfile.TemporaryDirectory(prefix="hwnas-loading-") as folder:
        root = Path(folder)
        single, double = root / "single", root / "double"
        kind = write(single, images[:count], labels[:count])
        write(double, images, labels)
        spec = DataSpec(name=kind, path=str(single), params=dict(params))
        first = measure(spec, root / "cache", 0)
        again = measure(spec, root / "cache", SPEED_S)
        prepared = sum(path.stat().st_size for path in (root / "cache" / "prepared").rglob("*") if path.is_file())
        twice = measure(spec.model_copy(update={"path": str(double)}), root / "cache-of-double", 0)
    one, two = ([speeds[which] for speeds in again["speeds"]] for which in (0, 1))
    return {
        "images_per_s": median(two),
        "peak_mb": first["peak_mb"],
        "growth": twice["peak_mb"] / first["peak_mb"],
        "prepared_bytes": prepared,
        "first_start_s": first["first_batch_s"],
        "second_start_s": again["first_batch_s"],
        "cores_ratio": median(b / a for a, b in zip(one, two, strict=True)),
    }


def bench(options: Options) -> Mapping[str, Any]:
    """All sources by name."""
    images, photos = int(options.more["images"]), int(options.more["photos"])
    encoded, classes = photographs(shared_file(options, "data", "imagenet_sample.npz"))
    small = small_images(encoded, 2 * images)
    small_labels = [classes[at % len(classes)] % 100 for at in range(2 * images)]
    large = [encoded[at % len(encoded)] for at in range(2 * photos)]
    large_labels = [classes[at % len(classes)] % 100 for at in range(2 * photos)]
    sources = {}
    for name, write in WRITERS.items():
        sources[f"pixels_{name}"] = measure_source(write, small, small_labels, {"storage": "decoded"}, images)
        photo_params = {"storage": "encoded", "image_size": PHOTO_SIDE}
        sources[f"photos_{name}"] = measure_source(write, large, large_labels, photo_params, photos)
    return {"images": images, "photos": photos, "sources": sources}


def add_counts(parser: argparse.ArgumentParser) -> None:
    """``--images`` of 64 pixels and ``--photos`` of 256."""
    parser.add_argument("--images", type=int, default=20_000, help="small images of each source (%(default)s)")
    parser.add_argument("--photos", type=int, default=5_000, help="photographs of each source (%(default)s)")


if __name__ == "__main__":
    main("data_loading", bench, __doc__ or "", ("torch", "numpy", "pillow", "pyarrow"), more=add_counts)
