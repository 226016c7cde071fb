"""Laws of the layered layout, for any graph."""

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from flowkit.drawing.layers import Layout, lay_out

Sizes = dict[str, tuple[float, float]]
Edges = list[tuple[str, str]]
SIDE = st.integers(20, 300).map(float)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Sizes, Edges]:
    ids = [f"n{number}" for number in range(draw(st.integers(1, 14)))]
    sizes = {id: (draw(SIDE) + 30, draw(SIDE)) for id in ids}
    edges = draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), max_size=30))
    return sizes, edges


def points_on(layout: Layout, number: int) -> list[tuple[float, float]]:
    """Points on an arrow as it is drawn: straight, or a cubic that leaves and comes in straight up or down."""
    found: list[tuple[float, float]] = []
    for (x, y), (to_x, to_y) in pairwise(layout.paths[number].points):
        for part in range(1, 20):
            t = part / 20
            along = t if x == to_x or y == to_y else t * t * (3 - 2 * t)
            middle = (y + to_y) / 2
            down = (1 - t) ** 3 * y + 3 * (1 - t) ** 2 * t * middle + 3 * (1 - t) * t * t * middle + t**3 * to_y
            found.append((x + (to_x - x) * along, down if x != to_x and y != to_y else y + (to_y - y) * t))
    return found


@given(graphs())
def test_no_boxes_overlap(graph: tuple[Sizes, Edges]) -> None:
    boxes = lay_out(*graph).boxes
    assert boxes.keys() == graph[0].keys()
    for one, other in combinations(boxes.values(), 2):
        apart_x = one.x + one.width <= other.x + 0.2 or other.x + other.width <= one.x + 0.2
        apart_y = one.y + one.height <= other.y + 0.2 or other.y + other.height <= one.y + 0.2
        assert apart_x or apart_y


@given(graphs())
def test_every_arrow_goes_from_box_to_box_and_through_none(graph: tuple[Sizes, Edges]) -> None:
    sizes, edges = graph
    layout = lay_out(sizes, edges)
    assert len(layout.paths) == len(edges)
    for number, (source, target) in enumerate(edges):
        (x, y), (to_x, to_y) = layout.paths[number].points[0], layout.paths[number].points[-1]
        for id, at_x, at_y in ((source, x, y), (target, to_x, to_y)):
            box = layout.boxes[id]
            assert box.x - 0.2 <= at_x <= box.x + box.width + 0.2
            assert box.y - 0.2 <= at_y <= box.y + box.height + 0.2
        for at_x, at_y in points_on(layout, number):
            for box in layout.boxes.values():
                inside_x = box.x + 1 < at_x < box.x + box.width - 1
                assert not (inside_x and box.y + 1 < at_y < box.y + box.height - 1)


@given(graphs())
def test_rows_are_kept(graph: tuple[Sizes, Edges]) -> None:
    """Boxes of a row lie in its strip, and the strips below one another; without circles every arrow leads down."""
    sizes, edges = graph
    boxes = lay_out(sizes, edges).boxes
    for one, other in combinations(boxes.values(), 2):
        if one.row < other.row:
            assert one.y + one.height < other.y
    names = list(sizes)
    downward = [(a, b) for a, b in edges if names.index(a) < names.index(b)]
    placed = lay_out(sizes, downward).boxes
    assert all(placed[a].row < placed[b].row for a, b in downward)


@given(graphs())
def test_it_is_within_its_bounds_and_the_same_each_time(graph: tuple[Sizes, Edges]) -> None:
    layout = lay_out(*graph)
    assert layout == lay_out(*graph)
    for box in layout.boxes.values():
        assert box.x >= -0.2 and box.x + box.width <= layout.width + 0.2
        assert box.y >= -0.2 and box.y + box.height <= layout.height + 0.2
    for path in layout.paths:
        assert all(-0.2 - 15 <= x <= layout.width + 0.2 for x, _ in path.points)


def test_nothing_to_lay_out() -> None:
    assert lay_out({}, []) == Layout({}, (), 0.0, 0.0)


def test_a_long_chain_is_straight() -> None:
    ids = [f"n{number}" for number in range(2_000)]
    layout = lay_out(dict.fromkeys(ids, (80.0, 30.0)), list(pairwise(ids)))
    assert {box.x for box in layout.boxes.values()} == {0.0}


def test_crossings_are_undone() -> None:
    sizes = dict.fromkeys("abcdef", (60.0, 30.0))
    layout = lay_out(sizes, [("a", "f"), ("b", "e"), ("c", "d")])
    tops = sorted("abc", key=lambda id: layout.boxes[id].x)
    below = sorted("def", key=lambda id: layout.boxes[id].x)
    assert [dict(zip("abc", "fed", strict=True))[id] for id in tops] == below
