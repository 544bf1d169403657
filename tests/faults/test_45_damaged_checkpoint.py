"""A damaged checkpoint gives way to the one before it; one of another version, model or configuration is an error."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedhello.runs import checkpoint as checkpoints

FOLDER = 5


def newest(place):
    return max((place / "runs" / "r" / "checkpoints").iterdir())


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_a_damaged_one_gives_way_to_the_one_before_it(broken, place, processes, undisturbed, outcome, how):
    file = newest(place)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "flipped": content}[how])
    code, _, err = processes.call(place, "resume", "runs/r")
    assert code == 0
    warning = "note: the checkpoint runs/r/checkpoints/checkpoint-000003.safetensors is damaged and skipped: "
    assert err.startswith(warning)
    log = (place / "runs" / "r" / "log.txt").read_text()
    assert warning in log
    assert "resumed after round 2 of 3" in log
    assert outcome(place / "runs" / "r") == undisturbed(*broken)


def content(run):
    said = ("log.txt", ".lock", ".lock.held")
    return {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name not in said}


def refused(call, place):
    """Return the sentence of a resume that is refused and changes nothing."""
    before = content(place / "runs" / "r")
    code, out, err = call(place, "resume", "runs/r", "--json")
    assert (code, out) == (FOLDER, "")
    assert content(place / "runs" / "r") == before
    return err.splitlines()[-1]


def test_where_none_is_good_nothing_is_trained_from_scratch(broken, place, call):
    for file in (place / "runs" / "r" / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert "all 3 are damaged" in refused(call, place)


def test_where_all_are_gone_nothing_is_trained_from_scratch(broken, place, call):
    shutil.rmtree(place / "runs" / "r" / "checkpoints")
    assert "expected checkpoints in runs/r/checkpoints, since rounds have finished; found none" in refused(call, place)


def test_a_later_format_is_an_error(broken, place, call, monkeypatch):
    read = checkpoints.decode(newest(place).read_bytes())
    with monkeypatch.context() as later:
        later.setattr(checkpoints, "VERSION", 9)
        later.setattr(checkpoints, "MANY", -1)  # so that it is written in the latest format
        newest(place).write_bytes(checkpoints.encode(read))
    assert "expected a checkpoint of format 2 or earlier; found 9" in refused(call, place)


def test_another_configuration_is_an_error_that_says_what_differs(broken, place, call):
    file = place / "runs" / "r" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["train"]["lr"] = 0.5
    config["clients"]["tiers"][0]["blocks"] = 2
    file.write_text(yaml.safe_dump(config))
    said = refused(call, place)
    assert "train.lr is 0.01 there and 0.5 here" in said
    assert "clients.tiers is [{" in said


def test_another_model_is_an_error(broken, place, call):
    file = place / "tiny" / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    weights = load_file(file)
    name = next(name for name in weights if "query.weight" in name)
    save_file(weights | {name: weights[name] + 1}, file, metadata)
    said = r"the model that runs/r started with; the frozen weights in \S*tiny, of tiny, are others now, of the same "
    assert re.search(said + r"shapes\. Restore it, or start a new run\.$", refused(call, place))


def test_another_shape_of_the_adapter_is_an_error(broken, place, call):
    file = place / "runs" / "r" / "config.yaml"
    file.write_text(file.read_text().replace("rank: 4", "rank: 2"))
    assert "model.lora.rank is 4 there and 2 here" in refused(call, place)


def test_lost_rounds_are_an_error(broken, place, call):
    (place / "runs" / "r" / "rounds.jsonl").write_text("")
    assert "expected the 3 lines of runs/r/rounds.jsonl that the checkpoint belongs to; found 0" in refused(call, place)


def test_a_torn_line_and_rounds_after_the_checkpoint_are_dropped(broken, place, processes, undisturbed, outcome):
    newest(place).unlink()
    with (place / "runs" / "r" / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "cli')
    assert processes.call(place, "resume", "runs/r")[0] == 0
    assert outcome(place / "runs" / "r") == undisturbed(*broken)


@pytest.mark.parametrize(
    ("override", "code"), [("run.keep=1", 0), ("train.lr_head=0.5", 2), ("run.seed=1", 2), ("train.epochs=4", 2)]
)
def test_overrides_may_change_nothing_of_the_rounds(broken, place, call, undisturbed, outcome, override, code):
    found, _, err = call(place, "resume", "runs/r", override, "--quiet")
    assert found == code
    if code:
        assert f"{override.split('=')[0]} is" in err
        assert "expected overrides that do not affect the rounds of runs/r" in err
    else:
        assert len(list((place / "runs" / "r" / "checkpoints").iterdir())) == 1
        assert "keep: 1" in (place / "runs" / "r" / "config.yaml").read_text()
        assert outcome(place / "runs" / "r") == undisturbed(*broken)


def test_a_finished_run_says_so_and_stays_as_it_is(broken, place, call, outcome):
    assert call(place, "resume", "runs/r", "--quiet")[0] == 0
    before = outcome(place / "runs" / "r")
    code, out, _ = call(place, "resume", "runs/r")
    assert code == 0
    assert out == "runs/r has finished all its rounds; there is nothing to resume\n"
    code, out, _ = call(place, "resume", "runs/r", "--json")
    assert json.loads(out) == json.loads((place / "runs" / "r" / "summary.json").read_text())
    assert outcome(place / "runs" / "r") == before


def test_seconds_of_earlier_processes_count(broken, place, call):
    read = checkpoints.decode(newest(place).read_bytes())
    newest(place).write_bytes(checkpoints.encode(replace(read, more={**read.more, "seconds": 1000.0})))
    assert call(place, "resume", "runs/r", "--quiet")[0] == 0
    assert 1000 < json.loads((place / "runs" / "r" / "summary.json").read_text())["wall_seconds"] < 1600
    assert checkpoints.decode(newest(place).read_bytes()).more["seconds"] > 1000


def test_what_is_no_run_cannot_be_resumed(place, call):
    code, _, err = call(place, "resume", "nothing")
    assert (code, err) == (FOLDER, "error: expected the folder of a run; nothing has no config.yaml. Check the path.\n")
