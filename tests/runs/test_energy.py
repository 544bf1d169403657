"""Energy of a run by counters of the processor, or by codecarbon."""

import sys
from types import SimpleNamespace

import pytest

import fedhello as fh
from fedhello.runs import energy
from fedhello.runs.energy import Energy, Rapl, meter

RANGE = 1_000_000


def zone(folder, name, called, value):
    (folder / name).mkdir(parents=True)
    (folder / name / "name").write_text(f"{called}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (folder / name / "energy_uj").write_text(f"{value}\n")


@pytest.fixture
def powercap(tmp_path):
    folder = tmp_path / "powercap"
    zone(folder, "intel-rapl:0", "package-0", 900_000)
    zone(folder, "intel-rapl:0:0", "core", 5)
    zone(folder, "intel-rapl:0:1", "dram", 10)
    zone(folder, "intel-rapl:1", "psys", 7)
    zone(folder, "intel-rapl-mmio:0", "package-0", 900_000)
    return folder


def test_packages_and_memory_add_up_and_counters_start_again(powercap):
    found = meter(powercap)
    assert isinstance(found, Rapl)
    assert found.joules() == 0
    (powercap / "intel-rapl:0" / "energy_uj").write_text("100000")
    (powercap / "intel-rapl:0:0" / "energy_uj").write_text("999999")
    (powercap / "intel-rapl:0:1" / "energy_uj").write_text("50010")
    assert found.joules() == pytest.approx(0.2 + 0.05)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("99999")
    assert found.joules() == pytest.approx(0.25 + 0.999999)


def test_where_nothing_measures_there_is_nothing(powercap, tmp_path):
    assert meter(tmp_path / "absent") is None
    (powercap / "intel-rapl:0:1" / "energy_uj").unlink()
    assert meter(powercap) is None, "a sum of some counters would be taken for all"
    assert Energy(0.0, None).joules() is None and Energy(0.0, None).notes == ()


def test_a_run_is_measured_over_all_its_processes_or_not_at_all(powercap):
    first = Energy(0.0, meter(powercap))
    (powercap / "intel-rapl:0" / "energy_uj").write_text("950000")
    second = Energy(first.joules(), meter(powercap))
    (powercap / "intel-rapl:0" / "energy_uj").write_text("960000")
    assert second.joules() == pytest.approx(0.06)
    assert "without GPUs (RAPL)" in second.notes[0]
    assert Energy(None, meter(powercap)).joules() is None
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert second.joules() is None and second.notes == ()


class Tracker:
    """Codecarbon's, as far as it is used: each task takes 1 Wh."""

    def __init__(self, **how):
        self.how, self.tasks = how, []

    def start_task(self, name):
        self.tasks.append(name)

    def stop_task(self, name):
        assert self.tasks.pop() == name
        return SimpleNamespace(energy_consumed=0.001)


def test_codecarbon_measures_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", SimpleNamespace(OfflineEmissionsTracker=Tracker, __spec__=1))
    found = meter(tmp_path)
    assert (found.joules(), found.joules()) == (3600, 7200)
    assert found.tracker.how["save_to_file"] is False and found.tracker.how["country_iso_code"]
    broken = SimpleNamespace(OfflineEmissionsTracker=lambda **how: 1 / 0, __spec__=1)
    monkeypatch.setitem(sys.modules, "codecarbon", broken)
    assert meter(tmp_path) is None


def test_a_summary_has_the_energy_of_the_run_also_where_it_was_resumed(place, powercap, monkeypatch):
    file = powercap / "intel-rapl:0" / "energy_uj"

    class Taking(fh.Callback):
        """Each round takes 0.3 J; a process ends after some."""

        def __init__(self, last):
            self.last = last

        def on_round(self, state, record):
            file.write_text(str((int(file.read_text()) + 300_000) % RANGE))
            return state.round == self.last

    monkeypatch.setattr("fedhello.runs.progress.meter", lambda: energy.meter(powercap))
    words = {"train.rounds": 3, "run.name": "a"}
    first = fh.run("tiny.yaml", words, callbacks=[Taking(2)]).summary
    assert first.energy_joules == pytest.approx(0.6)
    whole = fh.resume("runs/a", callbacks=[Taking(9)]).summary
    # As of seconds, what a process took after its last checkpoint is not in that.
    assert whole.energy_joules == pytest.approx(0.3 + 0.3)
    assert any("(RAPL)" in note for note in whole.notes)
    monkeypatch.setattr("fedhello.runs.progress.meter", lambda: None)
    assert fh.run("tiny.yaml", words | {"run.name": "b"}).summary.energy_joules is None
