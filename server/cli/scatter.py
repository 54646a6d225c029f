"""A front as a small chart of characters, for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from nas.schemas.candidates import CandidateSchema, FrontSchema

SEARCH, BASELINE = "o", "x"


def scatter(front: FrontSchema, width: int = 64, height: int = 14) -> str:
    """The task's quality upwards over the first cost to the right: the search's members as ``o``, its random baseline's
    as ``x``.

    Empty if there are fewer than two distinct points.
    """
    y, x = front.quality, front.costs[0]

    def positions(points: Sequence[CandidateSchema]) -> list[tuple[float, float]]:
        return [(p.metrics[x.metric].value, p.metrics[y.metric].value) for p in points]

    baseline, search = positions(front.baseline), positions(front.members)
    values = baseline + search
    if len(set(values)) < 2:
        return ""
    (x_min, x_max), (y_min, y_max) = [(min(v), max(v)) for v in zip(*values, strict=True)]
    grid = [[" "] * width for _ in range(height)]
    for mark, candidates in ((BASELINE, baseline), (SEARCH, search)):  # the search's on top
        for cost, quality in candidates:
            column = round((cost - x_min) / (x_max - x_min or 1.0) * (width - 1))
            row = round((y_max - quality) / (y_max - y_min or 1.0) * (height - 1))
            grid[row][column] = mark
    names = [f"{value:.2f}" for value in (y_max, y_min)]
    margin = max(map(len, names))
    evidence = f"{y.kind}, {y.unit}" if y.unit else y.kind
    lines = [f"{y.label} ({evidence}): {SEARCH} search, {BASELINE} random search"]
    for n, cells in enumerate(grid):
        name = names[0] if n == 0 else names[1] if n == height - 1 else ""
        lines.append(f"{name:>{margin}} |{''.join(cells)}".rstrip())
    ends = f"{x_min:.4g}", f"{x_max:.4g}"
    unit = f", {x.unit}" if x.unit else ""
    lines += [
        f"{'':>{margin}} +{'-' * width}",
        f"{'':>{margin}}  {ends[0]}{ends[1]:>{width - len(ends[0])}}",
        f"{'':>{margin}}  {x.label + f' ({x.kind}{unit})':^{width}}".rstrip(),
    ]
    return "\n".join(lines)
