"""The Pareto front of points whose values are all to be small."""

from collections.abc import Sequence

Values = tuple[float, ...]


def dominates(one: Values, other: Values) -> bool:
    """Whether a point is nowhere larger than another, and somewhere smaller.

    Example:
        >>> dominates((1, 2), (1, 3)), dominates((1, 2), (1, 2)), dominates((1, 2), (0, 9))
        (True, False, False)
    """
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def pareto_front(points: Sequence[Values]) -> list[int]:
    """Return the positions of the points that no other dominates, ascending; equal points are all on the front.

    Example:
        >>> pareto_front([(1, 5), (2, 2), (3, 3)])
        [0, 1]
    """
    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
