"""What a run does right now, in words and bars."""

import io
from dataclasses import replace

from handmade import STATUS
from rich.console import Console

from fedhello.runs.now import SHOWN_CLIENTS, WIDTH, left_words, now_line, now_view, who
from fedhello.runs.status import BestScore, ClientStatus


def client(k, phase, step=0, steps=0, name=None):
    return ClientStatus(k, name, 0, phase, step, steps, 0.0)


ROUND = replace(
    STATUS,
    clients=(
        client(0, "sent", 60, 60), client(1, "late"), client(2, "training", 20, 60), client(3, "training", name="oslo"),
        client(4, "waiting"),
    ),
)  # fmt: skip


def view(status, width=100):
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(now_view(status))
    return out.getvalue()


def test_a_line_says_who_has_sent_who_is_late_and_how_far_the_others_are():
    assert now_line(ROUND) == "training: 1 of 5 have sent; 1 late; client 2 step 20 of 60; oslo trains"
    assert now_line(replace(ROUND, phase="scoring")) == "scoring"
    assert now_line(replace(ROUND, clients=())) == "training"
    many = replace(ROUND, clients=tuple(client(k, "training", 1, 2) for k in range(SHOWN_CLIENTS + 3)))
    assert now_line(many).endswith(f"client {SHOWN_CLIENTS - 1} step 1 of 2; and 3 others train")


def test_time_left_and_the_best_so_far():
    assert left_words(ROUND) == "about 30 s left; best on validation 0.750 after round 2"
    assert (
        left_words(replace(ROUND, seconds_left=None, best=BestScore(0.5, 0)))
        == "best on validation 0.500 before training"
    )
    assert left_words(replace(ROUND, seconds_left=None, best=None)) == ""


def test_a_view_has_a_bar_for_each_client_that_trains():
    said, all_, third, unknown = (line.rstrip() for line in view(ROUND).splitlines())
    assert said == "training; about 30 s left; best on validation 0.750 after round 2"
    assert all_.startswith("clients") and all_.endswith("2 of 5")
    assert third.startswith("client 2") and third.endswith("step 20 of 60")
    assert unknown.startswith("oslo") and unknown.endswith("trains")
    assert third.count("━") == WIDTH // 3  # without colours the rest of a bar is not drawn
    many = replace(ROUND, clients=tuple(client(k, "training", 1, 2) for k in range(SHOWN_CLIENTS + 3)))
    assert "and 3 others" in view(many)
    assert view(replace(ROUND, clients=(), phase="heads")).startswith("solving the head")
    assert who(ROUND.clients[0]) == "client 0"
