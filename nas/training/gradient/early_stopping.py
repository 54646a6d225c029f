"""Early stopping by the dominant eigenvalue (R-DARTS: Zela et al., ICLR 2020, and the authors' code). No torch."""

from __future__ import annotations

from collections.abc import Sequence

PUBLISHED_EPOCHS = 50  # of the searches that counts of epochs in papers refer to
WINDOW = 5  # probes of a local average
BACK = 4  # probes between the two averages that are compared
FURTHEST_BACK = WINDOW // 2 + BACK  # probes from the last one to the one that is restored
RATIO = 1.3
FIRST_EPOCH = 10  # of ``PUBLISHED_EPOCHS``: the earliest that may be restored


def scaled(count: int, epochs: int) -> int:
    """A count of epochs from a search of ``PUBLISHED_EPOCHS`` in proportion to one of ``epochs``."""
    return round(count * epochs / PUBLISHED_EPOCHS)


def probe_epochs(epochs: int, probe_every: int, alpha_warmup: int) -> list[int]:
    """The epochs at whose end the eigenvalue is measured."""
    if probe_every == 0:
        return []
    return [e for e in range(alpha_warmup, epochs) if (e + 1) % probe_every == 0 or e + 1 == epochs]


def stop_epoch(eigenvalues: Sequence[tuple[int, float]], search_epochs: int = PUBLISHED_EPOCHS) -> int | None:
    """The epoch to restore once the local average of ``(epoch, eigenvalue)`` probes has grown by 30 % over four
    probes, else None. Averages of five probes count for the middle one, and the earlier of the two must not lie before
    epoch 10 of 50, or the same share of ``search_epochs``."""
    restored = _restorable([epoch for epoch, _ in eigenvalues], search_epochs)
    if restored is None:
        return None
    averages = [
        sum(v for _, v in eigenvalues[max(0, i + 1 - WINDOW) : i + 1]) / min(WINDOW, i + 1)
        for i in range(2, len(eigenvalues))
    ]
    now, then = averages[-1], averages[-1 - BACK]
    return restored if then > 0 and now / then > RATIO else None


def can_stop(epochs: int, probe_every: int, alpha_warmup: int) -> bool:
    """Whether any growth of eigenvalues can stop a search of so many epochs."""
    return _restorable(probe_epochs(epochs, probe_every, alpha_warmup), epochs) is not None


def _restorable(probes: Sequence[int], search_epochs: int) -> int | None:
    """The epoch that the last probe would restore; None for too few probes, and for an epoch that is too early."""
    if len(probes) <= BACK + 2:
        return None
    restored = probes[-1] - (probes[1] - probes[0]) * FURTHEST_BACK
    return restored if restored >= scaled(FIRST_EPOCH, search_epochs) else None
