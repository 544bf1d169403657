"""What a language model said before and after training, side by side and as ROUGE-L."""

from types import SimpleNamespace

import pytest

from fedhello.runs import answers as module
from fedhello.runs.answers import Answers, answer, compared

QUESTIONS = [("which colour has the sky", "deep blue"), ("and the leaf", "green")]


def test_answers_are_put_side_by_side_and_scored_against_the_right_ones():
    pytest.importorskip("rouge_score", reason="needs the extra instruction")
    found = compared(QUESTIONS, ["red", "green"], ["blue", "green"])
    assert found == Answers(("which colour has the sky", "and the leaf"), ("deep blue", "green"),
                            ("red", "green"), ("blue", "green"))  # fmt: skip
    assert found.rows()[0] == {
        "prompt": "which colour has the sky", "reference": "deep blue", "before": "red", "after": "blue"
    }  # fmt: skip
    scores = found.scores()
    # Of "deep blue", "blue" is all of what was said and half of what is right: F = 2/3.
    assert (scores.before, scores.samples) == (0.5, 2)
    assert scores.after == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(("questions", "before"), [([], []), (QUESTIONS, []), (QUESTIONS, ["red"])])
def test_where_nothing_was_asked_or_not_all_is_known_there_is_nothing_to_compare(questions, before):
    assert compared(questions, before, ["blue", "green"]) is None


def test_a_columns_missing_entry_is_no_shorter_file():
    with pytest.raises(ValueError, match="shorter"):
        compared(QUESTIONS, ["red", "green"], ["blue"]).rows()


def test_the_model_is_asked_the_sessions_questions_within_its_limits(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "generate", lambda *words: asked.append(words) or ["blue", "green"])
    server = SimpleNamespace(questions=tuple(QUESTIONS), answer_tokens=3, prompt_tokens=24)
    told = []
    engine = SimpleNamespace(observer=SimpleNamespace(on_phase=told.append))
    assert answer(SimpleNamespace(server=server, model="the model", engine=engine)) == ("blue", "green")
    assert told == ["answers"]
    assert asked == [("the model", [prompt for prompt, _ in QUESTIONS], 3, 24)]
    assert answer(SimpleNamespace(server=SimpleNamespace(questions=()))) == ()
    assert len(asked) == 1
