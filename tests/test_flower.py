"""The one module that users of Flower import."""

import subprocess
import sys

import pytest


def test_it_has_the_names_that_its_docstring_shows():
    pytest.importorskip("flwr", reason="needs the extra flower")
    from fedhello import flower

    (line,) = [line for line in flower.__doc__.splitlines() if "from fedhello.flower import" in line]
    assert sorted(line.split("import")[1].replace(",", " ").split()) == sorted({*flower.__all__} - {"Allotted"})
    for name in flower.__all__:
        assert getattr(flower, name).__doc__, name


def test_without_flower_it_says_what_to_install():
    code = (
        "import sys; sys.modules['flwr'] = None\n"
        "import fedhello as fh\n"
        "try:\n    import fedhello.flower\n"
        "except fh.FedhelloError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "MissingExtraError fedhello.flower needs Flower; run: pip install 'fedhello[flower]'\n"
