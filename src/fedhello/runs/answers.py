"""A language model's answers to some test prompts, before and after training, and how close they come."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedhello.model.generation import generate, rouge_l
from fedhello.runs.summary import RougeSummary
from fedhello.session import Session


@dataclass(frozen=True)
class Answers:
    """What a language model said.

    Attributes:
        prompts: Of the test set.
        references: The right responses.
        before: The answers of the untrained model.
        after: Those of the trained one.
    """

    prompts: tuple[str, ...]
    references: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    def scores(self) -> RougeSummary:
        """Return how close both come to the right responses."""
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
    """Let the model, with the adapter it holds now, answer the session's questions; nothing if there are none."""
    if not session.server.questions:
        return ()
    prompts = [prompt for prompt, _ in session.server.questions]
    return tuple(generate(session.model, prompts, session.server.answer_tokens, session.server.prompt_tokens))


def compared(questions: Sequence[tuple[str, str]], before: Sequence[str], after: Sequence[str]) -> Answers | None:
    """Put answers side by side; None where nothing was asked, or nobody knows what was said before."""
    if not questions or len(before) != len(questions):
        return None
    prompts, references = zip(*questions, strict=True)
    return Answers(prompts, references, tuple(before), tuple(after))
