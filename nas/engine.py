"""Running a search: its stages in order, as one iterator of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas.core.events import Event, SearchState, StageFinished, StageStarted, fold
from nas.core.ports import Problem, Resources, Stage


def run_search(problem: Problem, stages: Sequence[Stage], resources: Resources, state: SearchState) -> Iterator[Event]:
    """Yields the events of every stage that ``state`` does not know as finished.

    A stage that ends without a ``StageFinished`` of its own gets one with an empty result.
    """
    for position, stage in enumerate(stages):
        if stage.name in state.finished:
            continue
        begun = resources.clock()
        started = StageStarted(stage.name, position, len(stages))
        state = fold(state, started)
        yield started
        result = {}
        for event in stage.run(problem, resources, state):
            if isinstance(event, StageFinished):
                result = dict(event.result)
                continue
            state = fold(state, event)
            yield event
        finished = StageFinished(stage.name, resources.clock() - begun, result)
        state = fold(state, finished)
        yield finished
