"""What a trained model is exported as: the adapter, the merged model, or a folder that sentence-transformers loads.

sentence-transformers makes features as the run did, of one length: its ``encode`` returns h/‖h‖ = x/√d of the x that
the head reads (``fedhello.model.pooling``), so the run's logits are √d·encode(text) Wᵀ + b.
"""

import tempfile
from pathlib import Path
from typing import Any, Final, get_args

from fedhello.errors import ConfigError, MissingExtraError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.card import Form
from fedhello.model.pooling import MODES, Pooling
from fedhello.model.saving import appearing_whole, save_adapter, save_head, save_merged
from fedhello.model.sources import Kind

SENTENCE_TRANSFORMERS: Final = "sentence-transformers"
"""The form, and the package that reads it."""

TEXT: Final[Kind] = "text-classification"

POOLINGS: dict[Pooling, str] = {pooling: mode for mode, pooling in MODES.items()}
"""What a pooling is called here → what sentence-transformers calls it."""


def asked_form(words: str | None, merge: bool) -> Form:
    """Return the form that was asked for; the adapter if none was.

    Args:
        words: What was asked for; None where nothing was.
        merge: Whether the merged model was asked for in the shorter way.

    Raises:
        ConfigError: If there is no such form, or two were asked for.
    """
    if words is None:
        return "merged" if merge else "adapter"
    for form in get_args(Form):
        if form == words and not (merge and form != "merged"):
            known: Form = form
            return known
    if merge and words in get_args(Form):
        raise ConfigError(f"expected one form to export; found --merge and --format {words}. Leave one of them out.")
    raise ConfigError(f"expected --format to be one of {', '.join(get_args(Form))}; found {words!r}")


def export(model: LoraModel, folder: Path, form: Form, max_length: int) -> None:
    """Write a model in a form; the folder appears whole or not at all, and the model is of no use afterwards.

    Args:
        model: With the adapter and the head.
        folder: Where to.
        form: What as.
        max_length: The longest text, in tokens; of longer ones the end is cut.

    Raises:
        MissingExtraError: If sentence-transformers is needed and not installed.
        ModelError: If the model cannot be written in this form.
    """
    if form == "adapter":
        save_adapter(model, folder)
    elif form == "merged":
        save_merged(model, folder)
    else:
        _save_sentence_transformer(model, folder, max_length)


def _save_sentence_transformer(model: LoraModel, folder: Path, max_length: int) -> None:
    """Write the merged encoder, its pooling and a normalisation as the library does, and the head beside them."""
    if model.kind != TEXT or model.pooling not in POOLINGS:
        found = f"model.pooling={model.pooling}" if model.kind == TEXT else f"a model for {model.kind}"
        raise ModelError(
            f"expected a classifier of texts whose features are pooled by {', '.join(POOLINGS)}, which is what "
            f"sentence-transformers does; found {found}. Choose --format adapter or merged."
        )
    library: Any = _library()
    merged = model.merged()
    with tempfile.TemporaryDirectory() as temporary:
        merged.save_pretrained(temporary, safe_serialization=True)
        model.processor.save_pretrained(temporary)
        parts = library.sentence_transformer.modules
        modules = [
            parts.Transformer(temporary, max_seq_length=max_length),
            parts.Pooling(merged.config.hidden_size, POOLINGS[model.pooling]),
            parts.Normalize(),
        ]
        encoder = library.SentenceTransformer(modules=modules, device="cpu")
        with appearing_whole(folder) as staged:
            encoder.save_pretrained(str(staged), create_model_card=False)
            save_head(model, staged)
            (staged / "README.md").write_text(model.card(SENTENCE_TRANSFORMERS), encoding="utf-8")


def _library() -> Any:
    """Return the package.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import sentence_transformers
        import sentence_transformers.sentence_transformer.modules
    except ImportError as error:
        raise MissingExtraError(
            "this form needs the package sentence-transformers; run: pip install 'fedhello[sentence-transformers]', or "
            "choose --format adapter or merged"
        ) from error
    return sentence_transformers
