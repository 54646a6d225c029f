"""The teacher that a worker makes of its payload."""

from __future__ import annotations

from pathlib import Path

from nas.blobs import FolderBlobs
from nas.core.jobs import SearchPayload, TeacherPayload
from nas.core.ports import ImageShape
from nas.core.spec import SearchSpec
from tests.support.engine import SPEC, problem
from workers.runner import _teacher


def test_a_teacher_is_of_its_own_space_for_the_images_of_the_search(tmp_path: Path) -> None:
    teacher = TeacherPayload("before", "n", SPEC.space, "0" * 64)
    payload = SearchPayload(SearchSpec(), (), teacher=teacher)
    model = _teacher(payload, ImageShape(1, 8, 8, 10), FolderBlobs(tmp_path))
    assert model is not None
    assert (model.search, model.network, model.package) == ("before", "n", "0" * 64)
    assert model.space.id == problem().space.id
    assert _teacher(SearchPayload(SearchSpec(), ()), ImageShape(1, 8, 8, 10), FolderBlobs(tmp_path)) is None
