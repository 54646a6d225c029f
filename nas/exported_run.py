"""Runs the exported model beside this file on images. Needs Python, numpy and onnxruntime, nothing else.

    python run.py images.npy                     # an uint8 array, or an .npz archive that holds one
    python run.py images.npz --key x_test --int8 --logits logits.npy

A classifier prints the class of each image, a tagger its classes, a regression network its values. A segmentation
network prints the shares of classes, and ``--logits`` has the pixels; several outputs are written as an .npz archive.
Images may be of any size, grey or RGB as the model was trained, laid out as NHWC, NCHW, NHW, HWC or HW.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_NCHW(images: NDArray[Any], channels: int) -> NDArray[np.uint8]:
    """One image or many as (N, C, H, W). Raises ValueError for another type, channel count or unclear layout."""
    if images.dtype != np.uint8:
        raise ValueError(f"expected pixel values of type uint8 (0 to 255), got {images.dtype}")
    if images.ndim == 2 and channels == 1:
        return images[None, None]
    if images.ndim == 3:
        single = images.shape[2] == channels
        if single or channels != 1:
            return as_NCHW(images[None], channels)
        return images[:, None]
    if images.ndim == 4:
        first, last = images.shape[1] == channels, images.shape[3] == channels
        if first != last:
            return images if first else images.transpose(0, 3, 1, 2)
    raise ValueError(f"expected images with {channels} channel(s) first or last, got an array of shape {images.shape}")


def resize(images_NCHW: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Pixel values 0 to 255 as float32 at ``height`` x ``width``: bilinear, averaging where it shrinks."""
    rows, columns = _filter(images_NCHW.shape[2], height), _filter(images_NCHW.shape[3], width)
    x = images_NCHW.astype(np.float32)
    return np.ascontiguousarray(rows @ x @ columns.T)


def _filter(size: int, out: int) -> NDArray[np.float32]:
    """A row of triangle-filter weights per output pixel, shape (out, size)."""
    scale = size / out
    support = max(scale, 1.0)
    centres = (np.arange(out)[:, None] + 0.5) * scale
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(size)[None] + 0.5 - centres) / support)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def read_images(path: Path, key: str | None) -> NDArray[Any]:
    """The array in ``path``; of an archive the one named ``key``, which may be left out if there is only one."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except ValueError as error:  # what NumPy says of any other file
        raise ValueError(f"expected an array in a .npy file or an .npz archive, got {path.name}") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        names = list(loaded.keys())
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            raise ValueError(f"expected --key to be one of {', '.join(names)}, got {key}")
        array: NDArray[Any] = loaded[key]
        return array


def describe(outputs: list[NDArray[np.float32]], labels: str, names: list[str]) -> str:
    """What the outputs for one image say, by the kind of labels that the network was trained on."""
    if labels == "class":
        share_K = _softmax(outputs[0])
        k = int(share_K.argmax())
        return f"{names[k]}\t{share_K[k]:.3f}"
    if labels == "tags":
        share_K = np.asarray(1.0 / (1.0 + np.exp(-outputs[0])), dtype=np.float32)
        return "\t".join(f"{name} {share:.3f}" for name, share in zip(names, share_K, strict=True) if share > 0.5)
    if labels == "mask":
        count_K = np.bincount(outputs[0].argmax(axis=0).ravel(), minlength=len(names))
        pixels = outputs[0][0].size
        return "\t".join(f"{name} {n / pixels:.3f}" for name, n in zip(names, count_K.tolist(), strict=True) if n)
    if labels == "values":
        return "\t".join(f"{name} {value:.6g}" for name, value in zip(names, outputs[0], strict=True))
    return "\t".join(f"output of shape {output.shape}, {output.min():.4g} to {output.max():.4g}" for output in outputs)


def _softmax(logits_K: NDArray[np.float32]) -> NDArray[np.float32]:
    shares_K = np.exp(logits_K - logits_K.max())
    return np.asarray(shares_K / shares_K.sum(), dtype=np.float32)


def main() -> None:
    """The command line."""
    import onnxruntime

    parser = argparse.ArgumentParser(description="Run the exported model on images.")
    parser.add_argument("images", type=Path, help="a .npy or .npz file with a uint8 array")
    parser.add_argument("--key", help="name of the array in an .npz archive")
    quantised = parser.add_mutually_exclusive_group()
    quantised.add_argument("--int8", action="store_true", help="use model.int8.onnx")
    quantised.add_argument("--mixed", action="store_true", help="use model.mixed.onnx")
    quantised.add_argument("--float16", action="store_true", help="use model.float16.onnx")
    parser.add_argument("--logits", type=Path, help="also write the outputs to this .npy or .npz file")
    arguments = parser.parse_args()

    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    suffixes = [f"{name}." for name in ("int8", "mixed", "float16") if getattr(arguments, name)]
    name = f"model.{''.join(suffixes)}onnx"
    if name not in manifest["files"]:
        parser.error(f"this package holds no {name}")
    model = (folder / name).read_bytes()
    if hashlib.sha256(model).hexdigest() != manifest["files"][name]["sha256"]:
        parser.error(f"{name} is not the file that manifest.json names: it was changed or damaged")
    preprocessing = manifest["preprocessing"]
    try:
        images = as_NCHW(read_images(arguments.images, arguments.key), preprocessing["channels"])
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.images}: {error}")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    chunks = []
    for start in range(0, len(images), 64):
        x = resize(images[start : start + 64], preprocessing["height"], preprocessing["width"])
        chunks.append(session.run(None, {"image": x}))
    if not chunks:
        parser.error(f"{arguments.images}: expected at least one image, got none")
    outputs = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
    for n in range(len(images)):
        answer = describe([output[n] for output in outputs], manifest["task"]["labels"], preprocessing["class_names"])
        sys.stdout.write(f"{n}\t{answer}\n")
    if arguments.logits is not None and len(outputs) == 1:
        np.save(arguments.logits, outputs[0])
    elif arguments.logits is not None:
        names = [output.name for output in session.get_outputs()]
        np.savez(arguments.logits, **dict(zip(names, outputs, strict=True)))


if __name__ == "__main__":
    main()
