"""The parts of a page that aren't Python: its styles, and the scripts that pan, zoom and show what is hovered over.

They are files of their own beside this one, a few kilobytes, and are put into each page.
"""

from functools import cache
from importlib.resources import files

__all__ = ["graph_script", "page_style", "picture_style", "timeline_script"]


@cache
def _part(name: str) -> str:
    return files("flowkit.drawing").joinpath(name).read_text(encoding="utf-8")


def picture_style() -> str:
    """Of the pictures, wherever they are."""
    return _part("picture.css")


def page_style() -> str:
    """Of what is around a picture in a page of its own."""
    return _part("page.css")


def graph_script() -> str:
    """For the picture of a graph."""
    return _part("hover.js") + _part("graph.js")


def timeline_script() -> str:
    """For a timeline, on a canvas."""
    return _part("hover.js") + _part("timeline.js")
