"""A language model's answers to some test prompts, before and after training, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedhello.model.generation import generate, rouge_l
from fedhello.runs.summary import RougeSummary
from fedhello.session import Session


@dataclass(frozen=True)
class Answers:
    """Answers of a language model to test prompts.

    Attributes:
        prompts: The prompts from the test set.
        references: Their responses in the test set.
        before: The answers before training.
        after: The answers after training.
    """

    prompts: tuple[str, ...]
    references: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    def scores(self) -> RougeSummary:
        """Return the ROUGE-L of both sets of answers against the references."""
        return RougeSummary(
            before=rouge_l(self.before, self.references),
            after=rouge_l(self.after, self.references),
            samples=len(self.prompts),
        )

    def rows(self) -> list[dict[str, str]]:
        """Return one object per prompt."""
        columns = zip(self.prompts, self.references, self.before, self.after, strict=True)
        return [dict(zip(("prompt", "reference", "before", "after"), row, strict=True)) for row in columns]


def answer(session: Session) -> tuple[str, ...]:
    """Return the model's answers, with its current adapter, to the session's questions; empty without questions."""
    if not session.server.questions:
        return ()
    session.engine.observer.on_phase("answers")
    prompts = [prompt for prompt, _ in session.server.questions]
    return tuple(generate(session.model, prompts, session.server.answer_tokens, session.server.prompt_tokens))


def compared(questions: Sequence[tuple[str, str]], before: Sequence[str], after: Sequence[str]) -> Answers | None:
    """Return the answers before and after training; None without questions or without earlier answers."""
    if not questions or len(before) != len(questions):
        return None
    prompts, references = zip(*questions, strict=True)
    return Answers(prompts, references, tuple(before), tuple(after))
