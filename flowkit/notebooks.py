"""What a notebook shows of a workflow and of a handle: their drawings.

They are made by `flowkit.drawing`, which is built on what this is a part of: so it is imported by name, when a drawing
is asked for, as ``flowkit/__init__.py`` does with what is rarely needed.
"""

from collections.abc import Collection
from importlib import import_module
from typing import Any

__all__ = ["InNotebooks"]


class InNotebooks:
    """Is shown as its drawing, or as its ``repr`` where it can't be drawn."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        try:
            drawn: str = import_module("flowkit.drawing").to_fragment(self)
        except Exception:  # noqa: BLE001 - a notebook must show something, if only its text
            return None
        return drawn

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None, **_: Any
    ) -> dict[str, str]:
        bundle = {"text/plain": repr(self)}
        wanted = (not include or "text/html" in include) and "text/html" not in (exclude or ())
        drawn = self._repr_html_() if wanted else None
        return bundle if drawn is None else {**bundle, "text/html": drawn}
