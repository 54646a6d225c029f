"""Cells as graphs: what spaces say of themselves, what the API makes of it, and how it is drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.core import registry
from nas.core.arch import Arch, choice_counts, sample
from nas.core.events import Traced
from nas.core.ports import ImageShape, is_relaxed
from search_spaces.darts_cell.cell import node_inputs
from server.api.catalog import cells_of
from server.dashboard.candidate import cell_svg
from server.dashboard.candidate.cell_svg import Arc
from tests.support.spaces import WITHOUT_PARENT

SHAPE = ImageShape(1, 8, 8, 10)
RELAXED = ("darts_cell", "nas_bench_201")


def space_of(name: str) -> Any:
    return registry.load_space(name).build({"preset": "digits"}, SHAPE)


def trace(name: str, table: np.ndarray) -> Traced:
    relaxation = space_of(name).relaxation
    rows = tuple(tuple(row) for row in table.tolist())
    return Traced("train", 1, {}, tuple(relaxation.edges), tuple(relaxation.operations), rows)


@pytest.mark.parametrize("name", WITHOUT_PARENT)
def test_every_space_of_relaxations_tells_its_cells_and_its_edges_lead_forward(name: str) -> None:
    space, space_type = space_of(name), registry.load_space(name)
    graphs = space.cells
    assert graphs == space_type.cells
    assert is_relaxed(space) or not graphs  # relaxations of blocks have no cells
    for cell in graphs:
        assert all(0 <= e.start < e.end < len(cell.nodes) for e in cell.edges)
        assert len({(e.start, e.end) for e in cell.edges}) == len(cell.edges)
        assert (cell.operations, cell.inputs) == (space.relaxation.operations, space.relaxation.inputs)
    if graphs:
        assert [e.name for cell in graphs for e in cell.edges if e.name] == list(space.relaxation.edges)


def test_the_cells_of_a_network_are_its_own() -> None:
    bench = space_of("nas_bench_201")
    (cell,) = cells_of(bench, Arch(bench.id, (4, 0, 1, 2, 0, 3)))
    assert [(e.start, e.end, e.operation) for e in cell.edges] == [
        (0, 1, "nor_conv_3x3"),
        (0, 2, "none"),
        (1, 2, "skip_connect"),
        (0, 3, "avg_pool_3x3"),
        (1, 3, "none"),
        (2, 3, "nor_conv_1x1"),
    ]
    assert len(cell_svg.of_architecture(cell)) == 4
    darts = space_of("darts_cell")
    for genes in sample(darts.decisions, np.random.default_rng(0), 8):
        normal, reduction = cells_of(darts, Arch(darts.id, tuple(genes.tolist())))
        for kind, cell in (("normal", normal), ("reduce", reduction)):
            expected = {
                (a, node + 2, darts.relaxation.operations[op])
                for node, pair in enumerate(node_inputs(genes, kind))
                for a, op in pair
            }
            assert {(a.start, a.end, a.operation) for a in cell_svg.of_architecture(cell)} == expected
    mobile = space_of("mobilenet_v3")
    assert cells_of(mobile, Arch(mobile.id, (0,) * len(mobile.decisions))) == []


def test_what_is_strongest_is_the_network_that_the_relaxation_stands_for() -> None:
    """Of random relaxations, the arcs that are not faint are the edges of the network that would be derived."""
    for name in RELAXED:
        space, rng = space_of(name), np.random.default_rng(1)
        for _ in range(10):
            table = rng.dirichlet(np.ones(space.relaxation.shape[1]), size=space.relaxation.shape[0])
            genes = space.discretise(table)
            architecture_cells = cells_of(space, Arch(space.id, tuple(genes.tolist())))
            for cell, own in zip(space.cells, architecture_cells, strict=True):
                arcs = [a for a in cell_svg.strongest(cell, trace(name, table)) if not a.faint]
                strongest = {(a.start, a.end, a.operation) for a in arcs if a.operation != "none"}
                derived = {(a.start, a.end, a.operation) for a in cell_svg.of_architecture(own)}
                assert derived == strongest if name == "darts_cell" else derived <= strongest
                assert all(a.weight == pytest.approx(table[:, :].max(), abs=1.0) for a in arcs)


def test_edges_without_any_operation_left_are_not_drawn() -> None:
    table = np.zeros((6, 5))
    table[0, 4] = 0.9
    (cell,) = space_of("nas_bench_201").cells
    assert cell_svg.strongest(cell, trace("nas_bench_201", table)) == [Arc(0, 1, "nor_conv_3x3", 0.9)]


@pytest.mark.parametrize("name", RELAXED)
def test_a_drawing_holds_every_edge_its_words_and_only_its_own_colours(name: str) -> None:
    space = space_of(name)
    table = np.random.default_rng(2).dirichlet(np.ones(space.relaxation.shape[1]), size=space.relaxation.shape[0])
    style = (Path(cell_svg.__file__).parents[1] / "static" / "dashboard.css").read_text()
    boxes = []
    for cell in space.cells:
        arcs = cell_svg.strongest(cell, trace(name, table))
        svg = ET.fromstring(cell_svg.svg(cell, arcs))
        groups = [g for g in svg if g.tag == "g" and g.get("class") not in ("nodes", "passing")]
        assert len(groups) == len(arcs) == len([e for e in cell.edges if e.name])
        by_title = {g.findtext("title", ""): float(g.get("opacity", "nan")) for g in groups}
        for a in arcs:
            title = next(t for t in by_title if t.startswith(f"{cell.nodes[a.start]} to {cell.nodes[a.end]}: "))
            assert a.operation in title
            assert by_title[title] == pytest.approx(0.2 + 0.8 * (a.weight or 0.0), abs=0.006)
        for g in groups:
            assert f".{(g.get('class') or '').split()[0]} " in style
        description = svg.get("aria-label", "")
        assert all(cell_svg.short(a.operation) in description for a in arcs if not a.faint)
        width = float((svg.get("viewBox") or "").split()[2])
        labels = [t for t in svg if t.tag == "text"]
        assert width <= 360  # a telephone's, less the margins of page and card
        spots = {(t.get("x"), t.get("y")) for t in labels}
        assert len(spots) == len(labels)
        boxes.append((width, labels))
        for first in labels:
            for second in labels:
                dx = abs(float(first.get("x", 0)) - float(second.get("x", 0)))
                dy = abs(float(first.get("y", 0)) - float(second.get("y", 0)))
                assert first is second or dx >= 90 or dy >= 12  # no label on another


def test_names_in_short_and_escaped() -> None:
    names = {
        "nor_conv_3x3": "conv 3×3",
        "sep_conv_5x5": "sep 5×5",
        "dil_conv_3x3": "dil 3×3",
        "max_pool_3x3": "max 3×3",
        "skip_connect": "skip",
        "none": "none",
        "my_op": "my op",
    }
    assert {n: cell_svg.short(n) for n in names} == names
    (cell,) = space_of("nas_bench_201").cells
    html = cell_svg.side_by_side([(cell, [Arc(0, 1, "<script>alert(1)</script>", 0.5)])])
    assert "<script>" not in html
    assert ET.fromstring(html) is not None
    assert choice_counts(space_of("nas_bench_201").decisions).tolist() == [5] * 6
