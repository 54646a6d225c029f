"""Write a NumPy archive of small colour images to try a search on: handwritten digits on coloured grounds.

    python examples/make_images.py images.npz

Archives of your own need the same two arrays: images of (N, height, width, 3) and labels of (N,), both integers.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.datasets import load_digits

SIDE = 32


def main() -> None:
    """1,797 images of 32 x 32 pixels in ten classes, into the file that the command line names."""
    digits = load_digits()
    strength_NHW1 = digits.images.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)[..., np.newaxis] / 16.0
    rng = np.random.default_rng(0)
    ink_N3, ground_N3 = rng.integers(128, 256, (len(strength_NHW1), 3)), rng.integers(0, 128, (len(strength_NHW1), 3))
    images = strength_NHW1 * ink_N3[:, None, None] + (1.0 - strength_NHW1) * ground_N3[:, None, None]
    np.savez_compressed(sys.argv[1], images=images.astype(np.uint8), labels=digits.target)


if __name__ == "__main__":
    main()
