"""The optimiser step that all trainings share: supernets, networks that are trained alone, gradient search.

A batch is computed in micro-batches, whose gradients add up; several ranks share them. Each micro-batch is normalised
by statistics of its own and has gradients of its own, so that the result does not depend on how many ranks there are:
exactly for one micro-batch on each of two, else up to the order of sums. Nothing waits for a GPU before the step is
done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nas.core.errors import HwnasError
from nas.core.retraining import RecipeFields
from nas.training.augment import MixedImages
from nas.training.criterion import NetworkOutputs
from nas.training.pipeline import Index
from nas.training.ranks import ONE_PROCESS, Ranks

Tensor = torch.Tensor
TrainingPrecision = Literal["float32", "bfloat16"]
FEWEST_IMAGES = 2  # of a micro-batch: a batch norm needs statistics
_WORTH_IT = 1.1  # how much faster lower precision has to be
_VARIANTS = 128  # of one compiled module


@dataclass(frozen=True)
class TrainingExecution:
    """How steps are computed, whatever they learn. ``precision``: of activations and of products; weights and their
    updates are float32. ``micro_batches``: the parts of a batch, one after another or on several ranks. ``compiled``:
    modules are compiled by ``torch.compile`` when they are first used."""

    precision: TrainingPrecision = "float32"
    micro_batches: int = 1
    compiled: bool = False

    @staticmethod
    def of(fields: RecipeFields) -> TrainingExecution:
        """As a spec says; float32 to begin with where the precision is found by trying."""
        precision = "float32" if fields.precision == "auto" else fields.precision
        return TrainingExecution(precision, fields.micro_batches, fields.compiled)

    def as_record(self) -> dict[str, object]:
        """What a checkpoint keeps: what was found out while training."""
        return {"precision": self.precision, "micro_batches": self.micro_batches}

    def note(self, planned: TrainingExecution) -> str | None:
        """What differs from how steps were to be computed, for people; None where nothing does."""
        if self.micro_batches <= planned.micro_batches:
            return None
        return (
            f"batches did not fit into memory: they were computed in {self.micro_batches} micro-batches one after "
            f"another instead of {planned.micro_batches}, each normalised by itself"
        )

    def going_on_from(self, record: Mapping[str, object]) -> TrainingExecution:
        """As a training was computed that goes on. Raises ValueError for another record."""
        precision, count = record["precision"], record["micro_batches"]
        if precision not in ("float32", "bfloat16") or not isinstance(count, int):
            raise ValueError(f"expected a precision and a number of micro-batches, got {dict(record)}")
        return replace(self, precision=precision, micro_batches=count)


@dataclass(frozen=True)
class MicroBatch:
    """The ``index``-th of ``count`` parts of a batch of ``size`` images."""

    index: int = 0
    count: int = 1
    size: int = 0

    @property
    def share(self) -> float:
        """Its images as a share of the batch."""
        return len(range(*self._bounds)) / self.size

    def rows(self, index_B: Index) -> Index:
        """Its part of the batch's images."""
        return index_B[slice(*self._bounds)]

    def seed(self, of_batch: int) -> int:
        """A seed of its own; the first has the batch's."""
        return (of_batch + self.index) % 2**62

    @property
    def _bounds(self) -> tuple[int, int]:
        return self.index * self.size // self.count, (self.index + 1) * self.size // self.count


ImagesInParts = Callable[[MicroBatch], MixedImages]
"""The images of a batch, in parts."""

Losses = Callable[[MicroBatch], Iterator[Tensor]]
"""The losses of a micro-batch, means over its images. Each is learned from before the next is computed."""


class Trainer:
    """Computes the gradients of ``parameters`` and updates them. ``execution`` changes where memory asks for it."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        clip_norm: float,
        device: str,
        execution: TrainingExecution,
        ranks: Ranks = ONE_PROCESS,
    ) -> None:
        self._parameters = list(parameters)
        self._clip_norm, self._device, self._ranks = clip_norm, torch.device(device), ranks
        self.execution = execution
        use_fast_kernels(device)

    def gradients(self, size: int, losses: Losses) -> Tensor:
        """Leave the gradients of a batch of ``size`` images at the parameters; return the sum of its losses, which is
        on the device still. Where memory does not suffice, micro-batches of half the size are tried, now and from then
        on. Raises HwnasError where the smallest do not fit."""
        while True:
            total, fits = self._try_gradients(size, losses)
            if not self._ranks.any(not fits):
                break
            self.execution = replace(self.execution, micro_batches=self._more_micro_batches(size))
        self._ranks.add_up([*(p.grad for p in self._parameters if p.grad is not None), total])
        return total

    def update(
        self, optimiser: torch.optim.Optimizer, average: AveragedModel | None = None, of: nn.Module | None = None
    ) -> None:
        """One optimiser step by the gradients, clipped; then the ``average`` of the weights ``of`` a module follows."""
        clip(self._parameters, self._clip_norm)
        optimiser.step()
        if average is not None and of is not None:
            average.update_parameters(of)

    def choose_precision(self, size: int, losses: Losses, clock: Callable[[], float]) -> None:
        """Compute in the precision in which the gradients of this batch are computed faster, as the first rank finds
        it. Nothing is learned."""

        def seconds(precision: TrainingPrecision) -> float:
            self.execution = replace(self.execution, precision=precision)
            started_at = clock()
            float(self.gradients(size, losses))
            return clock() - started_at

        faster = faster_precision(str(self._device), seconds)
        is_lower = self._ranks.any(self._ranks.rank.index == 0 and faster == "bfloat16")
        self.execution = replace(self.execution, precision="bfloat16" if is_lower else "float32")

    def forward(self, network: Callable[..., NetworkOutputs], *inputs: object) -> NetworkOutputs:
        """What a network gives in the precision of this training, as float32."""
        if self.execution.precision == "float32":
            return network(*inputs)
        with torch.autocast(self._device.type, torch.bfloat16):
            outputs = network(*inputs)
        return outputs.float() if isinstance(outputs, Tensor) else tuple(o.float() for o in outputs)

    def micro_batches(self, size: int) -> list[MicroBatch]:
        """Those of a batch that this rank computes."""
        rank = self._ranks.rank
        count = max(1, rank.count, min(self.execution.micro_batches, size // FEWEST_IMAGES))
        return [MicroBatch(i, count, size) for i in range(rank.index, count, rank.count)]

    def _try_gradients(self, size: int, losses: Losses) -> tuple[Tensor, bool]:
        """The sum of the losses, and whether memory sufficed."""
        for parameter in self._parameters:
            parameter.grad = None
        total = torch.zeros((), device=self._device)
        try:
            for part in self.micro_batches(size):
                total += self._add_gradients(part, losses)
        except torch.OutOfMemoryError:
            return total, False
        return total, True

    def _add_gradients(self, part: MicroBatch, losses: Losses) -> Tensor:
        """Add the gradients of a micro-batch to those that are there; returns the sum of its losses. They are summed up
        by themselves before, as on a rank of their own: two ranks train exactly as one."""
        earlier = [(p, gradient) for p in self._parameters if (gradient := p.grad) is not None]
        for parameter, _ in earlier:
            parameter.grad = None
        total, share = torch.zeros((), device=self._device), part.share
        for loss in losses(part):
            weighted = loss if share == 1.0 else loss * share
            weighted.backward()  # type: ignore[no-untyped-call]
            total += weighted.detach()
        for parameter, gradient in earlier:
            parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
        return total

    def _more_micro_batches(self, size: int) -> int:
        """Twice as many as now."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        count = 2 * max(self.execution.micro_batches, self._ranks.rank.count)
        if size // count < FEWEST_IMAGES:
            raise HwnasError(
                f"out of memory on {self._device} with micro-batches of {2 * size // count} images, the smallest: "
                f"expected a GPU with more memory, or smaller images or networks"
            )
        return count


def clip(parameters: Sequence[nn.Parameter], clip_norm: float) -> None:
    """Scale gradients down to the norm ``clip_norm`` together. On a CPU, where reading a number waits for nothing,
    smaller ones are left alone; on a GPU they are multiplied by 1."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norm = nn.utils.get_total_norm(gradients)
    if norm.device.type != "cpu" or not norm <= clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)


def fused_sgd(
    groups: Iterable[Any], *, lr: float, momentum: float, nesterov: bool, weight_decay: float = 0.0
) -> torch.optim.SGD:
    """SGD that updates a tensor in one pass. Its kernels want all moments from the first step on, which parameters of a
    supernet reach at different times: they begin as zeros, which gives the same updates."""
    optimiser = torch.optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True
    )
    for group in optimiser.param_groups:
        for parameter in group["params"] if momentum > 0 else ():
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


def supports_bfloat16(device: str) -> bool:
    """Whether the processor or GPU computes with bfloat16, rather than imitating it."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and "AVX512" in torch.backends.cpu.get_cpu_capability()


def faster_precision(device: str, seconds: Callable[[TrainingPrecision], float]) -> TrainingPrecision:
    """The precision in which steps are faster, by timing one in each; ``seconds`` does so. Lower precision has to be a
    tenth faster."""
    if not supports_bfloat16(device):
        return "float32"
    for precision in ("float32", "bfloat16"):  # untimed: kernels are chosen and compiled
        seconds(precision)
    return "bfloat16" if _WORTH_IT * seconds("bfloat16") < seconds("float32") else "float32"


def compile_in_place(modules: Iterable[nn.Module]) -> None:
    """Compile modules when they are first called. Each shape of a part of a supernet is a variant, of which torch would
    give up after a few."""
    import torch._dynamo  # takes a second

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 64 * _VARIANTS
    )
    for module in modules:
        module.compile()


def use_fast_kernels(device: str) -> None:
    """Let a GPU multiply float32 as TF32."""
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
