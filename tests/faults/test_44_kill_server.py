"""``kill -9`` at any instant costs at most the running round, and the resumed run ends bit-identically."""

import json
import random
import time

import pytest

KILLED = -9
SHORT = ["run.name=r", "train.rounds=3", "train.measure_memory=false"]
BEYOND = 44  # a step of writing that such a run does not reach
ROUND = 0.15  # seconds, about
LONG = ["run.name=r", "train.rounds=10", "train.measure_memory=false"]


def check_resumed(processes, place, expected, outcome):
    """Resume what was killed; it must have repeated one round at most, and end as if nothing had been."""
    run = place / "runs" / "r"
    lines = (run / "rounds.jsonl").read_text().split("\n")[:-1]
    finished = sum(json.loads(line)["failed"] is None for line in lines)
    ended = (run / "summary.json").exists()
    code, _, err = processes.call(place, "resume", "runs/r")
    assert code == 0, err
    assert outcome(run) == expected
    if finished > 1 and not ended:
        log = (run / "log.txt").read_text()
        assert any(f"resumed after round {done} of" in log for done in (finished, finished - 1))


@pytest.mark.parametrize("step", [17, 18, 19, 21, 22, 24])
def test_killed_at_a_step_of_writing(processes, place, undisturbed, outcome, step):
    expected = undisturbed(*SHORT)
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *SHORT, dies_at=step)) == KILLED
    check_resumed(processes, place, expected, outcome)


def test_the_moments_of_the_servers_optimiser_survive(processes, place, undisturbed, outcome):
    words = [*SHORT, "train.server={name: adam, lr: 0.05}"]
    expected = undisturbed(*words)
    assert expected != undisturbed(*SHORT)
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *words, dies_at=22)) == KILLED
    check_resumed(processes, place, expected, outcome)


def test_killed_before_there_is_a_folder(processes, place, undisturbed, outcome):
    expected = undisturbed(*SHORT)
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *SHORT, dies_at=13)) == KILLED
    assert not (place / "runs" / "r").exists()
    assert processes.call(place, "run", "tiny.yaml", *SHORT)[0] == 0
    assert outcome(place / "runs" / "r") == expected


def test_killed_before_the_first_checkpoint_says_that_it_begins(processes, place, undisturbed, outcome):
    expected = undisturbed(*SHORT)
    processes.wait(processes.start(place, "run", "tiny.yaml", *SHORT, dies_at=17))
    code, _, err = processes.call(place, "resume", "runs/r")
    assert code == 0
    assert err.startswith("note: there is no checkpoint yet; the run starts at round 1\n")
    assert outcome(place / "runs" / "r") == expected


def test_killed_twice_and_with_fewer_checkpoints(processes, place, undisturbed, outcome):
    expected = undisturbed(*SHORT)
    words = ["run", "tiny.yaml", *SHORT, "run.checkpoint_every=2", "run.keep=1"]
    assert processes.wait(processes.start(place, *words, dies_at=21)) == KILLED
    assert processes.wait(processes.start(place, "resume", "runs/r", dies_at=12)) == KILLED
    assert processes.call(place, "resume", "runs/r")[0] == 0
    assert outcome(place / "runs" / "r") == expected
    assert len(list((place / "runs" / "r" / "checkpoints").iterdir())) == 1


def kill_at_random(processes, place, undisturbed, outcome, until, seed):
    expected = undisturbed(*LONG)
    rng, rounds = random.Random(seed), place / "runs" / "r" / "rounds.jsonl"
    done, share = rng.randrange(10), rng.random()
    pid = processes.start(place, "run", "tiny.yaml", *LONG)
    until(lambda: rounds.exists() and len(rounds.read_text().splitlines()) >= done)
    time.sleep(share * ROUND)
    processes.kill(pid)
    check_resumed(processes, place, expected, outcome)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_instant(processes, place, undisturbed, outcome, until, seed):
    kill_at_random(processes, place, undisturbed, outcome, until, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 33))
def test_killed_at_thirty_random_instants(processes, place, undisturbed, outcome, until, seed):
    kill_at_random(processes, place, undisturbed, outcome, until, seed)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, BEYOND + 1))
def test_killed_at_every_step_of_writing(processes, place, undisturbed, outcome, step):
    expected, words = undisturbed(*SHORT), ("run", "tiny.yaml", *SHORT)
    code = processes.wait(processes.start(place, *words, dies_at=step))
    assert code == 0 or (code == KILLED and step < BEYOND)
    if code and (place / "runs" / "r").exists():
        check_resumed(processes, place, expected, outcome)
    elif code:  # before there is a folder, the same command starts anew
        code, _, err = processes.call(place, *words)
        assert code == 0, err
    assert outcome(place / "runs" / "r") == expected


@pytest.mark.parametrize(
    "words",
    [
        ["model.head=local"],
        ["method.name=helora-kd", "data.public=8", "clients.tiers=[{share: 1/2, rank: 2}, {share: 1/2, rank: 4}]"],
        ["method.name=flora", "clients.tiers=[{share: 1/2, rank: 2}, {share: 1/2, rank: 4}]"],
        ["train.evaluate_every=2"],
    ],
    ids=["personal heads", "several models", "merged products", "rounds that are not scored"],
)
def test_all_that_rounds_hand_on_is_in_the_checkpoint(processes, place, undisturbed, outcome, words):
    expected = undisturbed(*SHORT, *words)
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *SHORT, *words, dies_at=22)) == KILLED
    check_resumed(processes, place, expected, outcome)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("step", [19, 23, 27])
def test_failed_attempts_at_a_round_are_remembered(processes, place, undisturbed, outcome, step, every):
    words = [*SHORT, "clients.dropout=0.5", "train.quorum=1.0", "train.retries=50", "run.seed=3"]
    words.append(f"train.evaluate_every={every}")
    expected = undisturbed(*words)
    attempts = [entry["attempt"] for entry in expected[1]]
    assert max(attempts) > 0
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *words, dies_at=step)) == KILLED
    check_resumed(processes, place, expected, outcome)
