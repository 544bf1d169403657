"""Export a trained model: as an adapter, as a merged model, or in the format of sentence-transformers.

The ``encode`` of sentence-transformers returns h/‖h‖ = x/√d, where x is the input of the head
(``fedhello.model.pooling``), so the run's logits are √d·encode(text) Wᵀ + b.
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
"""Name of a pooling → its name in sentence-transformers."""


def asked_form(words: str | None, merge: bool) -> Form:
    """Return the form of an export; ``adapter`` by default.

    Args:
        words: The name of the form; None for the default.
        merge: Short for the form ``merged``.

    Raises:
        ConfigError: If there is no such form, or two forms are given.
    """
    if words is None:
        return "merged" if merge else "adapter"
    for form in get_args(Form):
        if form == words and not (merge and form != "merged"):
            known: Form = form
            return known
    if merge and words in get_args(Form):
        raise ConfigError(f"expected one form to export; found merge and the form {words}. Leave one of them out.")
    raise ConfigError(f"expected the form of an export to be one of {', '.join(get_args(Form))}; found {words!r}")


def export(model: LoraModel, folder: Path, form: Form, max_length: int, base: bool = False) -> None:
    """Write a model in some form; the folder appears completely or not at all. Do not use the model afterwards.

    Args:
        model: The model with its adapter and head.
        folder: The new folder.
        form: The form of the export.
        max_length: The longest text, in tokens; longer texts are cut at the end.
        base: Whether an adapter is written with its base.

    Raises:
        ConfigError: If a base is asked for with another form than the adapter.
        MissingExtraError: If sentence-transformers is needed and not installed.
        ModelError: If the model cannot be written in this form.
    """
    if base and form != "adapter":
        raise ConfigError(f"expected no base with the form {form}, which holds it; leave it out")
    if form == "adapter":
        save_adapter(model, folder, max_length, ("base", "processor") if base else ("processor",))
    elif form == "merged":
        save_merged(model, folder, max_length)
    else:
        _save_sentence_transformer(model, folder, max_length)


def _save_sentence_transformer(model: LoraModel, folder: Path, max_length: int) -> None:
    """Write the merged encoder, its pooling and a normalisation as sentence-transformers does, and the head."""
    if model.kind != TEXT or model.pooling not in POOLINGS:
        found = f"model.pooling={model.pooling}" if model.kind == TEXT else f"a model for {model.kind}"
        raise ModelError(
            f"expected a classifier of texts whose features are pooled by {', '.join(POOLINGS)}, as "
            f"sentence-transformers supports; found {found}. Choose the form adapter or merged."
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
    """Return the package sentence-transformers.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import sentence_transformers
        import sentence_transformers.sentence_transformer.modules
    except ImportError as error:
        raise MissingExtraError(
            "this form needs the package sentence-transformers; run: pip install 'fedhello[sentence-transformers]', or "
            "choose the form adapter or merged"
        ) from error
    return sentence_transformers
