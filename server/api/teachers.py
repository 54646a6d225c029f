"""Checks that an exported model of another search can teach the networks of a submitted one."""

from __future__ import annotations

from nas.core import registry
from nas.core.access import Principal
from nas.core.errors import InvalidSpec, UnknownName
from nas.core.ports import ImageShape
from nas.core.spec import SearchSpec
from nas.mixed_precision import in_precision_of
from server.api.parents import parent_of
from server.store.store import Store
from server.store.teachers import TeacherSearch, teacher_of


def require_teacher(
    spec: SearchSpec, shape: ImageShape, search: TeacherSearch | None, store: Store, principal: Principal
) -> None:
    """Raises InvalidSpec if the ``search`` that ``spec.retrain.teacher`` names is not one of the caller's, has not
    exported the network, or is for another task or images of another shape than ``shape``."""
    teacher = teacher_of(spec)
    if teacher is None:
        return
    if search is None or not (principal.is_admin or search.owner == principal.owner):
        raise InvalidSpec(f"retrain.teacher.search: no search {teacher.search!r}")
    if not search.networks:
        raise InvalidSpec(
            f"retrain.teacher.search: expected a search with exported models, {teacher.search!r} has none"
        )
    if teacher.network not in search.networks:
        unknown = UnknownName(f"exported network of search {teacher.search}", teacher.network, search.networks)
        raise InvalidSpec(f"retrain.teacher.network: {unknown}")
    if search.spec.data.task != spec.data.task:
        raise InvalidSpec(
            f"retrain.teacher: expected a model for the task {spec.data.task!r}, that of search {teacher.search} is "
            f"for {search.spec.data.task!r}"
        )
    space = registry.build_space(search.spec.space, shape, parent_of(search.spec.space, store))
    space = in_precision_of(space, search.spec.precision)
    if space.id != search.space_id:
        raise InvalidSpec(
            f"retrain.teacher: expected a model for images of {shape.channels}x{shape.height}x{shape.width} and "
            f"{shape.classes} classes; search {teacher.search} has others: its space is {search.space_id}, and would "
            f"be {space.id} for these"
        )
