"""Case 55: the same configuration on one machine and over Flower leads to the same adapter."""

import json
import shutil

import pytest
from machines import Machines
from safetensors.torch import load_file

pytest.importorskip("flwr", reason="needs the extra flower")


@pytest.mark.slow
def test_real_processes_lead_to_the_adapter_of_one_process_and_leave_nothing_behind(workplace, tmp_path, call):
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    there = Machines(tmp_path / "place")
    try:
        there.server("--local", 3, "--json")
        assert there.end("server") == 0, there.all_said()
        code, _, err = call(there.folder, "run", "net.yaml", "run.name=here")
        assert code == 0, err
        ours = load_file(there.folder / "runs" / "here" / "adapter" / "adapter_model.safetensors")
        theirs = load_file(there.run / "adapter" / "adapter_model.safetensors")
        assert ours.keys() == theirs.keys()
        assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6
        summary = json.loads((there.run / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("finished", 2)
        assert all(len(entry["clients"]) == 3 and not entry["rejections"] for entry in there.rounds())
        assert there.left() == ([], False)
        # What is left behind is a run like any other.
        code, out, err = call(there.folder, "evaluate", "runs/net", "--json")
        assert code == 0, err
        assert json.loads(out)["test"]["accuracy"] == pytest.approx(summary["final"])
    finally:
        there.close()
