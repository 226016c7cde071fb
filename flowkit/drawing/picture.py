"""SVG: text that is safe in it, its colours, and the picture of a graph.

Whatever comes from users (names, annotations, values, error texts) gets in through `text` only. Colours are CSS
variables, of which a dark scheme gives others (``prefers-color-scheme``); every rule is under the class ``fk``, so that
a picture in a notebook leaves the notebook's own styles alone.
"""

import unicodedata
from collections.abc import Sequence

from flowkit.drawing.graph import Edge, Graph, Node
from flowkit.drawing.layers import Layout, Path, lay_out
from flowkit.drawing.scripts import picture_style

__all__ = ["frame", "graph_svg", "shortened", "text", "width_of"]

LINE, PAD = 16.0, 10.0
_ESCAPES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#39;"}


def text(value: str) -> str:
    """A string for SVG and HTML, in elements and attributes: escaped, and without what XML has no place for."""
    kept = "".join(one if _may_stand(one) else "\N{REPLACEMENT CHARACTER}" for one in value)
    return kept.translate(_ESCAPES)


def _may_stand(one: str) -> bool:
    code = ord(one)
    return one in "\t\n" or 0x20 <= code < 0x7F or (0xA0 <= code < 0xD800) or 0xE000 <= code < 0xFFFE or code > 0xFFFF


def width_of(value: str, size: float = 13.0) -> float:
    """About how wide a string is drawn: rather too wide than too narrow."""
    total = 0.0
    for one in value:
        if unicodedata.east_asian_width(one) in "WF":
            total += 1.05
        elif one in "mwMW@%":
            total += 0.95
        elif one.isupper():
            total += 0.74
        elif one in "iljtf.,:;|'!()[] ":
            total += 0.36
        else:
            total += 0.6
    return total * size


def shortened(value: str, limit: int = 48) -> str:
    """A name that has room in a box."""
    value = " ".join(value.split()) or "?"
    return value if len(value) <= limit else value[: limit - 1] + "…"


def frame(body: str, width: float, height: float, title: str, *, style: bool = True) -> str:
    """A whole SVG document."""
    styled = f"<style>{picture_style()}</style>" if style else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fk" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" aria-label="{text(title)}">{styled}{body}</svg>'
    )


# ------------------------------------------------------------------------------------------------------------- graphs


def graph_svg(graph: Graph, *, style: bool = True) -> str:
    """The picture of a workflow's graph."""
    body, width, height = _graph(graph)
    head = f'<text class="name" x="16" y="24">{text(shortened(graph.name))}</text>'
    inside = f'<g transform="translate(16 40)">{body}</g>'
    width = max(width, width_of(shortened(graph.name))) + 32
    return frame(head + inside, round(width, 1), round(height + 56, 1), f"workflow {graph.name}", style=style)


def _graph(graph: Graph) -> tuple[str, float, float]:
    """Body, width and height."""
    inner = {node.id: [_graph(one) for one in node.inner] for node in graph.nodes}
    sizes = {node.id: _size(node, inner[node.id]) for node in graph.nodes}
    layout = lay_out(sizes, [(edge.source, edge.target) for edge in graph.edges])
    parts = [_arrow(edge, path) for edge, path in zip(graph.edges, layout.paths, strict=True)]
    parts += [_node(node, layout, inner[node.id]) for node in graph.nodes]
    parts += [_label(edge, path) for edge, path in zip(graph.edges, layout.paths, strict=True) if edge.label]
    return "".join(parts), layout.width, layout.height


def _size(node: Node, inner: Sequence[tuple[str, float, float]]) -> tuple[float, float]:
    wide = [width_of(shortened(node.name)) + 8, *(width_of(shortened(line), 11.0) for line in node.lines)]
    wide += [
        max(width, width_of(shortened(one.name))) + 16 for one, (_, width, _) in zip(node.inner, inner, strict=True)
    ]
    high = LINE * (1 + len(node.lines)) + sum(height + 34 for _, _, height in inner)
    return round(max(64.0, max(wide) + 2 * PAD + (12 if node.kind != "step" else 0)), 1), round(high + 2 * PAD, 1)


def _node(node: Node, layout: Layout, inner: Sequence[tuple[str, float, float]]) -> str:
    box = layout.boxes[node.id]
    radius = 6 if node.kind in ("step", "catcher") else min(16.0, box.height / 2)
    x, y = box.x + box.width / 2, box.y + PAD + 12
    parts = [
        f'<g class="hit" data-node="{text(node.id)}"><title>{text(node.detail)}</title>',
        f'<rect class="{node.kind}" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" '
        f'rx="{radius:g}"/>',
        f'<text class="name" text-anchor="middle" x="{x:g}" y="{y:g}">{text(shortened(node.name))}</text>',
    ]
    for line in node.lines:
        y += LINE
        parts.append(f'<text class="dim" text-anchor="middle" x="{x:g}" y="{y:g}">{text(shortened(line))}</text>')
    parts.append("</g>")
    y += 10
    for graph, (body, width, height) in zip(node.inner, inner, strict=True):
        left, wide = box.x + PAD, box.width - 2 * PAD
        name = f"{graph.child}: {graph.name}" if graph.child else graph.name
        parts.append(f'<rect class="frame" x="{left:g}" y="{y:g}" width="{wide:g}" height="{height + 30:g}" rx="6"/>')
        parts.append(f'<text class="dim" x="{left + 8:g}" y="{y + 15:g}">{text(shortened(name))}</text>')
        parts.append(f'<g transform="translate({left + (wide - width) / 2:g} {y + 22:g})">{body}</g>')
        y += height + 34
    return "".join(parts)


def _arrow(edge: Edge, path: Path) -> str:
    (x, y), *rest = path.points
    moves = [f"M{x:g} {y:g}"]
    for to_x, to_y in rest:
        if to_x == x or to_y == y:
            moves.append(f"L{to_x:g} {to_y:g}")
        else:
            middle = (y + to_y) / 2
            moves.append(f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}")
        x, y = to_x, to_y
    before = next(point for point in reversed(path.points) if point != (x, y)) if rest else (x, y)
    side = (0, 1) if before[0] == x or before[1] != y else (1, 0)
    way = 1 if (y - before[1] if side[1] else x - before[0]) > 0 else -1
    if side[1]:
        tip = f"{x:g},{y:g} {x - 4.5:g},{y - 8 * way:g} {x + 4.5:g},{y - 8 * way:g}"
    else:
        tip = f"{x:g},{y:g} {x - 8 * way:g},{y - 4.5:g} {x - 8 * way:g},{y + 4.5:g}"
    style = "" if edge.style == "one" else f" {edge.style}"
    red = " red" if edge.style == "fails" else ""
    ends = f'data-from="{text(edge.source)}" data-to="{text(edge.target)}"'
    return f'<path class="arrow{style}" {ends} d="{"".join(moves)}"/><polygon class="tip{red}" points="{tip}"/>'


def _label(edge: Edge, path: Path) -> str:
    """Beside the arrow, between the first two rows."""
    points = path.points
    bend = next((k for k in range(len(points) - 1) if abs(points[k + 1][1] - points[k][1]) > 20), 0)
    (x, y), (to_x, to_y) = points[bend], points[min(bend + 1, len(points) - 1)]
    return f'<text class="dim halo" x="{(x + to_x) / 2 + 5:g}" y="{(y + to_y) / 2 + 4:g}">{text(edge.label)}</text>'
