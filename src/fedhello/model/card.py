"""The model card of an export: its description, its labels, and code that loads it."""

import json
import re
from collections.abc import Sequence
from string import Template
from typing import Literal

from fedhello.model.pooling import NATIVE, Pooling
from fedhello.model.sources import CAUSAL_LM, IMAGES, TENSORS, Kind

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
processor = $processor.from_pretrained($base$revision)


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
    revision: str | None = None,
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
        revision: The commit of a base on the hub, which an adapter is loaded onto; None otherwise.
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
        code=loading_code(base, kind, pooling, len(labels), form, class_tokens, revision),
    )


def loading_code(
    base: str,
    kind: Kind,
    pooling: Pooling,
    num_labels: int,
    form: Form,
    class_tokens: int = 0,
    revision: str | None = None,
) -> str:
    """Return Python code that loads an export from the folder ``.``."""
    if form == "sentence-transformers":
        return SENTENCE_CODE.substitute(folder=FOLDER)
    if kind == TENSORS:
        return _plain_code(base, pooling, form)
    auto = AUTO[kind] if pooling == NATIVE else "AutoModel"
    processor = "AutoImageProcessor" if kind == IMAGES else "AutoTokenizer"
    loaded = base if form == "adapter" else FOLDER
    adapter = f'\nmodel = PeftModel.from_pretrained(model, "{FOLDER}")' if form == "adapter" else ""
    pinned = f', revision="{revision}"' if form == "adapter" and revision else ""
    peft = ["from peft import PeftModel"] if form == "adapter" else []
    if pooling == NATIVE:
        own = form == "adapter" and kind != CAUSAL_LM
        return NATIVE_CODE.substitute(
            imports="\n".join([*peft, f"from transformers import {auto}", ""]),
            auto=auto,
            base=json.dumps(loaded, ensure_ascii=False),
            revision=pinned,
            classes=f", num_labels={num_labels}, ignore_mismatched_sizes=True" if own else "",
            adapter=adapter,
        )
    features = FEATURES[pooling]
    if kind == IMAGES and pooling == "mean":
        features = f"h = model(**batch).last_hidden_state[:, {class_tokens}:].mean(dim=1)"
    call = (
        'inputs, return_tensors="pt"'
        if kind == IMAGES
        else 'inputs, padding=True, truncation=True, return_tensors="pt"'
    )
    imports = ["import torch", *peft, "from safetensors.torch import load_file"]
    return POOLED_CODE.substitute(
        imports="\n".join([*imports, f"from transformers import {auto}, {processor}", ""]),
        auto=auto,
        base=json.dumps(loaded, ensure_ascii=False),
        revision=pinned,
        adapter=adapter,
        folder=FOLDER,
        processor=processor,
        call=call,
        features=features,
    )


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
