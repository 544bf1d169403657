"""Checks of settings that exclude each other."""

import math

from fedhello.client.loss import LOSSES
from fedhello.config.schema import Config, ModelConfig
from fedhello.config.training import TrainConfig
from fedhello.costs import FORWARD
from fedhello.data.memory import MEMORY
from fedhello.errors import ConfigError
from fedhello.method import Method
from fedhello.model.evaluation import metric_label
from fedhello.model.pooling import NATIVE
from fedhello.privacy.vectors import LEAST
from fedhello.strategy import plain


def check_budgets(config: Config, method: Method) -> None:
    """Check that the method can use every tier's budget."""
    wanted = {"blocks": "blocks", "ranks": "rank", "either": None}[method.allocates]
    if wanted is None:
        return
    for g, tier in enumerate(config.clients.tiers):
        if tier.budget.only_counts and getattr(tier, wanted) is None:
            other = "rank" if wanted == "blocks" else "blocks"
            raise ConfigError(
                f"expected clients.tiers.{g} to state {wanted} or bytes, since {method.name} allocates "
                f"{method.allocates}; found only {other}: {getattr(tier, other)}. Add {wanted}, or choose a method "
                f"that allocates {'ranks' if other == 'rank' else 'blocks'} (see fedhello methods)."
            )


def check_defence(config: Config, method: Method) -> None:
    """Check that the method's mean can be replaced by the robust rule, and that a round has enough clients for it."""
    defence = config.defence.defence
    if defence.rule == "mean":
        return
    if not method.is_plain_mean:
        more = "does more than average" if method.averages_layerwise else "does not average"
        raise ConfigError(
            f"expected defence.rule=mean, since {method.name} {more} layer by layer; found {defence.rule}. "
            "defence.screen and defence.clip work with every method."
        )
    invited = 1 if method.pooled else config.train.clients_per_round
    if invited < defence.fewest:
        raise ConfigError(
            f"expected at least {defence.fewest} clients in a round for defence.rule={defence.rule} with "
            f"defence.byzantine={defence.byzantine}; found {invited}. Raise train.clients_per_round, lower "
            "defence.byzantine, or choose another rule."
        )
    quorum = math.ceil(config.train.quorum * invited - 1e-9)
    if quorum < defence.fewest and defence.clip is None:
        raise ConfigError(
            f"expected a quorum of at least {defence.fewest} clients for defence.rule={defence.rule}, since a round "
            f"with fewer is averaged; found {quorum}. Raise train.quorum to "
            f"{math.ceil(100 * defence.fewest / invited) / 100}, or set defence.clip."
        )


NOT_A_SUM = {
    "products": "needs the products of the clients' factors, whose sum would be of dense matrices",
    "single": "needs each client's update by itself",
}
"""Why a method cannot do with a sum over clients, by what it needs of them."""


def check_privacy(config: Config, method: Method) -> None:
    """Check that the server needs nothing of single clients, where it is to see sums alone."""
    if not config.privacy.secure:
        return
    server, model = config.train.server.name, config.model
    most = min(config.train.clients_per_round, config.privacy.group)
    reasons = {
        f"method.name={method.name} {NOT_A_SUM.get(method.needs, '')}. Choose one that `fedhello methods` lists under "
        "sum, such as fed-hello": method.needs != "sum",
        f"under method.name={method.name} no client sends anything": method.pooled or method.server_alone,
        f"defence.rule={config.defence.rule}, defence.screen and defence.clip look at single updates. Leave them out": (
            config.defence.rule != "mean" or config.defence.screen is not None or config.defence.clip is not None
        ),
        "train.scaffold keeps what each client did. Leave it out": config.train.scaffold,
        f"train.server.name={server} looks at single updates. Choose none or search": server not in ("none", "search"),
        f"privacy.cohorts={config.privacy.cohorts} is more than the {most} clients of a sum. Lower it": (
            (config.privacy.cohorts or 0) > most
        ),
        "model.moments=means needs each client's class means. Choose full, diagonal or a sketch": (
            model.head == "solved" and model.moments == "means"
        ),
        f"of {config.train.clients_per_round} clients in a round, the sum tells too much. Set "
        f"train.clients_per_round to {LEAST} or more": config.train.clients_per_round < LEAST,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ConfigError(f"expected privacy.secure=false, since {reason}; found true.")


def check_private(config: Config, method: Method) -> None:
    """Check that, under differential privacy, nothing but noised sums leaves the clients."""
    privacy, model, train = config.privacy, config.model, config.train
    if privacy.epsilon is None:
        return
    trains = not method.head_alone
    reasons = {
        f"under method.name={method.name} no client takes part": method.server_alone or method.pooled,
        f"method.name={method.name} needs more than a mean over clients, layer by layer. Choose fed-hello, gd-hla, "
        "rgd-hla, fim-hla or head-only": trains and not method.is_plain_mean,
        f"the head must be solved from sums without training; model.head is {model.head} and model.train_head "
        f"{str(model.train_head).lower()}. Leave both out": model.head != "solved" or model.train_head,
        "model.refresh asks clients for sums again. Leave it out": model.refresh != "never",
        "what model.adapter was trained on is not in the ledger. Leave it out": model.adapter is not None,
        "a budget in seconds is compared with the number of a client's samples. Give blocks, memory or upload": any(
            tier.seconds is not None for tier in config.clients.tiers
        ),
        "on other machines what clients send must be masked, too. Set privacy.secure=true": (
            config.run.engine == "flower" and not privacy.secure
        ),
        f"privacy.delta={privacy.delta:g} allows to publish one client of {config.data.clients} in the clear. Set it "
        "below 1/data.clients": privacy.delta >= 1 / config.data.clients,
        f"privacy.delta={privacy.delta:g} allows to publish samples in the clear. Set it to 1e-4 or less": (
            privacy.unit == "sample" and privacy.delta > 1e-4
        ),
    }
    if trains:
        reasons |= {
            f"method.name={method.name} decides in each round which factor trains. Choose another": method.alternates,
            "noise of rounds is computed for up to 100. Lower it": privacy.epsilon > 100,
            "train.loss=restricted leaves out clients by what they have. Leave it out": train.loss == "restricted",
            "train.scaffold keeps what each client did. Leave it out": train.scaffold,
            "the ledger is saved with every checkpoint. Set run.checkpoint_every=1": config.run.checkpoint_every != 1,
        }
        reasons |= _against_samples(config) if privacy.unit == "sample" else _against_clients(config)
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ConfigError(f"expected privacy.epsilon=null, since {reason}; found {privacy.epsilon:g}.")


def _against_clients(config: Config) -> dict[str, bool]:
    """Return what does not go with training that protects whole clients: reason → whether it is so."""
    train, defence = config.train, config.defence
    return {
        "noise is counted for clients that are drawn independently. Set train.sampling=poisson, or "
        "privacy.mechanism=banded": train.sampling != "poisson" and config.privacy.mechanism == "gaussian",
        **_against_turns(config),
        f"train.server.name={train.server.name} steps where somebody trained. Choose none or search": (
            train.server.name not in ("none", "search")
        ),
        f"defence.rule={defence.rule}, defence.screen and defence.clip look at single updates. Leave them out": (
            defence.rule != "mean" or defence.screen is not None or defence.clip is not None
        ),
    }


def _against_turns(config: Config) -> dict[str, bool]:
    """Return what stands against noise in bands, for which clients take turns: reason → whether it is so."""
    train, privacy = config.train, config.privacy
    banded, most = privacy.mechanism == "banded", config.data.clients // train.clients_per_round
    return {
        "with privacy.mechanism=banded clients take turns. Set train.sampling=fixed": (
            banded and train.sampling == "poisson"
        ),
        "train.over_selection invites clients more often than privacy.mechanism=banded allows. Leave it out": (
            banded and train.over_selection != 1
        ),
        f"with privacy.mechanism=banded a client is in every second round at most, and {train.clients_per_round} of "
        f"{config.data.clients} clients are in each. Lower train.clients_per_round": banded and most < 2,
        f"privacy.band={privacy.band} asks for {privacy.band} rounds with other clients in each, of which there are "
        f"enough for {most}. Lower it or train.clients_per_round": (
            banded and not isinstance(privacy.band, str) and privacy.band > most >= 2
        ),
        "privacy.band is for privacy.mechanism=banded. Leave it out": not banded and privacy.band != "auto",
    }


def _against_samples(config: Config) -> dict[str, bool]:
    """Return what does not go with training that protects single samples: reason → whether it is so."""
    train, options = config.train, config.method.options
    return {
        "privacy.mechanism=banded is for rounds that protect whole clients. Leave it out": (
            config.privacy.mechanism == "banded"
        ),
        "train.loss=adjusted counts the labels of a client's other samples. Leave it out": train.loss == "adjusted",
        "train.autocast=bfloat16 rounds a sample's gradient by who else is in a batch. Leave it out": (
            train.autocast == "bfloat16"
        ),
        "train.distillation is no loss of single samples. Leave it out": train.distillation > 0,
        "weights of less than 32 bits round a sample's gradient by who else is in a batch. Leave model.dtype and "
        "model.quantisation out": config.model.dtype != "float32" or config.model.quantisation != "none",
        "DoRA's magnitudes have no gradients of single samples. Leave model.lora.dora out": config.model.lora.dora,
        "method.scores=clients has scores of whole clients, whose noise is not counted for samples. Choose proxy": (
            options.get("scores") == "clients"
        ),
        "method.weighting=batches needs how many batches a client has. Choose clients": (
            options.get("weighting") == "batches"
        ),
        "privacy.secure needs three clients or more in every round. Set train.sampling=fixed": (
            config.privacy.secure and train.sampling != "fixed"
        ),
    }


def check_sampling(config: Config, method: Method) -> None:
    """Check that rounds may have any number of clients, and none, under Poisson sampling."""
    train = config.train
    if train.sampling == "fixed":
        return
    reasons = {
        f"method.name={method.name} needs to know how many clients a round has. Choose one that `fedhello methods` "
        "lists under sum": method.needs != "sum",
        "privacy.secure needs three clients or more in every round": (
            config.privacy.secure and config.privacy.epsilon is None
        ),
        f"defence.rule={config.defence.rule} needs enough clients in every round": config.defence.rule != "mean",
        "train.over_selection invites more clients than a round has. Leave it out": train.over_selection != 1,
        "method.scores=clients needs clients in every round. Choose proxy": (
            config.method.options.get("scores") == "clients" and config.privacy.epsilon is None
        ),
        "on other machines a round has a fixed number of clients. Leave run.engine=local": (
            config.run.engine == "flower" and config.privacy.epsilon is None
        ),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ConfigError(f"expected train.sampling=fixed, since {reason}; found poisson.")


def check_forward(config: Config, method: Method) -> None:
    """Check that steps can do without backward, where they are to."""
    if config.train.activations != FORWARD:
        return
    reasons = {
        f"train.loss={config.train.loss} is not the package's own, and is known to have a gradient by backward alone": (
            config.train.loss not in ("auto", *LOSSES.own)
        ),
        "privacy.unit=sample clips the gradient of each sample, which only backward tells": (
            config.privacy.epsilon is not None and config.privacy.unit == "sample" and not method.head_alone
        ),
        f"method.name={method.name} adds a regulariser, whose gradient only backward tells": method.local is not plain,
        f"products with the weights of model.quantisation={config.model.quantisation} have no forward mode": (
            config.model.quantisation != "none"
        ),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ConfigError(
            f"expected train.activations=keep, recompute, compress or auto, since {reason}; found forward."
        )


def check_train(config: Config, method: Method) -> None:
    """Check that the training options work with the method and the head."""
    model = config.model
    if config.train.selection == "validation" and model.head in ("local", "none"):
        raise ConfigError(
            "expected train.selection=last, since model selection scores one global classifier on the server's "
            f"validation data and model.head is {model.head}; found validation. Choose another head, or leave "
            "train.selection out."
        )
    if model.drift_compensation is True and (model.head != "solved" or model.train_head):
        why = "a solved head that trains adapts itself" if model.head == "solved" else "only a solved head has sums"
        raise ConfigError(
            f"expected model.drift_compensation=false or auto, since {why}; found true. Leave it out, or change "
            "model.head and model.train_head."
        )
    server = config.train.server.name
    if server == "search" and not method.steps:
        raise ConfigError(
            f"expected train.server.name=none, since {method.name} "
            + ("merges products into frozen weights" if method.merges else "trains several models")
            + ", so that a round cannot be undone; found search. Choose a method such as rgd-hla."
        )
    if server not in ("none", "search") and not method.averages_layerwise:
        raise ConfigError(
            f"expected train.server.name=none, since {method.name} does not average layer by layer, so the change of "
            f"the global factors is not a gradient; found {server}. Choose a method such as rgd-hla."
        )
    if server == "search" and config.model.head in ("local", "none"):
        raise ConfigError(
            "expected a head that all clients share for train.server.name=search, which scores the global model on the "
            f"server's validation data; found model.head={config.model.head}. Choose another head, or "
            "train.server.name=none."
        )
    if config.train.scaffold and (not method.averages_layerwise or method.allocates == "ranks"):
        raise ConfigError(
            f"expected train.scaffold=false, since {method.name} gives clients factors of different ranks or does not "
            "average them, so their drifts cannot be compared; found true. Choose a method such as rgd-hla."
        )
    if config.train.distillation and config.model.head == "local":
        raise ConfigError(
            "expected a head that all clients share for train.distillation, which keeps the global model's predictions "
            "for classes that a client lacks; found model.head=local. Choose another head, or train.distillation=0."
        )


def check_merging(model: ModelConfig, method: Method) -> None:
    """Check that the frozen weights are precise enough for a method that adds products to them."""
    if method.merges and (model.dtype != "float32" or model.quantisation != "none"):
        raise ConfigError(
            f"expected model.dtype=float32 and model.quantisation=none, since {method.name} adds products to the "
            f"frozen weights, and lower precision would round them away; found {model.dtype} and {model.quantisation}"
        )


def check_dora(method: Method) -> None:
    """Check that DoRA works with the method."""
    reasons = {
        "combines factors by their product, which leaves DoRA's magnitudes out": not method.averages_layerwise,
        "adds products to the frozen weights, to whose norms DoRA's magnitudes are relative": method.merges,
        "scores blocks by the gradients of factors, which pass through their norms under DoRA": method.uses_scores,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ConfigError(
            f"expected model.lora.dora=false, since {method.name} {reason}; found true. Choose a method that averages "
            "layer by layer without scores, such as rgd-hla or straggler."
        )


def check_tensors(config: Config) -> None:
    """Check the settings of tensor data, which needs a plain ``torch.nn.Module`` in memory."""
    model = config.model
    if config.data.kind != "tensors":
        if model.head_module is not None or model.features is not None:
            raise ConfigError(
                "expected data.tensor together with model.head_module or model.features, which describe a plain "
                "torch.nn.Module; found no data.tensor. Add it, or leave them out."
            )
        return
    if model.name != MEMORY:
        raise ConfigError(
            "expected a plain torch.nn.Module in memory for data.tensor, fedhello.run(config, model=module, data=…); "
            f"found model.name={model.name}"
        )
    if model.head_module is not None and model.pooling not in ("auto", NATIVE):
        raise ConfigError(
            f"expected model.pooling=auto with model.head_module, whose input the module itself computes; found "
            f"{model.pooling}. Leave one of them out."
        )


def check_metrics(config: Config) -> None:
    """Check that user-defined metrics are used with a classifier and have unique names."""
    names = config.run.metrics
    if names and config.model.head == "none":
        raise ConfigError(
            "expected no run.metrics for a language model, whose logits are too large to keep; found "
            f"{', '.join(names)}. Leave them out."
        )
    labels = [*OWN_SCORES, *map(metric_label, names)]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"expected metrics with unique names, different from {', '.join(OWN_SCORES)}; found {twice} twice. "
            "Rename the function."
        )


OWN_SCORES = ("accuracy", "loss", "samples", "macro_f1", "micro_f1")
"""Scores that fedhello itself computes for a classifier."""


def ignored(config: Config) -> list[str]:
    """Return notes on keys that are set and change nothing."""
    here, run, train = config.run.engine != "flower", config.run, config.train
    elsewhere = "is for clients that train on this machine; those on other machines ignore it"
    notes = {
        f"run.workers {elsewhere}": not here and run.workers not in ("auto", 1),
        f"run.cache_folder {elsewhere}": not here and run.cache_folder is not None,
        "run.cache_folder is not used, since no tier has a cache": (
            here and run.cache_folder is not None and all(tier.cache is None for tier in config.clients.tiers)
        ),
        "train.tangents is for train.activations=forward, and is not used": (
            train.activations != FORWARD and train.tangents != TrainConfig().tangents
        ),
    }
    return [note for note, holds in notes.items() if holds]
