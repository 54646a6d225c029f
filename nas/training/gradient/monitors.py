"""What is measured at the end of a search epoch, and the responses: warnings, weight decay, early stops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from nas.core.arch import Floats
from nas.core.relaxation import parameter_free_share, skip_share
from nas.training.gradient import operation_weights, perturbation
from nas.training.gradient.batches import Batches, LabelledImages
from nas.training.gradient.collapse import signs_of_collapse, undecided
from nas.training.gradient.early_stopping import stop_epoch
from nas.training.gradient.model import OperationWeights, RelaxedModel
from nas.training.gradient.options import DartsParams
from nas.training.gradient.progress import GradientProgress
from nas.training.gradient.pruning import survivors
from nas.training.gradient.sharpness import dominant_eigenvalue

Tensor = torch.Tensor
MAX_WEIGHT_DECAY = 0.03  # of the weights, after any number of signs of collapse
_WITHOUT_DIGITS = str.maketrans("", "", "0123456789.e+-")


@dataclass(frozen=True)
class CellStatistics:
    """Of the relaxation at temperature 1 and its discretised cell: ``entropy`` is the mean over edges, in nats."""

    entropy: float
    skip_share: float
    parameter_free_share: float


def cell_statistics(model: RelaxedModel) -> CellStatistics:
    """Statistics of the current architecture parameters."""
    relaxation = model.space.relaxation
    p = model.expected_weights(model.alphas.detach())
    table: Floats = model.space.table(model.discretised())
    return CellStatistics(
        float(operation_weights.row_entropy(p).mean()),
        skip_share(relaxation, table),
        parameter_free_share(relaxation, table),
    )


def collapse_signs(
    cell: CellStatistics, progress: GradientProgress, epoch: int, o: DartsParams, operations: int
) -> list[str]:
    """Signs of collapse at the end of an epoch."""
    return signs_of_collapse(
        skip_share=cell.skip_share,
        skip_limit=o.skip_limit,
        parameter_free_share=cell.parameter_free_share,
        entropy=cell.entropy,
        operations=operations,
        cooled=o.temperature != "constant" or o.prune,
        progress=(epoch + 1) / o.epochs,
        search_epochs=o.epochs,
        eigenvalues=progress.eigenvalues,
    )


def respond(progress: GradientProgress, epoch: int, o: DartsParams) -> tuple[GradientProgress, tuple[str, ...]]:
    """The progress after the response to ``progress.signs``, and warnings. Each kind of sign is reported once. An early
    stop sets ``ended_epoch``; early stopping by eigenvalues does not depend on ``collapse``."""
    signs = progress.signs
    if o.early_stop and (restored := stop_epoch(progress.eigenvalues, o.epochs)) is not None:
        if progress.roll_backs < o.roll_backs and progress.weight_decay < MAX_WEIGHT_DECAY:
            again = rolled_back(progress, epoch, restored)
            weights = f"back to epoch {restored + 1}, with weight decay {again.weight_decay:g}"
            return again, (f"epoch {epoch + 1}: {signs[-1]}; {weights}",)
        warning = (
            f"stopped after epoch {epoch + 1}: {signs[-1]}; architecture parameters are those of epoch {restored + 1}"
        )
        if o.roll_backs:
            warning += f" after {progress.roll_backs} roll-backs, with weight decay {progress.weight_decay:g}"
        return replace(progress, ended_epoch=restored), (warning,)
    if not signs:
        return progress, ()
    if o.collapse == "stop":
        healthy = progress.healthy_epoch
        restored_epoch = f"those of epoch {healthy + 1}" if healthy >= 0 else "those of the last epoch"
        warning = f"stopped after epoch {epoch + 1}: {'; '.join(signs)}; architecture parameters are {restored_epoch}"
        return replace(progress, ended_epoch=healthy), (warning,)
    if o.collapse == "regularise" and progress.weight_decay < MAX_WEIGHT_DECAY:
        decay = _stronger(progress.weight_decay)
        warning = f"epoch {epoch + 1}: {'; '.join(signs)}; weight decay is now {decay:g}"
        return replace(progress, weight_decay=decay, eigenvalues=()), (warning,)
    kinds = [s.translate(_WITHOUT_DIGITS) for s in signs]
    fresh = [s for s, kind in zip(signs, kinds, strict=True) if kind not in progress.reported]
    reported = tuple(sorted({*progress.reported, *kinds}))
    return replace(progress, reported=reported), tuple(f"epoch {epoch + 1}: {s}" for s in fresh)


def rolled_back(progress: GradientProgress, epoch: int, restored: int) -> GradientProgress:
    """The progress as it was at the end of the epoch ``restored``, with ten times the weight decay (DARTS-ADA: Zela et
    al., ICLR 2020, section 4.3)."""
    return replace(
        progress,
        weight_decay=_stronger(progress.weight_decay),
        eigenvalues=tuple((e, value) for e, value in progress.eigenvalues if e <= restored),
        alphas_by_epoch=progress.alphas_by_epoch[: restored + 1],
        betas_by_epoch=progress.betas_by_epoch[: restored + 1],
        snapshots=tuple(s for s in progress.snapshots if s.epoch <= restored),
        healthy_epoch=min(progress.healthy_epoch, restored),
        signs=(),
        roll_backs=progress.roll_backs + 1,
        repeated_epochs=progress.repeated_epochs + epoch - restored,
    )


def _stronger(weight_decay: float) -> float:
    return min(MAX_WEIGHT_DECAY, 10 * max(weight_decay, 1e-5))


def undecided_sign(model: RelaxedModel, o: DartsParams) -> str | None:
    """A message if the search ends with undecided architecture parameters. Pruning and perturbation decide by other
    means."""
    if o.prune or o.selection == "perturbation":
        return None
    entropy = float(operation_weights.row_entropy(model.expected_weights(model.alphas.detach())).mean())
    alive_E = model.mask.sum(dim=1)
    return undecided(entropy, float(alive_E[alive_E > 0].double().log().mean()))


def held_out_eigenvalue(model: RelaxedModel, batches: Batches) -> float:
    """The dominant eigenvalue of the loss on a fixed held-out batch, at temperature 1 and without noise."""
    x, y = batches.probe()
    plain = model.plain_weights()

    def loss(alphas: Tensor) -> Tensor:
        return F.cross_entropy(plain.with_weights(model.expected_weights(alphas)).logits(model.net, x), y)

    return dominant_eigenvalue(loss, model.alphas)


@torch.no_grad()
def held_out_score(
    model: RelaxedModel, batches: Iterable[LabelledImages], mixed: OperationWeights
) -> perturbation.AccuracyAndLoss:
    """Accuracy and loss of the relaxation on images that weights do not train on, with each batch's own statistics."""
    correct = total = 0
    loss = 0.0
    for x, y in batches:
        logits = mixed.logits(model.net, x)
        correct += int((logits.argmax(1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        total += len(y)
    return perturbation.AccuracyAndLoss(100.0 * correct / total, loss / total)


def select_by_perturbation(model: RelaxedModel, batches: Batches, target: perturbation.Target) -> None:
    """Decide one edge or node by the held-out accuracy without each of its operations or edges; update the mask. A node
    drops one edge after the other until its number of inputs is left."""
    relaxation = model.space.relaxation
    trials = perturbation.trials(relaxation, model.mask, target)
    while trials and (target[0] == "edge" or len(trials) > (relaxation.inputs or 0)):
        plain = model.plain_weights()
        without = [plain.with_weights(perturbation.without(plain.weights_EO, trial)) for trial in trials]
        scores = [held_out_score(model, batches.plain_held_out(), mixed) for mixed in without]
        model.mask = perturbation.decide(model.mask, target, trials, scores, plain.weights_EO)
        if target[0] == "edge":
            return
        trials = perturbation.trials(relaxation, model.mask, target)


def prune(model: RelaxedModel, progress: GradientProgress) -> tuple[GradientProgress, int]:
    """Remove weak operations; return the progress with the next pressure, and the number of removed operations. A
    relaxation that was stable until now adds its network to the series."""
    mask, genes_G = model.mask, model.discretised()
    relaxation = model.space.relaxation
    strengths = operation_weights.sigmoid(model.alphas.detach(), mask)
    model.mask = survivors(strengths, mask, relaxation.nodes, relaxation.inputs, relaxation.required)
    removed = int(mask.sum() - model.mask.sum())
    genes = tuple(genes_G.tolist())
    series = progress.series
    if removed and progress.pressure.stable and genes not in series:
        series = (*series, genes)
    return replace(progress, series=series, pressure=progress.pressure.after(removed)), removed


def is_pruned(model: RelaxedModel, share: float) -> bool:
    """Whether at most ``share`` of the operations are alive."""
    relaxation = model.space.relaxation
    return float(model.mask.sum()) <= share * float((relaxation.mask & relaxation.real).sum())
