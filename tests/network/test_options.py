from fedhello.network.options import default_name


def test_a_name_stays_the_same(tmp_path):
    assert default_name("a.csv", None, None) == default_name("a.csv", None, None)
    assert default_name("a.csv", None, None) != default_name("b.csv", None, None)
    assert default_name("a.csv", None, tmp_path / "berlin") == "berlin"
    assert default_name(None, 7, None) == "part-007"
    names = {default_name(data, None, None) for data in ("f\udcff.csv", "f\ud800.csv", "f\0.csv")}
    assert len(names) == 3
