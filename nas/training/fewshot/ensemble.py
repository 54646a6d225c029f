"""A supernet ensemble: a router that assigns combinations of choices to supernets is learned with their weights.

Where a choice changes the function of all weights, such as the position of a downsampling, networks interfere in one
supernet. Javan et al., Balanced mixture of supernets for learning the CNN pooling architecture, AutoML 2023, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import LISTABLE, Arch, Floats, Genes, as_archs, every, sample, space_size
from nas.core.errors import HwnasError
from nas.core.ports import Dataset, SearchSpace
from nas.core.rng import Stream, rng
from nas.supernet import Supernet
from nas.training.fewshot.partition import RoutingTable, choice_combination
from nas.training.fewshot.routed_supernet import RoutedSupernet
from nas.training.loader import BatchLoader, Position
from nas.training.pipeline import Pipeline
from nas.training.progressive import Step, SupernetRecipe, rate
from nas.training.recipe import optimiser
from nas.training.state import TrainState
from nas.training.trainer import clip
from nas.training.weights import Weights

SAMPLED = 4_096  # networks that estimate the share of each combination in a space too large to list
TOLERANCE = 1e-4  # nats
MAX_INVERSE_TEMPERATURE = 100.0  # inverse temperature at the end; it is 1 at the beginning
DECAY = 0.9  # of the exponential moving average of a combination's accuracy


def balance(logits_RM: Floats, share_R: Floats, tolerance: float = TOLERANCE, max_iterations: int = 10_000) -> Floats:
    """The offset of each supernet's logits, shape (M,), that makes all supernets equally likely overall.

    Rows are drawn with probabilities ``share_R``. Alternately, columns are divided by their marginal and rows
    normalised, until the distribution over supernets is within ``tolerance`` nats of the uniform one, at most
    ``max_iterations`` times. In logarithms, since cold rows underflow.
    """
    models = logits_RM.shape[1]
    added_M = np.zeros(models)
    for _ in range(max_iterations):
        marginal_M = share_R @ probabilities(logits_RM + added_M)
        if imbalance(marginal_M) < tolerance:
            break
        added_M = added_M - np.log(np.maximum(marginal_M, 1e-300))
    return added_M


def imbalance(marginal_M: Floats) -> float:
    """Kullback-Leibler divergence of a distribution over supernets from the uniform one, in nats."""
    p_M = np.maximum(marginal_M, 1e-300)
    return float((p_M * np.log(p_M * len(p_M))).sum())


def probabilities(logits_RM: Floats) -> Floats:
    """Softmax of every row."""
    powers: Floats = np.exp(logits_RM - logits_RM.max(axis=1, keepdims=True))
    out: Floats = powers / powers.sum(axis=1, keepdims=True)
    return out


class EnsembleTraining:
    """Train several supernets and their routing table in place, alternately.

    A step draws a network, then a supernet by the network's row of the table; the supernet learns a training batch, and
    its accuracy on a validation batch enters the row. Everything random derives from (seed, step).
    """

    def __init__(
        self,
        nets: Sequence[Supernet],
        space: SearchSpace,
        data: Dataset,
        pipeline: Pipeline,
        recipe: SupernetRecipe,
        seed: int,
        genes: tuple[int, ...],
    ) -> None:
        self.nets, self.space, self.recipe, self.genes = nn.ModuleList(nets), space, recipe, genes
        self._data, self._pipeline, self._seed = data, pipeline, seed
        self._phase = recipe.phases[0]
        self._loader = BatchLoader(pipeline, data.train, recipe.batch_size, seed)
        self.per_epoch = self._loader.per_epoch
        self.steps = self._phase.epochs * self.per_epoch
        self._counts = tuple(len(space.decisions[g].choices) for g in genes)
        self._networks_NG: Genes | None = None
        rows_N = choice_combination(genes, self._counts, self._listed())
        self.share_R = np.bincount(rows_N, minlength=math.prod(self._counts)) / len(rows_N)
        self.table_RM = np.ones((len(self.share_R), len(nets)))
        self.added_M = np.zeros(len(nets))
        self._optimisers = [optimiser(net.parameters(), recipe, net) for net in nets]

    def p_RM(self, step: int) -> Floats:
        """Probability of each supernet for each combination at a step, shape (R, M)."""
        return probabilities(self._inverse_temperature(step) * self.table_RM + self.added_M)

    def routing_table(self) -> RoutingTable:
        """The most probable supernet of each combination."""
        logits_RM = MAX_INVERSE_TEMPERATURE * self.table_RM
        table_R = (logits_RM + balance(logits_RM, self.share_R)).argmax(axis=1)
        return RoutingTable(self.genes, self._counts, tuple(int(m) for m in table_R), len(self.nets))

    def routed(self) -> RoutedSupernet:
        """The supernets as one routed supernet."""
        return RoutedSupernet(self.space, self.routing_table(), [net for net in self.nets if isinstance(net, Supernet)])

    def names(self, row: int) -> str:
        """The choices of a combination as text."""
        digits = np.unravel_index(row, self._counts)
        return ", ".join(str(self.space.decisions[g].choices[int(c)]) for g, c in zip(self.genes, digits, strict=True))

    def state(self, step: int) -> TrainState:
        """The state to resume from at a step, in tensors and plain values."""
        return TrainState(
            0,
            step,
            {
                "nets": self.nets.state_dict(),
                "optimisers": [o.state_dict() for o in self._optimisers],
                "table": torch.from_numpy(self.table_RM.copy()),
                "added": torch.from_numpy(self.added_M.copy()),
            },
        )

    def restore(self, weights: Weights) -> None:
        """Restore a state made by ``state``."""
        self.nets.load_state_dict(weights["nets"])
        for optimiser_, stored in zip(self._optimisers, weights["optimisers"], strict=True):
            optimiser_.load_state_dict(stored)
        self.table_RM = weights["table"].cpu().numpy().copy()
        self.added_M = weights["added"].cpu().numpy().copy()

    def step(self, step: int) -> Step:
        """One optimiser step of one supernet, and an update of its table entry. Raises HwnasError when the loss is not
        finite."""
        if step % self.per_epoch == 0:  # between, rows change little
            self.added_M = balance(self._inverse_temperature(step) * self.table_RM, self.share_R)
        generator = rng(self._seed, Stream.ENSEMBLE_STEP, step)
        arch = self._draw(generator)
        row = int(choice_combination(self.genes, self._counts, np.array([arch.genes]))[0])
        model = int(generator.choice(len(self.nets), p=self.p_RM(step)[row]))
        dropout_seed, augment_seed = (int(s) for s in generator.integers(2**62, size=2))
        torch.manual_seed(dropout_seed)
        resolution = self.space.input_shape(arch)[1:]
        raw = self._loader.batch(Position(*divmod(step, self.per_epoch)))
        x, y = self._pipeline.augment(raw, resolution, augment_seed)
        loss = self._learn(model, arch, x, y, rate(self._phase, step, self.steps, self.per_epoch))
        if not math.isfinite(loss):
            raise HwnasError(
                f"training the supernet ensemble diverged at step {step}: loss is {loss}; expected a finite value. "
                f"A smaller learning rate than {self._phase.lr:g} may help"
            )
        held_out = generator.choice(
            len(self._data.val), min(self.recipe.batch_size, len(self._data.val)), replace=False
        )
        x, y = next(self._pipeline.rows(self._data.val, np.sort(held_out).astype(np.int64), resolution, len(held_out)))
        with torch.no_grad():  # normalised by the batch, since shared weights have no statistics of their own
            accuracy = float((self.nets[model](x, arch).argmax(1) == y).double().mean())
        self.table_RM[row, model] = DECAY * self.table_RM[row, model] + (1 - DECAY) * accuracy
        return Step(0, step + 1, self.steps, step + 1, self.steps, loss, len(y))

    def _learn(self, model: int, arch: Arch, x: torch.Tensor, y: torch.Tensor, lr: float) -> float:
        net, sgd = self.nets[model], self._optimisers[model]
        for group in sgd.param_groups:
            group["lr"] = lr
        sgd.zero_grad(set_to_none=True)
        net.train()
        loss = F.cross_entropy(net(x, arch), y, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        clip(list(net.parameters()), self.recipe.clip_norm)
        sgd.step()
        return float(loss.detach())

    def _inverse_temperature(self, step: int) -> float:
        """The inverse temperature, linear in epochs."""
        epoch, last = step // self.per_epoch, self._phase.epochs - 1
        return 1.0 + (MAX_INVERSE_TEMPERATURE - 1.0) * min(1.0, epoch / max(1, last))

    def _listed(self) -> Genes:
        """All distinct networks of the space, or a random sample of a large space."""
        if space_size(self.space.decisions) <= LISTABLE:
            if self._networks_NG is None:
                self._networks_NG = np.unique(self.space.canonical(every(self.space.decisions)), axis=0)
            return self._networks_NG
        return self.space.canonical(sample(self.space.decisions, np.random.default_rng(0), SAMPLED))

    def _draw(self, rng: np.random.Generator) -> Arch:
        if self._networks_NG is None:
            return as_archs(self.space.id, self.space.canonical(sample(self.space.decisions, rng, 1)))[0]
        row = int(rng.integers(len(self._networks_NG)))
        return as_archs(self.space.id, self._networks_NG[row : row + 1])[0]


def train_ensemble(
    learning: EnsembleTraining, start: TrainState, save_due: Callable[[], bool]
) -> Iterator[Step | TrainState]:
    """Train from ``start`` to the end; yield a ``Step`` after each step, and a ``TrainState`` whenever ``save_due()``
    and at the end. Resuming from a state repeats nothing and ends in the same weights."""
    if start.weights is not None:
        learning.restore(start.weights)
    for step in range(start.step, learning.steps):
        yield learning.step(step)
        if step + 1 < learning.steps and save_due():
            yield learning.state(step + 1)
    yield learning.state(learning.steps)
