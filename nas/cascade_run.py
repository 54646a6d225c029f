"""Runs the cascade beside this file on images. Needs Python, numpy and onnxruntime, nothing else.

    python run.py images.npy                     # an uint8 array, or an .npz archive that holds one

Prints for each image its class, the confidence in it, and which member has answered. The first member answers where it
is sure enough; other images go on to the next. Images may be of any size, as in ``member.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.exported_run import as_NCHW, read_images, resize

FEATURES = "features"  # the input of a member that goes on from what the one before has computed
Features = NDArray[np.float32] | None
RunNetwork = Callable[[NDArray[np.float32], Features], tuple[NDArray[np.float32], Features]]


@dataclass(frozen=True)
class GateMember:
    """A network as a function from one prepared image (1, C, H, W), and the features that the member before gives, to
    logits (K,) and its own features, the size it takes, its temperature, and the confidence from which it answers; the
    last one always does."""

    run: RunNetwork
    height: int
    width: int
    temperature: float
    threshold: float


def answer(members: Sequence[GateMember], prepared: Sequence[NDArray[np.float32]]) -> tuple[int, float, int]:
    """The class, the confidence in it and the position of the member that has answered. ``prepared``: the image at the
    size of each member."""
    features: Features = None
    for place, member in enumerate(members):
        logits_K, features = member.run(prepared[place], features)
        scaled_K = logits_K.astype(np.float64) / member.temperature
        shares_K = np.exp(scaled_K - scaled_K.max())
        shares_K /= shares_K.sum()
        k = int(shares_K.argmax())
        if shares_K[k] >= member.threshold or place == len(members) - 1:
            return k, float(shares_K[k]), place
    raise ValueError("expected a cascade with members, got none")


def prepare(members: Sequence[GateMember], image_CHW: NDArray[Any]) -> list[NDArray[np.float32]]:
    """An image at the size of each member."""
    by_size: dict[tuple[int, int], NDArray[np.float32]] = {}
    for member in members:
        size = member.height, member.width
        if size not in by_size:
            by_size[size] = resize(image_CHW[None], *size)
    return [by_size[member.height, member.width] for member in members]


def load_members(folder: Path) -> list[GateMember]:
    """The members that ``cascade.json`` names. Raises ValueError for a file that was changed."""
    import onnxruntime

    record, members = json.loads((folder / "cascade.json").read_text(encoding="utf-8")), []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for entry in record["members"]:
        model = (folder / entry["file"]).read_bytes()
        if hashlib.sha256(model).hexdigest() != entry["sha256"]:
            raise ValueError(f"{entry['file']} is not the file that cascade.json names: it was changed or damaged")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        members.append(
            GateMember(as_run(session), entry["height"], entry["width"], entry["temperature"], entry["threshold"])
        )
    return members


def as_run(session: Any) -> RunNetwork:
    """A session as a function of one image, or of the features of the member before where it reads those."""
    reads_features = session.get_inputs()[0].name == FEATURES

    def run(x_1CHW: NDArray[np.float32], features: Features) -> tuple[NDArray[np.float32], Features]:
        outputs = session.run(None, {FEATURES: features} if reads_features else {"image": x_1CHW})
        return outputs[0][0], outputs[1] if len(outputs) > 1 else None

    return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run the cascade on images.")
    parser.add_argument("images", type=Path, help="a .npy or .npz file with a uint8 array")
    parser.add_argument("--key", help="name of the array in an .npz archive")
    arguments = parser.parse_args()
    folder = Path(__file__).resolve().parent
    record = json.loads((folder / "cascade.json").read_text(encoding="utf-8"))
    try:
        images = as_NCHW(read_images(arguments.images, arguments.key), record["channels"])
        members = load_members(folder)
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.images}: {error}")
    for n, image_CHW in enumerate(images):
        k, share, place = answer(members, prepare(members, image_CHW))
        name = record["members"][place]["name"]
        sys.stdout.write(f"{n}\t{record['class_names'][k]}\t{share:.3f}\t{name}\n")


if __name__ == "__main__":
    main()
