"""The model card of an export: its description, its labels, and code that loads it."""

import json
import re
from collections.abc import Sequence
from string import Template
from typing import Literal

from fedhello.model.pooling import NATIVE, Pooling
from fedhello.model.sources import CAUSAL_LM, IMAGES, TENSORS, Kind, ModelSource

CARD = Template("""---
base_model: $base
library_name: $library
tags:
- lora
- federated-learning
- fedhello
---

$what for $shown, trained with fedhello.
$guarantee$labels
## Use

```python
$code
```
""")

Form = Literal["adapter", "merged", "sentence-transformers"]
"""The forms in which a run's model can be exported."""

LIBRARIES: dict[Form, str] = {
    "adapter": "peft",
    "merged": "transformers",
    "sentence-transformers": "sentence-transformers",
}
"""The library that loads each form."""

AUTO: dict[Kind, str] = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "causal-lm": "AutoModelForCausalLM",
}

NATIVE_CODE = Template("""$imports
model = $auto.from_pretrained($base$revision$classes)$adapter
model.eval()""")

POOLED_CODE = Template("""$imports
model = $auto.from_pretrained($base$revision)$adapter
model.eval()
head = load_file("$folder/head.safetensors")
processor = $processor.from_pretrained($read)


def logits(inputs):
    batch = processor($call)
    $features
    x = h.shape[-1] ** 0.5 * torch.nn.functional.normalize(h, dim=-1)
    return x @ head["head.weight"].T + head["head.bias"]""")

PLAIN_CODE = Template("""$imports
model = ...  # the $base that it was trained on, without an adapter
$load
model.eval()$logits""")
"""Loading code for a plain module, whose class the reader must have."""

FASTPATH = "torch.backends.mha.set_fastpath_enabled(False)  # otherwise torch's transformer layers skip the adapter"

PLAIN_LOGITS = Template("""
head = load_file("$folder/head.safetensors")


def logits(inputs):
    h = model(inputs)$pooled
    x = h.shape[-1] ** 0.5 * torch.nn.functional.normalize(h, dim=-1)
    return x @ head["head.weight"].T + head["head.bias"]""")

PLAIN_POOLED = {"cls": "[:, 0]", "mean": ".mean(dim=1)", "last": "[:, -1]", "pooler": ""}

SENTENCE_CODE = Template("""from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer("$folder")
head = load_file("$folder/head.safetensors")


def logits(texts):
    x = encoder.encode(texts, convert_to_tensor=True).cpu()
    return x.shape[-1] ** 0.5 * x @ head["head.weight"].T + head["head.bias"]""")

FEATURES = {
    "cls": "h = model(**batch).last_hidden_state[:, 0]",
    "mean": """mask = batch["attention_mask"].unsqueeze(-1)
    h = (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)""",
    "last": """last = batch["attention_mask"].sum(dim=1) - 1  # the tokenizer pads on the right
    h = model(**batch).last_hidden_state[torch.arange(len(last)), last]""",
    "pooler": "h = model(**batch).pooler_output",
}
"""Code that computes the features, by pooling; for images ``mean`` has no mask."""

FOLDER = "."
"""The path, in the code, of the folder that contains the card."""

BASE = "base"
"""The folder of the base inside that of an adapter that is exported with it."""

Beside = Literal["base", "processor"]
"""A part of the base that an adapter is exported with."""


PLAIN = re.compile(r"[A-Za-z./][\w./:@-]*", re.ASCII)
"""Names that mean themselves in YAML and Markdown."""

SIGNS = re.compile(r"[\\`*{}\[\]<>#|!&~$]|(?<!\w)_|_(?!\w)")
"""Signs that mean something in Markdown or HTML; an underscore within a word does not."""


def escaped(text: str) -> str:
    r"""Return a name as Markdown that shows it as it is, on one line.

    Example:
        >>> print(escaped("a|b <script> card_arrival"))
        a\|b \<script\> card_arrival
    """
    return SIGNS.sub(r"\\\g<0>", _line(text))


def _line(text: str) -> str:
    return " ".join(text.split())


def card(
    base: str,
    kind: Kind,
    pooling: Pooling,
    labels: Sequence[str],
    form: Form = "adapter",
    class_tokens: int = 0,
    guarantee: str | None = None,
    source: ModelSource | None = None,
    beside: Sequence[Beside] = (),
    longest: int | None = None,
) -> str:
    """Return the text of a model card.

    Args:
        base: The foundation model's public name.
        kind: The model's task and input.
        pooling: How the features are pooled.
        labels: The classes' names; empty for a language model.
        form: The form of the export.
        class_tokens: Number of tokens that an image model puts before its patches.
        guarantee: The guarantee of differential privacy, as a sentence without a full stop; None without it.
        source: Where the base is loaded from; None takes its name.
        beside: The parts of the base that are in the card's folder.
        longest: The most tokens of a text, at which the code cuts; None takes what the tokenizer states.
    """
    what = "LoRA adapter" if form == "adapter" else "Model with a LoRA adapter merged in"
    listed = ", ".join(f"{i}: {escaped(name)}" for i, name in enumerate(labels))
    return CARD.substitute(
        base=base if PLAIN.fullmatch(base) else json.dumps(base),
        shown=f"`{base}`" if PLAIN.fullmatch(base) else escaped(base),
        library=LIBRARIES[form],
        what=what if kind == CAUSAL_LM else f"{what} and classification head",
        guarantee="" if guarantee is None else f"\nPrivacy: {guarantee}.\n",
        labels="" if kind == CAUSAL_LM else f"\nLabels: {listed}\n",
        code=loading_code(base, kind, pooling, len(labels), form, class_tokens, source, beside, longest),
    )


def loading_code(
    base: str,
    kind: Kind,
    pooling: Pooling,
    num_labels: int,
    form: Form,
    class_tokens: int = 0,
    source: ModelSource | None = None,
    beside: Sequence[Beside] = (),
    longest: int | None = None,
) -> str:
    """Return Python code that loads an export from the folder ``.``."""
    if form == "sentence-transformers":
        return SENTENCE_CODE.substitute(folder=FOLDER)
    if kind == TENSORS:
        return _plain_code(base, pooling, form)
    auto = AUTO[kind] if pooling == NATIVE else "AutoModel"
    processor = "AutoImageProcessor" if kind == IMAGES else "AutoTokenizer"
    where, arguments, lines = _base_code(base, form, source, beside)
    adapter = f'\nmodel = PeftModel.from_pretrained(model, "{FOLDER}")' if form == "adapter" else ""
    fedhello = ["import fedhello as fh"] if lines else []
    peft = ["from peft import PeftModel"] if form == "adapter" else []
    if pooling == NATIVE:
        own = form == "adapter" and kind != CAUSAL_LM
        return NATIVE_CODE.substitute(
            imports="\n".join([*fedhello, *peft, f"from transformers import {auto}", "", *lines]),
            auto=auto,
            base=where,
            revision=arguments,
            classes=f", num_labels={num_labels}, ignore_mismatched_sizes=True" if own else "",
            adapter=adapter,
        )
    features = FEATURES[pooling]
    if kind == IMAGES and pooling == "mean":
        features = f"h = model(**batch).last_hidden_state[:, {class_tokens}:].mean(dim=1)"
    cut = "" if longest is None else f"max_length={longest}, "
    call = (
        'inputs, return_tensors="pt"'
        if kind == IMAGES
        else f'inputs, padding=True, truncation=True, {cut}return_tensors="pt"'
    )
    imports = [*fedhello, "import torch", *peft, "from safetensors.torch import load_file"]
    processor_here = form != "adapter" or "processor" in beside
    return POOLED_CODE.substitute(
        imports="\n".join([*imports, f"from transformers import {auto}, {processor}", "", *lines]),
        auto=auto,
        base=where,
        revision=arguments,
        read=f'"{FOLDER}"' if processor_here else where + arguments,
        adapter=adapter,
        folder=FOLDER,
        processor=processor,
        call=call,
        features=features,
    )


def _base_code(
    base: str, form: Form, source: ModelSource | None, beside: Sequence[Beside]
) -> tuple[str, str, list[str]]:
    """Return code for where the base is, for its other arguments, and lines before."""
    if form != "adapter":
        return f'"{FOLDER}"', "", []
    gguf = f', gguf_file="{source.gguf}"' if source is not None and source.gguf else ""
    if "base" in beside:
        return f'"{FOLDER}/{BASE}"', gguf, []
    named = json.dumps(base, ensure_ascii=False)
    if source is not None and source.embedded:
        return "base", gguf, [f'base = fh.model_path("{source.embedded}")  # {named} on the hub']
    pinned = f', revision="{source.revision}"' if source is not None and source.revision else ""
    return named, pinned, []


def _plain_code(base: str, pooling: Pooling, form: Form) -> str:
    """Return the loading code for a plain module, whose class the reader must have."""
    own = pooling == NATIVE
    peft = form == "adapter"
    imports = [
        *([] if own and not peft else ["import torch"]),
        *(["from peft import PeftModel"] if peft else []),
        *(["from safetensors.torch import load_file"] if not (own and peft) else []),
    ]
    load = (
        f'model = PeftModel.from_pretrained(model, "{FOLDER}")\n{FASTPATH}'
        if peft
        else f'model.load_state_dict(load_file("{FOLDER}/model.safetensors"))'
    )
    logits = "" if own else PLAIN_LOGITS.substitute(folder=FOLDER, pooled=PLAIN_POOLED[pooling])
    return PLAIN_CODE.substitute(imports="\n".join([*imports, ""]), base=_line(base), load=load, logits=logits)
