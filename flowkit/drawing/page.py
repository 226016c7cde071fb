"""One HTML file that holds everything: style, script and data. It loads nothing and its policy forbids it to."""

import json

from flowkit.drawing.execution import Execution
from flowkit.drawing.graph import Graph
from flowkit.drawing.lanes import lanes_of
from flowkit.drawing.picture import graph_svg, shortened, text, width_of
from flowkit.drawing.scripts import graph_script, page_style, picture_style, timeline_script
from flowkit.drawing.timeline import title_of

__all__ = ["execution_page", "graph_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_KINDS = ["returned", "failed", "retried", "cut", "running", "waiting", "pause"]


def graph_page(graph: Graph) -> str:
    """A workflow's graph."""
    return _page(graph.name, graph.where or "", graph_svg(graph, style=False), graph_script())


def execution_page(execution: Execution) -> str:
    """A run's timeline."""
    remark = f"run {execution.run_id}"
    if execution.dropped:
        remark += "; the oldest facts are not remembered: it begins in the middle"
    data = json.dumps(_data(execution), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # In a script element only "<" could end it, or begin a comment: the rest of JSON is left as it is.
    data = data.replace("<", "\\u003c")
    body = f'<canvas></canvas><script type="application/json" id="data">{data}</script>'
    return _page(title_of(execution), remark, body, timeline_script())


def _data(execution: Execution) -> dict[str, object]:
    lanes = lanes_of(execution)
    names: dict[str, int] = {}

    def name(value: str) -> int:
        return names.setdefault(value, len(names))

    def time(value: float) -> float:
        return round(value, 7)

    left = max([90.0, *(width_of(shortened(row.name, 40), 12.0) + 20 + 14 * row.depth for row in lanes.rows)])
    return {
        "kinds": _KINDS,
        "rows": [[shortened(row.name, 40), row.depth, row.first, row.count, row.is_step] for row in lanes.rows],
        "bars": [
            [bar.lane, time(bar.began), time(bar.ended), _KINDS.index(bar.what), name(bar.label), bar.detail]
            for bar in lanes.bars
        ],
        "signs": [[sign.lane, time(sign.time), name(sign.kind), sign.detail] for sign in lanes.signs],
        "links": [
            [link.lane, time(link.time), link.to_lane, time(link.to_time), name(link.event)] for link in lanes.links
        ],
        "names": list(names),
        "count": lanes.count,
        "span": lanes.span,
        "left": round(left),
    }


def _page(title: str, remark: str, body: str, script: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(title)}</title><style>{picture_style()}{page_style()}</style></head>"
        f'<body class="fk"><header><b>{text(title)}</b><span>{text(remark)}</span><span id="few"></span>'
        '<button id="out" title="zoom out (-)">&#8722;</button><button id="in" title="zoom in (+)">+</button>'
        '<button id="fit" title="show all (0)">fit</button></header>'
        f'<main>{body}</main><div id="tip"></div><script>{script}</script></body></html>\n'
    )
