from fedhello.comparison.asked import asked_methods
from fedhello.comparison.baselines import with_baselines
from fedhello.comparison.tuning import tuned_methods
from fedhello.config.load import load_config
from fedhello.methods import METHODS


def test_baselines_come_first_and_once(monkeypatch):
    known = {**METHODS, "head-only": METHODS["full"], "server-only": METHODS["full"]}
    monkeypatch.setattr("fedhello.comparison.baselines.METHODS", known)
    monkeypatch.setattr(
        "fedhello.comparison.baselines._refusal", lambda base, name: "why" if name == "server-only" else None
    )
    base = load_config(None)
    found, notes = with_baselines(base, asked_methods("gd-hla,full"))
    assert [asked.label for asked in found] == ["head-only", "gd-hla", "full"]
    assert notes == ["server-only is left out: why"]
    assert [asked.label for asked in tuned_methods(found)] == ["gd-hla", "full"]
    assert with_baselines(base, found) == (found, notes)
