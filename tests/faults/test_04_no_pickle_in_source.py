"""Case 4: nothing in the package unpickles, or runs code that it was given as data."""

import ast
import pickle
from pathlib import Path

import pytest
from transformers import ViTConfig, ViTForImageClassification

import fedhello
from fedhello.errors import ModelError
from fedhello.model.loading import load_foundation
from fedhello.model.sources import resolve

ROOT = Path(fedhello.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("torch.load", "torch.save", "torch.hub.load", "pandas.read_pickle"),
    *("os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
}
FORBIDDEN_KEYWORDS = {"allow_pickle": True, "trust_remote_code": True, "shell": True}


def full_names(tree):
    """Map each imported name to the whole one: ``from torch import load as l`` gives ``l`` the name ``torch.load``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def spelt(node, names):
    """Return what is called, with its first name in full: ``torch.load``; None where it has no name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def complaints(source):
    """Return, by line, what in a source text could run code that comes as data."""
    tree = ast.parse(source)
    names = full_names(tree)
    found = []
    for node in ast.walk(tree):
        found += [(node.lineno, m) for m in imported(node) if m.partition(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            called = spelt(node.func, names)
            variable = called == "importlib.import_module" and not isinstance(node.args[0], ast.Constant)
            if variable or called in FORBIDDEN_CALLS:
                found.append((node.lineno, called))
            for word in node.keywords:
                value = getattr(word.value, "value", True)  # whatever is no constant may be true
                if word.arg in FORBIDDEN_KEYWORDS and value == FORBIDDEN_KEYWORDS[word.arg]:
                    found.append((node.lineno, word.arg))
    return found


IMPORTS_BY_NAME = {"__init__.py": "the public names, from a table in the file", "registry.py": "what a user names"}
"""The only files that import what a variable names, and what that is."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_file_runs_nothing_that_it_reads(path):
    found = [what for _, what in complaints(path.read_text(encoding="utf-8"))]
    by_name = str(path.relative_to(ROOT)) in IMPORTS_BY_NAME
    assert found == (["importlib.import_module"] if by_name else [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load as read\nread('x')",
        "import torch as t\nt.load('x')",
        "eval('1')",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module\nimport_module(name)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=flag)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert complaints(source)


@pytest.mark.parametrize(
    "source",
    [
        "import safetensors.torch\nsafetensors.torch.load(b'')",
        "model.eval()",
        "import importlib\nimportlib.import_module('json')",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import yaml\nyaml.load(text, Loader)",
    ],
)
def test_the_search_leaves_what_is_harmless(source):
    assert complaints(source) == []


class Bomb:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_weights_of_a_foundation_model_are_not_opened(tmp_path):
    folder, sentinel = tmp_path / "model", tmp_path / "sentinel"
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(**size, image_size=8, patch_size=4)).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    bomb = pickle.dumps(Bomb(sentinel))
    (folder / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(ModelError, match=r"no weights in safetensors\. Weights in pytorch_model\.bin are a pickle"):
        load_foundation(resolve(str(folder)), "image-classification", ("a", "b"), 0)
    assert not sentinel.exists()
    pickle.loads(bomb)
    assert sentinel.exists(), "the bomb is live"
