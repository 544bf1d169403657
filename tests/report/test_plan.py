"""A plan as text."""

import fedhello as fh


def test_a_plan_is_plain_text_in_a_notebook_too(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter's kernels do
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = str(fh.plan(fh.prepare("tiny.yaml")))
    assert "tier 1, for example ●●●" in text
    assert "\x1b" not in text
