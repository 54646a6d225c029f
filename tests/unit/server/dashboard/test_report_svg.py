"""The intake report as a drawing: every layer with what may become of it, and brackets over what may be skipped."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from nas.models.blocks import ResidualBlock
from nas.models.channels import ChannelGroup, FixedChannels
from nas.models.intake import IntakeReport, OutlinedLayer, ResolutionReport
from server.dashboard.models.report_svg import drawn_layers, report_svg


def block(name: str, *layers: str) -> ResidualBlock:
    return ResidualBlock(name, f"{name}.add", "x", (), layers)


@pytest.fixture
def report() -> IntakeReport:
    layers = (
        OutlinedLayer("stem", "conv2d", 8, 16),
        OutlinedLayer("a<b>", "conv2d", 24, 16),
        OutlinedLayer("c", "conv2d", 8, 8),
        OutlinedLayer("head", "linear", 5, 1),
    )
    return IntakeReport(
        inputs=(("x", (2, 3, 16, 16)),),
        outputs=((2, 5),),
        parameters=100,
        convolutions=3,
        batch_norms=3,
        any_batch=True,
        groups=(ChannelGroup("stem", 8, 8, ("stem", "c"), ("a<b>",)), ChannelGroup("a<b>", 24, 24, ("a<b>",), ("c",))),
        fixed=(FixedChannels("head", 5, "head", "they are outputs of the model"),),
        blocks=(block("outer", "a<b>", "c"), block("inner", "c"), block("empty")),
        resolution=ResolutionReport(True, 1),
        layers=layers,
    )


def test_every_layer_says_what_may_become_of_it(report: IntakeReport) -> None:
    assert [(d.layer.name, d.freedom, d.sentence) for d in drawn_layers(report)] == [
        ("stem", "narrowed", "may keep 1 to 8 units, together with c"),
        ("a<b>", "narrowed", "may keep 1 to 24 units"),
        ("c", "narrowed", "may keep 1 to 8 units, together with stem"),
        ("head", "fixed", "stays as wide as it is: head: they are outputs of the model"),
    ]


def test_the_drawing_is_valid_and_names_are_escaped(report: IntakeReport) -> None:
    svg = ElementTree.fromstring(report_svg(report))
    assert svg.attrib["aria-label"].startswith("The model from input to output: 4 layers, 2 groups")
    titles = [title.text for title in svg.iter("title")]
    assert "a<b> (conv2d), 24 channels: may keep 1 to 24 units" in titles
    assert "outer: may be skipped, with a<b>, c" in titles
    assert len(list(svg.iter("rect"))) == 4


def test_brackets_of_nested_blocks_do_not_overlap(report: IntakeReport) -> None:
    svg = ElementTree.fromstring(report_svg(report))
    heights = {path.attrib["d"].split()[1] for path in svg.iter("path")}
    assert len(heights) == 2  # a block without layers has none
