import sys

import pytest

from fedhello.embedded import package_folder
from fedhello.errors import MissingExtraError


def test_the_folder_of_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('it is imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("carrier", "demo", "embedded:carrier") == tmp_path / "carrier"
    assert "carrier" not in sys.modules


@pytest.mark.parametrize("package", ["no_such_package", "this"], ids=["absent", "a module is no folder"])
def test_a_package_that_is_not_there_is_named_with_its_command(package):
    with pytest.raises(MissingExtraError, match=r"^the demo is not installed; run: pip install 'fedhello\[demo\]'$"):
        package_folder(package, "demo", "the demo")
