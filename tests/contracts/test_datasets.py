"""Every data set keeps the same promises: disjoint, stratified, seeded splits, and a clear refusal of bad input."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas.core import registry
from nas.core.errors import InvalidData, InvalidInput, InvalidSpec, UnknownName
from nas.core.ports import Dataset, Split
from nas.core.spec import DataSpec
from nas.datasets.splits import Source, SplitParams, build, stratified
from tests.support.paths import ROOT
from tests.support.prepared import write_tar

SHARED = Path(os.environ.get("HWNAS_SHARED", ROOT.parent / "shared"))
FASHION = SHARED / "data" / "fashion_mnist.npz"


def describe(spec: DataSpec) -> Any:
    return registry.load_dataset(spec.name).describe(spec)


def load(spec: DataSpec, seed: int = 0) -> Dataset:
    return registry.load_dataset(spec.name).load(spec, seed)


def pictures(n: int = 60, classes: int = 3, channels: int = 3, side: int = 8) -> tuple[Any, Any]:
    """Images that are all different, so that a split's images can be told apart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(n, side, side, channels), dtype=np.uint8)
    return images, np.arange(n) % classes


def png(image_HWC: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC).save(out, "png")
    return out.getvalue()


def write_npz(path: Path, **arrays: Any) -> DataSpec:
    np.savez_compressed(path / "data.npz", **arrays)
    return DataSpec(name="npz", path=str(path / "data.npz"))


def write_folder(path: Path, images: Any, labels: Any) -> DataSpec:
    for n, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = path / f"class-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n:03}.png").write_bytes(png(image))
    return DataSpec(name="folder", path=str(path))


def write_parquet(path: Path, images: Any, labels: Any, names: list[str] | None = None) -> DataSpec:
    rows = [{"bytes": png(image), "path": None} for image in images]
    table = pa.table(
        {
            "image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array([int(k) for k in labels], pa.int64()),
        }
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return DataSpec(name="parquet", path=str(path))


def make(kind: str, path: Path) -> DataSpec:
    images, labels = pictures()
    if kind == "digits":
        return DataSpec()
    if kind == "npz":
        return write_npz(path, images=images, labels=labels)
    if kind == "folder":
        return write_folder(path / "root", images, labels)
    if kind == "webdataset":
        write_tar(path / "part.tar", [Image.fromarray(image_HWC) for image_HWC in images], labels.tolist())
        return DataSpec(name="webdataset", path=str(path / "part.tar"))
    return write_parquet(path / "data.parquet", images, labels)


def fingerprints(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images_NCHW}


kinds = pytest.mark.parametrize("kind", registry.names("nas.datasets"))


@kinds
def test_contract_of_every_data_set(kind: str, tmp_path: Path) -> None:
    spec = make(kind, tmp_path)
    data = load(spec, seed=1)
    assert describe(spec) == data.shape
    assert len(data.class_names) == data.shape.classes
    assert data.flip == (kind != "digits")
    total = len(data.train) + len(data.val) + len(data.test)
    assert len(data.train) / total == pytest.approx(0.6, abs=0.03)
    for split in (data.train, data.val, data.test):
        assert split.images_NCHW.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.images_NCHW.shape[1:] == (data.shape.channels, data.shape.height, data.shape.width)
        share = np.bincount(split.labels, minlength=data.shape.classes) / len(split)
        assert share == pytest.approx(1 / data.shape.classes, abs=0.03)
        assert len(np.unique(split.labels[: 4 * data.shape.classes])) > 1  # shuffled, not in class order


@kinds
def test_seed_decides_the_splits(kind: str, tmp_path: Path) -> None:
    spec = make(kind, tmp_path)
    first, again, other = load(spec, seed=1), load(spec, seed=1), load(spec, seed=2)
    assert first.content_hash == again.content_hash
    assert np.array_equal(first.train.images_NCHW, again.train.images_NCHW)
    assert first.content_hash != other.content_hash
    assert fingerprints(first.test) != fingerprints(other.test)


@pytest.mark.parametrize("kind", ["npz", "folder", "parquet"])
def test_splits_are_disjoint_and_lossless(kind: str, tmp_path: Path) -> None:
    data = load(make(kind, tmp_path))
    parts = [fingerprints(s) for s in (data.train, data.val, data.test)]
    images, labels = pictures()
    assert sum(len(p) for p in parts) == len(images) == len(parts[0] | parts[1] | parts[2])
    truth = {image.transpose(2, 0, 1).tobytes(): label for image, label in zip(images, labels, strict=True)}
    for split in (data.train, data.val, data.test):
        for image, label in zip(split.images_NCHW, split.labels, strict=True):
            assert truth[image.tobytes()] == label


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    fractions=st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49)),
    seed=st.integers(0, 2**32),
)
def test_stratified_parts_cover_everything_once(counts: list[int], fractions: tuple[float, float], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [str(k) for k in range(len(counts))]
    parts = stratified(labels, fractions, names, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part, fraction in zip(parts[1:], fractions, strict=True):
        counts_in_part = np.bincount(labels[part], minlength=len(counts))
        assert (counts_in_part >= 1).all()
        assert (np.abs(counts_in_part - fraction * np.array(counts)) <= 2).all()
    assert (np.bincount(labels[parts[0]], minlength=len(counts)) >= 1).all()


def test_digits_are_stretched_to_full_range() -> None:
    data = load(DataSpec())
    assert data.train.images_NCHW.max() == 255
    assert data.train.images_NCHW.min() == 0
    assert len(data.train) + len(data.val) + len(data.test) == 1797


def test_limits_keep_every_class(tmp_path: Path) -> None:
    images, labels = pictures(n=300)
    spec = write_npz(tmp_path, images=images, labels=labels)
    data = load(spec.model_copy(update={"params": {"max_train": 30, "max_val": 9, "max_test": 3}}))
    assert [len(s) for s in (data.train, data.val, data.test)] == [30, 9, 3]
    assert set(data.test.labels) == {0, 1, 2}
    assert fingerprints(data.train).isdisjoint(fingerprints(data.val) | fingerprints(data.test))


# npz


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x,
        lambda x: x.transpose(0, 3, 1, 2),
        lambda x: x[..., :1],
        lambda x: x[..., 0],
    ],
    ids=["NHWC", "NCHW", "NHW1", "NHW"],
)
def test_npz_layouts(arrange: Callable[[Any], Any], tmp_path: Path) -> None:
    images, labels = pictures()
    arranged = arrange(images)
    data = load(write_npz(tmp_path, x=arranged, y=labels[:, None]))
    channels = 3 if arranged.size == images.size else 1
    assert data.shape.channels == channels
    assert (data.shape.height, data.shape.width) == (8, 8)
    expected = {i.tobytes() for i in images.transpose(0, 3, 1, 2)[:, :channels]}
    assert fingerprints(data.train) <= expected


def test_npz_uses_the_test_split_of_the_source(tmp_path: Path) -> None:
    images, labels = pictures()
    spec = write_npz(tmp_path, x_train=images[:45], y_train=labels[:45], x_test=images[45:], y_test=labels[45:])
    data = load(spec)
    assert fingerprints(data.test) == {i.transpose(2, 0, 1).tobytes() for i in images[45:]}
    assert (len(data.train), len(data.val)) == (36, 9)


def test_npz_keys_and_names_by_parameter(tmp_path: Path) -> None:
    images, labels = pictures()
    spec = write_npz(tmp_path, a=images, b=labels)
    params = {"images": "a", "labels": "b", "class_names": ["cat", "dog", "owl"], "flip": False}
    data = load(spec.model_copy(update={"params": params}))
    assert data.class_names == ("cat", "dog", "owl")
    assert not data.flip
    with pytest.raises(InvalidData, match="expected an array 'c'"):
        load(spec.model_copy(update={"params": {"images": "c", "labels": "b"}}))
    with pytest.raises(InvalidData, match=r"expected arrays named .* got a, b"):
        load(spec)


def bad_arrays() -> list[Any]:
    x, y = pictures()
    gap, one, few = y.copy(), np.zeros_like(y), y.copy()
    gap[gap == 1] = 2
    few[2:] %= 2
    few[:2] = 2
    return [
        pytest.param(
            {"images": x.astype(np.float32), "labels": y}, "expected images of type uint8.*float32", id="float"
        ),
        pytest.param(
            {"images": x[:, 0, 0], "labels": y}, r"expected images of shape NHWC, NCHW or NHW.*\(60, 3\)", id="2d"
        ),
        pytest.param({"images": x, "labels": y[:-1]}, "60 images, 59 labels", id="length"),
        pytest.param({"images": x, "labels": y.astype(float)}, "expected integer labels.*float64", id="float labels"),
        pytest.param({"images": x, "labels": np.eye(3, dtype=int)[y]}, r"shape \(N,\).*\(60, 3\)", id="one-hot"),
        pytest.param({"images": x, "labels": y - 1}, "expected labels from 0, got -1", id="negative"),
        pytest.param({"images": x, "labels": gap}, "class 1 has no images", id="empty class"),
        pytest.param({"images": x, "labels": y + 1}, "class 0 has no images", id="from one"),
        pytest.param({"images": x, "labels": one}, "at least 2 classes, got 1", id="one class"),
        pytest.param({"images": x, "labels": few}, "class '2' has too few images", id="too few"),
        pytest.param(
            {"images": x.transpose(0, 3, 1, 2).repeat(3, 3)[..., :3], "labels": y},
            "set the parameter layout",
            id="layout",
        ),
        pytest.param({"images": x[:0], "labels": y[:0]}, "at least 2 classes, got 0", id="empty"),
        pytest.param(
            {"x_train": x, "y_train": y, "x_test": x[:, :4], "y_test": y},
            r"expected the shape.*\(3, 8, 8\)",
            id="test shape",
        ),
        pytest.param(
            {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]},
            "class '2' has no images in the test",
            id="test class",
        ),
        pytest.param({"x_train": x, "y_train": y, "x_test": x}, "expected an array 'y_test'", id="half a test"),
    ]


@pytest.mark.parametrize(("arrays", "message"), bad_arrays())
def test_npz_refuses(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=message):
        load(write_npz(tmp_path, **arrays))


def test_npz_never_unpickles(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    _, labels = pictures()
    spec = write_npz(tmp_path, images=np.array([Trap()] * 60, dtype=object), labels=labels)
    for use in (load, describe):
        with pytest.raises(InvalidData, match=r"pickled Python objects.*expected plain numbers"):
            use(spec)
    assert not (tmp_path / "sprung").exists()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_npz_damage_is_noticed_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever byte is flipped or wherever the file ends: InvalidData, or exactly the images that were written."""
    path = tmp_path_factory.mktemp("npz")
    images, labels = pictures(n=12)
    spec = write_npz(path, images=images, labels=labels)
    file = path / "data.npz"
    raw = bytearray(file.read_bytes())
    intact = load(spec)
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[at] ^= data.draw(st.integers(1, 255))
    else:
        del raw[at:]
    file.write_bytes(raw)
    try:
        damaged = load(spec)
    except InvalidInput:
        return
    assert damaged.content_hash == intact.content_hash


def test_npz_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"not an archive")
    with pytest.raises(InvalidData, match=r"expected a NumPy archive"):
        load(DataSpec(name="npz", path=str(tmp_path / "data.npz")))
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY garbage")
        archive.writestr("labels.npy", b"")
    with pytest.raises(InvalidData, match="'images' is corrupt"):
        load(DataSpec(name="npz", path=str(tmp_path / "data.npz")))


# folder


def test_folder_with_splits_of_its_own(tmp_path: Path) -> None:
    images, labels = pictures()
    for part, at in {"train": slice(0, 30), "val": slice(30, 45), "test": slice(45, 60)}.items():
        write_folder(tmp_path / part, images[at], labels[at])
    data = load(DataSpec(name="folder", path=str(tmp_path)))
    assert [len(s) for s in (data.train, data.val, data.test)] == [30, 15, 15]
    assert fingerprints(data.test) == {i.transpose(2, 0, 1).tobytes() for i in images[45:]}
    assert data.class_names == ("class-0", "class-1", "class-2")


def test_folder_scales_to_image_size(tmp_path: Path) -> None:
    images, labels = pictures()
    spec = write_folder(tmp_path, images, labels)
    Image.fromarray(np.full((20, 40, 3), 200, np.uint8)).save(tmp_path / "class-0" / "wide.jpg")
    with pytest.raises(InvalidData, match=r"wide\.jpg: expected 8x8 pixels.*got 40x20; set the parameter image_size"):
        load(spec)
    sized = spec.model_copy(update={"params": {"image_size": 12, "channels": 1}})
    data = load(sized)
    assert (data.shape.channels, data.shape.height, data.shape.width) == (1, 12, 12)
    assert describe(sized) == data.shape


def test_folder_names_the_broken_file(tmp_path: Path) -> None:
    images, labels = pictures()
    spec = write_folder(tmp_path, images, labels)
    victim = tmp_path / "class-1" / "007.png"
    intact_bytes = victim.read_bytes()
    for broken in (intact_bytes[: len(intact_bytes) // 2], b"", b"GIF89a nonsense"):
        victim.write_bytes(broken)
        with pytest.raises(InvalidData, match=r"class-1/007\.png: cannot be decoded"):
            load(spec)


def test_folder_refuses_sixteen_bits(tmp_path: Path) -> None:
    images, labels = pictures()
    spec = write_folder(tmp_path, images, labels)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "class-2" / "deep.png")
    with pytest.raises(InvalidData, match=r"deep\.png: expected 8 bits per channel"):
        load(spec)


def test_folder_names_the_empty_class(tmp_path: Path) -> None:
    images, labels = pictures()
    spec = write_folder(tmp_path, images, labels)
    (tmp_path / "nobody").mkdir()
    for use in (describe, load):
        with pytest.raises(InvalidData, match="class 'nobody' has no images"):
            use(spec)


def test_folder_class_missing_in_a_split(tmp_path: Path) -> None:
    images, labels = pictures()
    write_folder(tmp_path / "train", images, labels)
    write_folder(tmp_path / "test", images[labels != 1], labels[labels != 1])
    with pytest.raises(InvalidData, match=r"class 'class-1' has no images.*test"):
        load(DataSpec(name="folder", path=str(tmp_path)))


def test_folder_without_classes(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="expected one sub-folder per class"):
        load(DataSpec(name="folder", path=str(tmp_path)))
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.png").write_bytes(png(pictures()[0][0]))
    with pytest.raises(InvalidData, match=r"at least 2 classes, got 1 \(only\)"):
        load(DataSpec(name="folder", path=str(tmp_path)))


# parquet


def test_parquet_shards_by_split(tmp_path: Path) -> None:
    images, labels = pictures()
    names = ["cat", "dog", "owl"]
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", images[:15], labels[:15], names)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", images[15:30], labels[15:30], names)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", images[30:45], labels[30:45], names)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", images[45:], labels[45:], names)
    spec = DataSpec(name="parquet", path=str(tmp_path))
    data = load(spec)
    assert [len(s) for s in (data.train, data.val, data.test)] == [30, 15, 15]
    assert fingerprints(data.val) == {i.transpose(2, 0, 1).tobytes() for i in images[30:45]}
    assert data.class_names == ("cat", "dog", "owl")
    assert describe(spec) == data.shape
    (tmp_path / "data" / "extra.parquet").write_bytes((tmp_path / "data" / "train-00000-of-00002.parquet").read_bytes())
    with pytest.raises(InvalidData, match=r"extra\.parquet: expected a name such as train-00000"):
        load(spec)


def test_parquet_with_plain_bytes_and_other_names(tmp_path: Path) -> None:
    images, labels = pictures(channels=1)
    table = pa.table({"picture": [png(i) for i in images], "kind": [int(k) for k in labels]})
    pq.write_table(table, tmp_path / "p.parquet")
    spec = DataSpec(name="parquet", path=str(tmp_path / "p.parquet"))
    with pytest.raises(InvalidData, match=r"expected a column .* got picture, kind"):
        load(spec)
    data = load(spec.model_copy(update={"params": {"image": "picture", "label": "kind"}}))
    assert data.shape.channels == 1
    assert fingerprints(data.train) <= {i.transpose(2, 0, 1).tobytes() for i in images}


def test_parquet_refusals(tmp_path: Path) -> None:
    images, labels = pictures()
    path = tmp_path / "p.parquet"
    spec = write_parquet(path, images, labels)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InvalidData, match=r"p\.parquet: expected a Parquet file, got a corrupt one"):
        load(spec)
    write_parquet(path, images, np.where(labels == 2, -1, labels))
    with pytest.raises(InvalidData, match="expected labels from 0, got -1"):
        load(spec)
    write_parquet(path, images, labels, ["cat", "dog"])
    with pytest.raises(InvalidData, match="expected 0 to 1 for 2 classes, got 2"):
        load(spec)
    write_parquet(path, images, labels, ["cat", "dog", "owl", "elk"])
    with pytest.raises(InvalidData, match="class 'elk'"):
        load(spec)
    rows = [png(i) for i in images]
    pq.write_table(pa.table({"image": [*rows[:-1], None], "label": [int(k) for k in labels]}), path)
    with pytest.raises(InvalidData, match="row 59: expected the image's bytes"):
        load(spec)
    pq.write_table(pa.table({"image": [*rows[:5], rows[5][:40], *rows[6:]], "label": [int(k) for k in labels]}), path)
    with pytest.raises(InvalidData, match="row 5: cannot be decoded"):
        load(spec)
    pq.write_table(pa.table({"image": rows, "label": [str(k) for k in labels]}), path)
    with pytest.raises(InvalidData, match="column 'label': expected class numbers"):
        load(spec)
    pq.write_table(pa.table({"image": [1] * 60, "label": [int(k) for k in labels]}), path)
    with pytest.raises(InvalidData, match="column 'image': expected encoded images"):
        load(spec)


# parameters and paths


@kinds
def test_unknown_parameter_names_the_nearest(kind: str, tmp_path: Path) -> None:
    spec = make(kind, tmp_path).model_copy(update={"params": {"val_fractoin": 0.1}})
    for use in (describe, load):
        with pytest.raises(UnknownName, match=r"'val_fractoin'.*Did you mean 'val_fraction'\?"):
            use(spec)


@kinds
def test_wrong_values_of_parameters(kind: str, tmp_path: Path) -> None:
    spec = make(kind, tmp_path)
    for params in ({"val_fraction": 1.5}, {"val_fraction": 0.6, "test_fraction": 0.4}, {"max_train": 0}):
        with pytest.raises(InvalidSpec):
            describe(spec.model_copy(update={"params": params}))


@pytest.mark.parametrize("kind", ["npz", "folder", "parquet"])
def test_paths(kind: str, tmp_path: Path) -> None:
    for use in (describe, load):
        with pytest.raises(InvalidData, match=r"nowhere does not exist"):
            use(DataSpec(name=kind, path=str(tmp_path / "nowhere")))
        with pytest.raises(InvalidSpec, match="needs a path"):
            use(DataSpec(name=kind))


def test_digits_take_no_path() -> None:
    with pytest.raises(InvalidSpec, match="takes no path"):
        load(DataSpec(path="/tmp"))


def test_empty_split_of_a_source() -> None:
    images, labels = pictures()
    split = Split(images.transpose(0, 3, 1, 2), labels)
    empty = Split(split.images_NCHW[:0], labels[:0])
    with pytest.raises(InvalidData, match="class 'a' has no images in the test split of 0 images"):
        build("x", Source(split, ("a", "b", "c"), test=empty), SplitParams(), 0)


def test_data_sets_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from nas.datasets import digits, npz, folder, parquet\n"
        "from nas.core.spec import DataSpec\n"
        "assert len(digits.load(DataSpec(), 0).test) > 300\n"
        "assert 'torch' not in sys.modules"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not FASHION.exists(), reason=f"needs {FASHION}; set HWNAS_SHARED to the folder that holds data/")
def test_fashion_mnist() -> None:
    spec = DataSpec(name="npz", path=str(FASHION), params={"val_fraction": 0.1})
    data = load(spec)
    assert describe(spec) == data.shape
    assert [len(s) for s in (data.train, data.val, data.test)] == [54_000, 6_000, 10_000]
    assert np.all(np.bincount(data.val.labels) == 600)
    assert data.class_names[9] == "Ankle boot"
