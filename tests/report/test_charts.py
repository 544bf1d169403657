from fedhello.report import charts


def test_the_last_line_is_on_top_and_has_the_first_colour():
    spec = charts.lines(("validation", "test"), "accuracy", "percent", dashed=("validation",))
    assert [layer["encoding"]["y"]["field"] for layer in spec["layer"]] == ["validation", "test"]
    assert {tuple(layer["encoding"]["color"]["scale"]["domain"]) for layer in spec["layer"]} == {("test", "validation")}
    assert "strokeDash" in spec["layer"][0]["mark"]


def test_numbers_on_cells_have_the_colour_that_can_be_read_on_them():
    value = {"field": "share"}
    spec = charts.heat_map({}, {}, value, height=10, tips=[], numbers="samples", strong=0.4)
    written = [(layer["transform"][0]["filter"], layer["mark"]["style"]) for layer in spec["layer"][1:]]
    assert written == [("datum['share'] < 0.4", "weak"), ("datum['share'] >= 0.4", "strong")]


def test_an_axis_of_bytes_has_units():
    assert charts.axis("up", "sent", "bytes", scale={"zero": False}) == {
        "field": "up",
        "type": "quantitative",
        "title": "sent",
        "axis": charts.AXES["bytes"],
        "scale": {"zero": False},
    }
