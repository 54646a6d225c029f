"""The optimiser step that all trainings share: micro-batches, ranks, memory, precision, checkpoints by time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from nas.core.errors import HwnasError
from nas.core.ports import Dataset, Rank, SearchSpace
from nas.stages.checkpoint_pace import CheckpointPace
from nas.training import samplers, trainer
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, Training
from nas.training.schedules import sandwich
from nas.training.state import TrainState
from nas.training.trainer import MicroBatch, Trainer, TrainingExecution, clip, faster_precision
from tests.support.small_training import few_digits, small_mobile

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return few_digits(64)


@pytest.fixture(scope="module")
def space(data: Dataset) -> SearchSpace:
    return small_mobile(data, resolutions=[6], depths=[1])


class Threads:
    """Ranks that are threads of one process."""

    def __init__(self, count: int) -> None:
        self.count, self.barrier = count, threading.Barrier(count, timeout=30)
        self.tensors: dict[int, list[torch.Tensor]] = {}
        self.flags: dict[int, bool] = {}

    def of(self, index: int) -> ThreadRank:
        return ThreadRank(self, Rank(index, self.count))


@dataclasses.dataclass
class ThreadRank:
    threads: Threads
    rank: Rank

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        together = self.threads
        together.tensors[self.rank.index] = [t.clone() for t in tensors]
        together.barrier.wait()
        for i, tensor in enumerate(tensors):
            tensor.copy_(sum(together.tensors[r][i] for r in range(together.count)))  # type: ignore[arg-type]
        together.barrier.wait()

    def any(self, flag: bool) -> bool:
        self.threads.flags[self.rank.index] = flag
        self.threads.barrier.wait()
        raised = any(self.threads.flags.values())
        self.threads.barrier.wait()
        return raised

    def values(self, value: str) -> list[str]:
        return [value] * self.threads.count


def training_of(
    space: SearchSpace, data: Dataset, execution: TrainingExecution, ranks: object = trainer.ONE_PROCESS
) -> Training:
    recipe = SupernetRecipe(
        sandwich(1, 0.05, samplers.axes(space.decisions)), batch_size=16, mixup=0.3, execution=execution
    )
    return Training(space.supernet(0), space, data, Pipeline(data, "cpu"), recipe, 0, ranks=ranks)  # type: ignore[arg-type]


def trained(training: Training) -> dict[str, torch.Tensor]:
    training.begin(0)
    for step in range(training.lengths[0]):
        training.step(0, step)
    weights = training.state(0, 0).weights
    assert weights is not None
    return dict(weights["net"])


def trained_on_ranks(
    count: int, space: SearchSpace, data: Dataset, execution: TrainingExecution
) -> dict[int, dict[str, torch.Tensor]]:
    """The weights that each rank ends with; ranks are threads."""
    threads, weights = Threads(count), dict[int, dict[str, torch.Tensor]]()
    trainings = [training_of(space, data, execution, threads.of(index)) for index in range(count)]

    def run(index: int) -> None:
        weights[index] = trained(trainings[index])

    workers = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return weights


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_ranks_ends_in_the_same_weights(count: int, space: SearchSpace, data: Dataset) -> None:
    """With a number of micro-batches that the ranks do not even divide."""
    execution = TrainingExecution(micro_batches=4)
    of_one_rank, of_ranks = (
        trained(training_of(space, data, execution)),
        trained_on_ranks(count, space, data, execution),
    )
    for name, value in of_one_rank.items():
        torch.testing.assert_close(of_ranks[0][name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(of_ranks[0][name], of_ranks[count - 1][name]), name
    undivided = trained(training_of(space, data, TrainingExecution()))
    assert any(not torch.allclose(undivided[name], value, rtol=1e-4, atol=1e-6) for name, value in of_one_rank.items())


def test_two_ranks_of_one_micro_batch_each_train_exactly_as_one(space: SearchSpace, data: Dataset) -> None:
    execution = TrainingExecution(micro_batches=2)
    of_ranks = trained_on_ranks(2, space, data, execution)
    for name, value in trained(training_of(space, data, execution)).items():
        assert torch.equal(of_ranks[0][name], value), name


def linear(weight: float = 1.0) -> tuple[nn.Linear, Callable[[MicroBatch], Iterator[torch.Tensor]]]:
    """A layer, and its mean squared output over a batch of 8 numbers."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, weight)
    x = torch.arange(8.0)[:, None]

    def losses(part: MicroBatch) -> Iterator[torch.Tensor]:
        yield layer(x[torch.from_numpy(part.rows(np.arange(8)))]).square().mean()

    return layer, losses


@pytest.mark.parametrize("count", [1, 2, 3, 4, 100])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(count: int) -> None:
    layer, losses = linear()
    training = Trainer(layer.parameters(), 1e9, "cpu", TrainingExecution(micro_batches=count))
    loss = training.gradients(8, losses)
    assert float(loss) == pytest.approx(140 / 8)
    assert layer.weight.grad is not None
    assert layer.weight.grad.item() == pytest.approx(2 * 140 / 8)
    sizes = [len(part.rows(np.arange(8))) for part in training.micro_batches(8)]
    assert sum(sizes) == 8
    assert min(sizes) >= 2


def test_micro_batches_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, losses = linear()
    training = Trainer(layer.parameters(), 1e9, "cpu", TrainingExecution())
    tried = []

    def in_memory(part: MicroBatch, fitting: int) -> Iterator[torch.Tensor]:
        images = len(part.rows(np.arange(8)))
        tried.append(images)
        if images > fitting:
            raise torch.OutOfMemoryError("too many")
        yield from losses(part)

    assert float(training.gradients(8, lambda part: in_memory(part, 2))) == pytest.approx(140 / 8)
    assert layer.weight.grad is not None
    assert layer.weight.grad.item() == pytest.approx(2 * 140 / 8)
    assert tried == [8, 4, 2, 2, 2, 2]
    assert training.execution.micro_batches == 4
    assert "4 micro-batches" in (training.execution.note(TrainingExecution()) or "")
    assert TrainingExecution(micro_batches=4).note(training.execution) is None
    with pytest.raises(HwnasError, match=r"out of memory on cpu with micro-batches of 2 images, the smallest"):
        training.gradients(8, lambda part: in_memory(part, 1))


def test_a_checkpoint_remembers_what_memory_asked_for(space: SearchSpace, data: Dataset) -> None:
    training = training_of(space, data, TrainingExecution())
    training.compute_in(4)
    training.begin(0)
    training.step(0, 0)
    stored = TrainState.from_bytes(training.state(0, 1).to_bytes(), "cpu")
    resumed = training_of(space, data, TrainingExecution(compiled=False))
    assert stored.weights is not None
    resumed.restore(stored.weights)
    assert resumed.execution == TrainingExecution(micro_batches=4)
    del stored.weights["execution"]  # as versions before wrote it
    earlier = training_of(space, data, TrainingExecution())
    earlier.restore(stored.weights)
    assert earlier.execution == TrainingExecution()


def test_lower_precision_has_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "supports_bfloat16", lambda device: True)
    assert faster_precision("cpu", lambda p: {"float32": 1.0, "bfloat16": 0.8}[p]) == "bfloat16"
    assert faster_precision("cpu", lambda p: {"float32": 1.0, "bfloat16": 0.95}[p]) == "float32"
    monkeypatch.setattr(trainer, "supports_bfloat16", lambda device: False)
    assert faster_precision("cpu", lambda p: pytest.fail("nothing to compare")) == "float32"


def test_outputs_in_lower_precision_are_given_as_float32() -> None:
    layer = nn.Linear(4, 2)
    dtypes = []
    layer.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    low = Trainer(layer.parameters(), 1.0, "cpu", TrainingExecution("bfloat16")).forward(layer, torch.randn(3, 4))
    high = Trainer(layer.parameters(), 1.0, "cpu", TrainingExecution()).forward(layer, torch.randn(3, 4))
    assert isinstance(low, torch.Tensor)
    assert isinstance(high, torch.Tensor)
    assert dtypes == [torch.bfloat16, torch.float32]
    assert low.dtype == high.dtype == torch.float32


def test_a_supernet_learns_in_lower_precision(space: SearchSpace, data: Dataset) -> None:
    training = training_of(space, data, TrainingExecution("bfloat16"))
    training.begin(0)
    losses = [training.step(0, step).loss for step in range(training.lengths[0])]
    reference = training_of(space, data, TrainingExecution())
    reference.begin(0)
    assert losses[0] == pytest.approx(reference.step(0, 0).loss, rel=0.02)
    assert all(np.isfinite(losses))


def test_clipping_scales_large_gradients_alone() -> None:
    for size, expected in ((0.5, 0.5), (4.0, 1.0)):
        parameter = nn.Parameter(torch.zeros(4))
        parameter.grad = torch.full((4,), size / 2)
        clip([parameter], 1.0)
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-4)
    nan = nn.Parameter(torch.zeros(1))
    nan.grad = torch.tensor([float("nan")])
    clip([nan], 1.0)
    assert nan.grad.isnan().all()


def test_checkpoints_take_a_share_of_the_time() -> None:
    time_s = [0.0]
    pace = CheckpointPace(lambda: time_s[0], 10.0)

    def keep(seconds: float) -> None:
        with pace.saving():
            time_s[0] += seconds

    assert not pace.due()
    time_s[0] += 10.0
    assert pace.due()
    keep(0.125)
    assert pace.interval_s == 10.0
    keep(3.0)
    assert pace.interval_s == pytest.approx(60.0)
    time_s[0] += 59.0
    assert not pace.due()
    time_s[0] += 1.0
    assert pace.due()
    keep(1e6)
    assert pace.interval_s == 600.0
    with pytest.raises(OSError, match="full"), pace.saving():
        raise OSError("full")
    assert not pace.due()
