"""A layered layout: boxes in rows, so that arrows run from row to row, and where the arrows go.

The usual four stages (K. Sugiyama, S. Tagawa, M. Toda, "Methods for visual understanding of hierarchical system
structures", IEEE Trans. SMC 11(2), 1981): arrows that close a circle are turned around; each box gets the row that the
longest path to it says; the boxes of a row are ordered by the barycentres of what they are joined to, sweeping down and
up; and each is moved as close to that as its neighbours allow. The last is a least-squares problem with an order to
keep, solved exactly by pooling adjacent violators (R. E. Barlow et al., "Statistical Inference under Order
Restrictions", 1972).

An arrow over several rows has a place of its own in each row between, so no arrow crosses a box: between rows it bends,
and in a row it runs straight down through its place.

The same graph gives the same layout: nothing here is random, and ties are broken by the order of the input.
"""

import itertools
from collections.abc import Mapping, Sequence

import attrs

__all__ = ["Box", "Layout", "Path", "lay_out"]

GAP_X, GAP_Y, LANE = 26.0, 54.0, 14.0
SWEEPS = 12


@attrs.frozen
class Box:
    """Where a box is: its upper left corner, its size, and its row, from 0."""

    x: float
    y: float
    width: float
    height: float
    row: int


@attrs.frozen
class Path:
    """Where an arrow goes, in its own direction: from each point to the next it bends (``bends``) or runs straight."""

    points: tuple[tuple[float, float], ...]


@attrs.frozen
class Layout:
    """Boxes by id, and the arrows' paths in the order of the input."""

    boxes: dict[str, Box]
    paths: tuple[Path, ...]
    width: float
    height: float


@attrs.define(eq=False)
class _Item:
    """A box, or the place that an arrow has in a row (``id`` is ``None``)."""

    id: str | None
    width: float
    height: float
    row: int
    up: "list[_Item]" = attrs.field(factory=lambda: list[_Item](), repr=False)
    down: "list[_Item]" = attrs.field(factory=lambda: list[_Item](), repr=False)
    at: int = 0
    x: float = 0.0  # its middle


def lay_out(sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]) -> Layout:
    """Place boxes of these sizes so that these arrows between them can be followed."""
    turned = _turned(list(sizes), edges)
    downward = [(b, a) if turn else (a, b) for (a, b), turn in zip(edges, turned, strict=True)]
    rows_of = _rows(list(sizes), [edge for edge in downward if edge[0] != edge[1]])
    items = {id: _Item(id, *sizes[id], rows_of[id]) for id in sizes}
    chains = [_chain(items[a], items[b]) for a, b in downward]
    rows: list[list[_Item]] = [[] for _ in range(max(rows_of.values(), default=-1) + 1)]
    for item in [*items.values(), *(item for chain in chains for item in chain[1:-1])]:
        rows[item.row].append(item)
    rows = _ordered(rows)
    _place(rows)
    left = min((item.x - item.width / 2 for row in rows for item in row), default=0.0)
    tops, y = list[float](), 0.0
    for row in rows:
        tops.append(y)
        y += max((item.height for item in row), default=0.0) + GAP_Y
    bottoms = [top + max((item.height for item in row), default=0.0) for top, row in zip(tops, rows, strict=True)]
    boxes: dict[str, Box] = {}
    for item in items.values():
        room = bottoms[item.row] - tops[item.row] - item.height
        x, top = item.x - item.width / 2 - left, tops[item.row] + room / 2
        boxes[item.id or ""] = Box(round(x, 1), round(top, 1), item.width, item.height, item.row)
    ports = _ports(items, chains)
    paths = [
        _path(chain, number, ports, boxes, tops, bottoms, left, turned=turn)
        for number, (chain, turn) in enumerate(zip(chains, turned, strict=True))
    ]
    # A box that loops back to itself needs room at its side.
    reach = [x for path in paths for x, _ in path.points]
    width = max([*(box.x + box.width for box in boxes.values()), *reach], default=0.0)
    return Layout(boxes, tuple(paths), round(width, 1), round(max(bottoms, default=0.0), 1))


def _turned(ids: list[str], edges: Sequence[tuple[str, str]]) -> list[bool]:
    """Which arrows to turn around, so that there is no circle: those that lead back, in a walk from the beginnings."""
    after: dict[str, list[tuple[str, int]]] = {id: [] for id in ids}
    for number, (a, b) in enumerate(edges):
        after[a].append((b, number))
    entered = {b for a, b in edges if a != b}
    turned = [False] * len(edges)
    state: dict[str, int] = {}
    for root in [*(id for id in ids if id not in entered), *ids]:
        if root in state:
            continue
        state[root] = 1
        walk = [(root, iter(after[root]))]
        while walk:
            id, rest = walk[-1]
            for other, number in rest:
                if state.get(other) == 1 and other != id:
                    turned[number] = True
                elif other not in state:
                    state[other] = 1
                    walk.append((other, iter(after[other])))
                    break
            else:
                state[id] = 2
                _ = walk.pop()
    return turned


def _rows(ids: list[str], edges: list[tuple[str, str]]) -> dict[str, int]:
    """The longest path to each box; then each that only leads on is let down to just above what it leads to."""
    after: dict[str, list[str]] = {id: [] for id in ids}
    missing = dict.fromkeys(ids, 0)
    for a, b in edges:
        after[a].append(b)
        missing[b] += 1
    rows = dict.fromkeys(ids, 0)
    first = [id for id in ids if not missing[id]]
    ready = list(first)
    while ready:
        id = ready.pop()
        for other in after[id]:
            rows[other] = max(rows[other], rows[id] + 1)
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)
    for id in first:
        if after[id]:
            rows[id] = min(rows[other] for other in after[id]) - 1
    return rows


def _chain(a: _Item, b: _Item) -> list[_Item]:
    chain = [a, *(_Item(None, LANE, 0.0, row) for row in range(a.row + 1, b.row)), b]
    if a is not b:
        for one, other in itertools.pairwise(chain):
            one.down.append(other)
            other.up.append(one)
    return chain


def _ordered(rows: list[list[_Item]]) -> list[list[_Item]]:
    """Sweep down and up; of all orders met, the one with the fewest crossings."""
    _number(rows)
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(SWEEPS):
        downward = sweep % 2 == 0
        for row in rows if downward else reversed(rows):
            row.sort(key=lambda item: _barycentre(item, item.up if downward else item.down))
            for at, item in enumerate(row):
                item.at = at
        crossings = _crossings(rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
        if not fewest:
            break
    _number(best)
    return best


def _number(rows: list[list[_Item]]) -> None:
    for row in rows:
        for at, item in enumerate(row):
            item.at = at


def _barycentre(item: _Item, others: list[_Item]) -> float:
    return sum(other.at for other in others) / len(others) if others else item.at


def _crossings(rows: list[list[_Item]]) -> int:
    """How many pairs of arrows cross: inversions, counted by merging (W. Barth, P. Mutzel, M. Jünger, 2004)."""
    total = 0
    for row in rows:
        ends = [at for item in row for at in sorted(other.at for other in item.down)]
        total += _inversions(ends)[0]
    return total


def _inversions(ends: list[int]) -> tuple[int, list[int]]:
    if len(ends) < 2:
        return 0, ends
    half = len(ends) // 2
    one, left = _inversions(ends[:half])
    two, right = _inversions(ends[half:])
    count, merged, at = one + two, list[int](), 0
    for end in left:
        while at < len(right) and right[at] < end:
            merged.append(right[at])
            at += 1
        count += at
        merged.append(end)
    return count, merged + right[at:]


def _place(rows: list[list[_Item]]) -> None:
    """Give each item its middle: near what it is joined to, in order, and apart."""
    for row in rows:
        _settle(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        downward = sweep % 2 == 0
        for row in rows if downward else reversed(rows):
            wishes = [
                _mean([other.x for other in (item.up if downward else item.down) or item.down or item.up], item.x)
                for item in row
            ]
            _settle(row, wishes)


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _settle(row: list[_Item], wishes: list[float]) -> None:
    """The places nearest to the wishes that keep the row's order and its gaps."""
    offsets, at = list[float](), 0.0
    for before, item in zip([None, *row], row, strict=False):
        if before is not None:
            at += (before.width + item.width) / 2 + (GAP_X if before.id or item.id else LANE)
        offsets.append(at)
    pools: list[tuple[float, int]] = []  # sums of wishes less offsets, and how many
    for wish, offset in zip(wishes, offsets, strict=True):
        total, count = wish - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            more, others = pools.pop()
            total, count = total + more, count + others
        pools.append((total, count))
    bases = [total / count for total, count in pools for _ in range(count)]
    for item, base, offset in zip(row, bases, offsets, strict=True):
        item.x = base + offset


def _ports(items: dict[str, _Item], chains: list[list[_Item]]) -> dict[tuple[int, bool], float]:
    """Where each arrow leaves a box at its bottom and comes in at its top, side by side in the order of where it goes:
    by the arrow's number and whether it is at its upper end."""
    sides: dict[tuple[str, bool], list[tuple[float, int]]] = {}
    for number, chain in enumerate(chains):
        if chain[0] is not chain[-1]:
            sides.setdefault((chain[0].id or "", True), []).append((chain[1].x, number))
            sides.setdefault((chain[-1].id or "", False), []).append((chain[-2].x, number))
    ports: dict[tuple[int, bool], float] = {}
    for (id, is_upper), ends in sides.items():
        item = items[id]
        step = min(22.0, (item.width - 24.0) / max(1, len(ends) - 1))
        for place, (_, number) in enumerate(sorted(ends)):
            ports[number, is_upper] = item.x + (place - (len(ends) - 1) / 2) * step
    return ports


def _path(
    chain: list[_Item],
    number: int,
    ports: dict[tuple[int, bool], float],
    boxes: dict[str, Box],
    tops: list[float],
    bottoms: list[float],
    left: float,
    *,
    turned: bool,
) -> Path:
    first, last = boxes[chain[0].id or ""], boxes[chain[-1].id or ""]
    if chain[0] is chain[-1]:
        side, middle = first.x + first.width, first.y + first.height / 2
        points = [
            (side, middle - 8.0),
            (side + GAP_X / 2, middle - 8.0),
            (side + GAP_X / 2, middle + 8.0),
            (side, middle + 8.0),
        ]
    else:
        x = ports[number, True] - left
        points = [(x, first.y + first.height), (x, bottoms[first.row])]
        for item in chain[1:-1]:
            x = item.x - left
            points += [(x, tops[item.row]), (x, bottoms[item.row])]
        x = ports[number, False] - left
        points += [(x, tops[last.row]), (x, last.y)]
    if turned:
        points.reverse()
    return Path(tuple((round(x, 1), round(y, 1)) for x, y in points))
