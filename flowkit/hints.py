"""Annotations as objects: postponed ones evaluated, classes inside functions found, aliases opened.

``from __future__ import annotations`` turns annotations into strings. Their names usually live in the function's
module; those of classes defined inside a function live only in the frames that are running when the decorator or the
class statement is. `local_names` takes the few that the strings mention out of those frames at once, so that no frame
is kept alive.
"""

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Annotated, Any, get_args, get_origin

__all__ = ["UNRESOLVED", "caller", "local_names", "members", "plain", "resolve"]

UNRESOLVED: Any = type("UNRESOLVED", (), {"__repr__": lambda _: "<unresolved annotation>"})()
"""Stands for an annotation whose names aren't defined (yet)."""


def resolve(annotation: Any, module: Mapping[str, Any], local: Mapping[str, Any]) -> Any:
    """The object a (possibly postponed) annotation means, or `UNRESOLVED` where a name in it isn't defined."""
    if not isinstance(annotation, str):
        return annotation
    holder = types.FunctionType((lambda: None).__code__, {})
    holder.__annotations__ = {"value": annotation}
    try:
        return inspect.get_annotations(holder, globals=dict(module), locals=dict(local), eval_str=True)["value"]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return UNRESOLVED


def caller(depth: int) -> FrameType:
    """The frame ``depth`` calls above the function that calls this."""
    return sys._getframe(depth + 1)  # the documented (if underscored) way to find a caller; logging does the same


def local_names(annotations: Iterable[Any], frame: FrameType | None) -> dict[str, Any]:
    """The local variables around ``frame`` which the postponed annotations mention."""
    wanted = {name for text in annotations if isinstance(text, str) for name in re.findall(r"[^\W\d]\w*", text)}
    found: dict[str, Any] = {}
    while frame is not None and wanted and frame.f_locals is not frame.f_globals:
        found.update({name: frame.f_locals[name] for name in wanted - found.keys() if name in frame.f_locals})
        in_class_body = "__qualname__" in frame.f_locals and "__module__" in frame.f_locals
        # A class body runs inside the function that holds it; a function's caller says nothing about its names.
        frame = frame.f_back if in_class_body else None
    return found


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
