"""Annotations as objects: postponed ones evaluated, classes inside functions found, aliases opened.

``from __future__ import annotations`` turns annotations into strings. Their names usually live in the function's
module; those of classes defined inside a function live only in the frames that are running when the decorator or the
class statement is. `local_names` takes the few that the strings mention out of those frames at once, so that no frame
is kept alive.
"""

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Annotated, Any, get_args, get_origin

__all__ = [
    "UNRESOLVED",
    "evaluate",
    "kind_of",
    "local_names",
    "members",
    "place",
    "plain",
    "resolve",
    "statement",
]


class _Unresolved:
    def __repr__(self) -> str:
        return "<unresolved annotation>"


UNRESOLVED: Any = _Unresolved()
"""Stands for an annotation whose names aren't defined (yet)."""


def evaluate(annotation: Any, module: dict[str, Any], local: Mapping[str, Any]) -> Any:
    """The object a (possibly postponed) annotation means, with the strings inside it (``list["A"]``) evaluated too.

    Raises:
        NameError, AttributeError: a name in it isn't defined (yet).
        Exception: what evaluating it raised; it will never mean anything.
    """
    while isinstance(annotation, str):  # a quoted one in a module that postpones all of them is a string twice
        annotation = eval(annotation, module, dict(local))
    if annotation is None or (isinstance(annotation, type) and not get_args(annotation)):
        return annotation
    holder = types.FunctionType((lambda: None).__code__, {})
    holder.__annotations__ = {"value": annotation}
    return typing.get_type_hints(holder, module, dict(local), include_extras=True)["value"]


def resolve(annotation: Any, module: dict[str, Any], local: Mapping[str, Any]) -> Any:
    """As `evaluate`, but `UNRESOLVED` for an annotation that can't be evaluated."""
    try:
        return evaluate(annotation, module, local)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return UNRESOLVED


def kind_of(value: object) -> type[Any]:
    """``type(value)``, where type checkers make something unknown of that."""
    return type(value)


def statement(own: dict[str, Any]) -> FrameType | None:
    """The frame whose ``class`` statement or decorator led here: the first that isn't of the module with the globals
    ``own``, nor another class's ``__init_subclass__``.
    """
    frame = inspect.currentframe()
    while frame is not None and (
        frame.f_globals is own or frame.f_globals is globals() or frame.f_code.co_name == "__init_subclass__"
    ):
        frame = frame.f_back
    return frame


def place(frame: FrameType | None) -> str | None:
    """``file:line`` where a frame is."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else None


def local_names(annotations: Iterable[Any], frame: FrameType | None) -> dict[str, Any]:
    """The local variables around ``frame`` which the postponed annotations mention.

    Of a function that is found (a resource's factory) the annotations are looked at in turn.
    """
    wanted = {name for annotation in annotations for name in _mentioned(annotation)}
    found: dict[str, Any] = {}
    while frame is not None and wanted and frame.f_locals is not frame.f_globals:
        scope = frame.f_locals
        while fresh := (wanted - found.keys()).intersection(scope):
            found.update({name: scope[name] for name in fresh})
            wanted.update(name for one in fresh for name in _mentioned(scope[one]))
        in_class_body = "__qualname__" in scope and "__module__" in scope
        # A class body runs inside the function that holds it; a function's caller says nothing about its names.
        frame = frame.f_back if in_class_body else None
    return found


def _mentioned(annotation: Any, inside: tuple[Any, ...] = ()) -> Iterator[str]:
    """The names in what is still a string in an annotation, and in those of a factory that it refers to."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        yield from re.findall(r"[^\W\d]\w*", annotation)
        return
    for part in get_args(annotation):
        yield from _mentioned(part, inside)
    function = inspect.unwrap(getattr(annotation, "factory", annotation)) if not get_args(annotation) else None
    if isinstance(function, types.FunctionType) and function not in inside:  # factories may form a circle
        for part in function.__annotations__.values():
            yield from _mentioned(part, (*inside, function))


def plain(annotation: Any) -> Any:
    """Open ``Annotated`` and type aliases: what is left is a class, a union, or a parametrised generic."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__") and type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def members(annotation: Any) -> list[Any]:
    """The members of a union, opened; a list of one for anything else."""
    annotation = plain(annotation)
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in members(argument)]
    return [annotation]
