from fedhello.report.blocks import block_map
from fedhello.report.html import stacked, svg_of

COUNTS = [(3, (1, 0, 2)), (4, (0, 0, 1))]


def test_the_map_has_a_cell_per_round_and_block_and_block_0_is_at_the_bottom():
    figure = block_map("blocks", "title", "text", COUNTS)
    assert [tuple(row.values()) for row in figure.records()] == [
        (3, 0, 1), (3, 1, 0), (3, 2, 2), (4, 0, 0), (4, 1, 0), (4, 2, 1),
    ]  # fmt: skip
    assert figure.spec["encoding"]["y"]["sort"] == "descending"
    assert "<svg" in svg_of(stacked([figure]))


def test_maps_side_by_side_have_the_same_colours_and_one_legend():
    figure = block_map("blocks", "title", "text", COUNTS, most=9, legend=False)
    assert figure.spec["encoding"]["color"]["scale"] == {"domain": [0, 9]}
    assert figure.spec["encoding"]["color"]["legend"] is None


def test_many_cells_are_drawn_on_a_canvas():
    assert block_map("blocks", "title", "text", [(t, (1,) * 12) for t in range(200)]).canvas
