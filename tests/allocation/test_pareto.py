from hypothesis import given
from hypothesis import strategies as st

from fedhello.allocation.pareto import pareto_front

# Few different values, so that points share some or all of them.
POINTS = st.integers(1, 3).flatmap(lambda d: st.lists(st.tuples(*[st.integers(0, 4)] * d), max_size=12))


@given(POINTS)
def test_no_point_of_the_front_is_dominated_and_every_other_point_is_by_one_of_the_front(points):
    """Domination is written here by its definition: no value worse, at least one better."""

    def beaten(i, by):
        pairs = [list(zip(points[j], points[i], strict=True)) for j in by]
        return any(all(a <= b for a, b in pair) and any(a < b for a, b in pair) for pair in pairs)

    front = pareto_front(points)
    for i in range(len(points)):
        assert beaten(i, range(len(points))) == (i not in front)
        assert beaten(i, front) == (i not in front)
    assert bool(front) == bool(points)
