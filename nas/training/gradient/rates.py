"""Rates and counts of a differentiable search that follow its step budget, where the spec leaves them open. No torch.

Papers publish them for some 19,500 steps (50 epochs of CIFAR-10's half in batches of 64), in which Adam can move
architecture parameters about 6 nats at DARTS' learning rate. A shorter search gets a rate that lets them move as far.
With less than a tenth of those steps, further defaults apply (``SHORT``): weights learn fast and alone at first, only a
quarter of the channels is mixed, so that identities have no head start before convolutions have learned, and
temperatures do not sink to where rows freeze at random. ``benchmarks.nb201_search`` shows what these are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nas.training.gradient.early_stopping import PUBLISHED_EPOCHS, can_stop, scaled
from nas.training.gradient.options import PLAIN, PRESETS, DartsParams

PUBLISHED_STEPS = PUBLISHED_EPOCHS * 390
SHORT_STEPS = PUBLISHED_STEPS // 10
MAX_SPEED = 200.0  # by which learning rates of architecture parameters grow at most


@dataclass(frozen=True)
class Rates:
    """``lr`` to ``lr_end``: learning rate of the weights, along a cosine. ``alpha_warmup``: epochs before architecture
    parameters learn. ``partial``: 1/K of the channels are mixed. ``all_paths``: drawn operations are not the only ones
    that are computed."""

    lr: float
    lr_end: float
    alpha_lr: float
    alpha_warmup: int
    partial: int
    temperature_end: float
    all_paths: bool

    def as_record(self) -> dict[str, float]:
        """By name, as numbers."""
        return {name: float(value) for name, value in vars(self).items()}

    @staticmethod
    def from_record(record: Mapping[str, float]) -> Rates:
        """Inverse of ``as_record``."""
        lr, lr_end, alpha_lr, temperature_end = (record[n] for n in ("lr", "lr_end", "alpha_lr", "temperature_end"))
        alpha_warmup, partial = int(record["alpha_warmup"]), int(record["partial"])
        return Rates(lr, lr_end, alpha_lr, alpha_warmup, partial, temperature_end, bool(record["all_paths"]))


DARTS = Rates(0.025, 0.001, 3e-4, 0, 1, 1.0, False)
SHORT = Rates(0.1, 0.0, 6e-4, 15, 4, 0.3, True)  # ``alpha_warmup`` in epochs of 50


def published_rates(options: DartsParams) -> Rates:
    """Those of the spec, else of the preset, else of DARTS, however few steps there are."""
    fixed = _specified(options)
    return Rates(
        lr=float(fixed.get("lr", DARTS.lr)),
        lr_end=float(fixed.get("lr_end", min(DARTS.lr_end, float(fixed.get("lr", DARTS.lr))))),
        alpha_lr=float(fixed.get("alpha_lr", DARTS.alpha_lr)),
        alpha_warmup=int(fixed.get("alpha_warmup", DARTS.alpha_warmup)),
        partial=int(fixed.get("partial", DARTS.partial)),
        temperature_end=float(fixed.get("temperature_end", DARTS.temperature_end)),
        all_paths=bool(fixed.get("all_paths", DARTS.all_paths)),
    )


def rates(options: DartsParams, steps: int, partials: Sequence[int]) -> Rates:
    """Those of a search of ``steps`` steps in a space whose channels divide into ``partials``. What the spec says is
    taken as it is."""
    published, fixed = published_rates(options), _specified(options)
    if steps >= SHORT_STEPS:
        result = published
    else:
        mixes_partially = options.preset not in PLAIN and not options.prune and not options.entangled
        partial = int(fixed.get("partial", max(k for k in partials if k <= SHORT.partial) if mixes_partially else 1))
        moves = options.temperature != "constant"
        draws = options.relaxation == "gumbel_hard"
        lr = float(fixed.get("lr", SHORT.lr))
        result = Rates(
            lr=lr,
            lr_end=float(fixed.get("lr_end", SHORT.lr_end if partial > 1 else min(lr, DARTS.lr_end))),
            alpha_lr=float(fixed.get("alpha_lr", SHORT.alpha_lr if partial > 1 else DARTS.alpha_lr)),
            alpha_warmup=int(fixed.get("alpha_warmup", _warmup(options))),
            partial=partial,
            temperature_end=_least_temperature(options, published.temperature_end) if moves else 1.0,
            all_paths=draws if options.all_paths is None else options.all_paths,
        )
    if options.alpha_lr is not None or options.alpha_optimiser == "sgd":
        return result
    speed = min(MAX_SPEED, max(1.0, PUBLISHED_STEPS / steps))
    return replace(result, alpha_lr=result.alpha_lr * speed)


def _specified(options: DartsParams) -> dict[str, float | bool]:
    """By the spec, or else by the preset, whose counts of epochs scale."""
    values: dict[str, float | bool] = {}
    for name in vars(DARTS):
        explicit, preset = getattr(options, name), PRESETS[options.preset].get(name)
        if explicit is not None:
            values[name] = explicit
        elif preset is not None and not isinstance(preset, str):
            values[name] = scaled(int(preset), options.epochs) if name == "alpha_warmup" else preset
    return values


def _warmup(options: DartsParams) -> int:
    """As many epochs of the search as in ``SHORT``, or what early stopping leaves of them."""
    epochs = range(scaled(SHORT.alpha_warmup, options.epochs), 0, -1)
    fitting = (n for n in epochs if not options.early_stop or can_stop(options.epochs, options.probe_every, n))
    return next(fitting, 0)


def _least_temperature(options: DartsParams, published: float) -> float:
    return published if options.temperature_end is not None else max(SHORT.temperature_end, published)
