"""Tiny models with random weights, of every architecture that transformers maps to a task, saved as users have them.

A configuration is made of the architecture's own default one: sizes, counts of layers and heads are shrunk by the names
of their fields. A few architectures need values of their own, ``OWN``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fedhello.model.images import stated_size
from fedhello.model.loading import AUTO_CLASSES

TASKS = {
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}
"""Task → type of a model → name of its class."""

VOCABULARY, LAYERS, WIDTH, HEADS, SIDE = 64, 3, 32, 4, 32

SIZES: tuple[tuple[str, int], ...] = (
    (r"(^|_)vocab_size(_|$)|^unpadded_vocab_size", VOCABULARY),
    (r"kv_shared|nextn|^mtp_|num_memory_blocks|^num_mem_blocks|^first_k_dense|^num_dense_layers|moe_layer_start", 1),
    (r"num_hidden_layers|^n_layers?$|^(encoder|decoder)_layers$|^num_(encoder_|decoder_)?layers$|^num_blocks$", LAYERS),
    (r"^depth$|^moe_layer_end_index$", LAYERS),
    (r"key_value_heads|kv_heads|num_key_heads|n_groups$|ngroups|index_n_heads|index_heads", 2),
    (r"heads?$|^num_query_groups$|num_value_heads|^mamba_num_heads", HEADS),
    (r"head_dim|d_head|headdim|d_kv|rotary_dim|nope_dim|rope_dim|attention_head_size|head_size", 8),
    (r"intermediate_size|ffn_dim|ffn_hidden_size|^hidden_dim$|^d_ff|^dim_ff|^d_inner|^mlp_dim|feed_forward_size", 48),
    (r"hidden_size$|^d_model|^n_embd|^dim$|embed_dim|embedding_size|projection_dim|proj_dim|embedding_dim", WIDTH),
    (r"pooler_output_size|pooler_hidden_size|emb_dim|^width$|lru_width|^dim_model|d_latents|_emb_size", WIDTH),
    (r"lora_rank|adapter_rank|time_step_rank|state_size|d_state|conv_kernel_dim", 8),
    (r"experts$|n_experts|num_local_experts|expert_num$", 4),
    (r"experts_per_tok|topk$|top_k$|moe_k$|experts_per_token", 2),
    (r"n_group$|topk_group|num_expert_group", 1),
    (r"position|n_ctx|context_length|max_seq_len|model_max_length|chunk_size$|max_target_positions", 64),
    (r"sliding_window$|local_attention|^attention_window_size$", 16),
    (r"image_size|^input_size$", SIDE),
    (r"^patch_size$|encoder_stride", 8),
)
"""Pattern of an integer field's name → its value; the first that fits counts."""

TOKENS = re.compile(r"_token_(id|index)$|^(tag|subs)_pad_id$")
"""Fields that hold a token's number."""


def shrunk(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration that change, for its default fields."""
    layers = max((v for k, v in values.items() if isinstance(v, int) and re.search(SIZES[2][0], k)), default=0)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in own:
            continue
        if isinstance(value, Mapping) and "model_type" in value:
            found[key] = {"model_type": value["model_type"], **shrunk(value, OWN.get(value["model_type"], {}))}
        elif TOKENS.search(key) and value is not None:
            found[key] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}.get(key, 3)
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            size = next((size for pattern, size in SIZES if re.search(pattern, key)), None)
            if size is not None:
                found[key] = min(size, value)
        elif isinstance(value, list) and layers > LAYERS and len(value) == layers:
            found[key] = few(value)
    return {**found, **own}


def few(values: list[Any]) -> list[Any]:
    """Return as many of the layers' values as a tiny model has layers, of as many kinds as there are."""
    first = sorted({json.dumps(value): i for i, value in reversed(list(enumerate(values)))}.values())
    rest = [i for i in range(len(values)) if i not in first]
    return [values[i] for i in sorted((first + rest)[:LAYERS])]


MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16}
STAGES = {"depths": [1, 2], "num_heads": [2, 4], "embed_dim": 16, "patch_size": 2, "window_size": 4}
FOUR = {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32]}
OWN: dict[str, dict[str, Any]] = {
    "albert": {"num_hidden_layers": 2, "num_hidden_groups": 1},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "t5": {"decoder_start_token_id": 0},
    "mt5": {"decoder_start_token_id": 0},
    "umt5": {"decoder_start_token_id": 0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "lilt": {"hidden_size": 48},
    "mobilebert": {"intra_bottleneck_size": 32, "true_hidden_size": 32},
    "dots1": {"n_shared_experts": 1, "num_experts_per_tok": 2, "n_routed_experts": 4, "num_local_experts": 4},
    "dots3_note_text": {"num_key_value_heads": HEADS},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "blenderbot": {"encoder_layers": 3},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "bit": {"depths": [1, 2], "hidden_sizes": [16, 32], "embedding_size": 8, "num_groups": 4},
    "canine": {"num_hash_buckets": 64},
    "convnext": FOUR,
    "convnextv2": FOUR,
    "ctrl": {"dff": 48},
    "cvt": {"depth": [1, 2, 3], "embed_dim": [8, 16, 32], "num_heads": [1, 2, 4]},
    "donut-swin": STAGES,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 3},
    "esmc": {"num_key_value_heads": HEADS},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "focalnet": {"depths": [1, 2], "embed_dim": 16, "focal_levels": [2, 2], "focal_windows": [3, 3]},
    "gemma4_assistant": {},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention", "mamba"]},
    "hgnet_v2": {},
    "hiera": {"depths": [1, 1, 1, 2], "embed_dim": 8, "num_heads": [1, 1, 2, 2], "image_size": [64, 64]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "levit": {"patch_size": 16},
    "textnet": {"image_size": [64, 64]},
    "mobilevitv2": {"image_size": 64},
    "markuplm": {"xpath_unit_hidden_size": 4},
    "ministral": {"head_dim": 8},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40]},
    "nemotron": {"num_key_value_heads": 2},
    "poolformer": {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32]},
    "pvt": {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]},
    "pvt_v2": {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8], "attn_layers": ["local", "lsh", "local"]},
    "regnet": {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32], "groups_width": 8, "embedding_size": 8},
    "resnet": {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32], "embedding_size": 8},
    "segformer": {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]},
    "swiftformer": {"depths": [1, 1, 1, 2], "embed_dims": [8, 16, 24, 32]},
    "swin": STAGES,
    "swinv2": STAGES,
    "xlnet": {"d_head": 8},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
}


NONE_SMALL = ("blt", "longcat_flash", "mistral4", "zamba2")
"""Types whose sizes depend on each other in ways that the rules above do not meet."""


def tiny_config(model_type: str, **more: Any) -> PreTrainedConfig:
    """Return the configuration of a tiny model of a type."""
    if model_type in NONE_SMALL:
        raise ValueError("no tiny configuration was found")
    kind = CONFIG_MAPPING[model_type]
    values = kind().to_dict()
    latent = {"num_key_value_heads": HEADS} if "kv_lora_rank" in values else {}  # all heads share one latent vector
    return kind(**shrunk(values, {**latent, **OWN.get(model_type, {}), **more}))


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of words w3 … and letters."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def side_of(config: Any) -> tuple[int, int]:
    """Return the height and width of a model's images."""
    return stated_size(config) or (SIDE, SIDE)


def save_tiny(task: str, model_type: str, folder: Path, **more: Any) -> None:
    """Save a tiny model of a type with its tokenizer, as a folder that ``model.name`` can name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = tiny_config(model_type, **more)
        config.architectures = []  # a type with two classes for the task takes the first
        module = AUTO_CLASSES[task].from_config(config)
        with torch.no_grad():
            for value in module.parameters():
                if value.dim() > 1 and value.is_floating_point() and not bool(value.any()):
                    torch.nn.init.normal_(value, std=0.02)  # the class says nothing of it, and zeros would hide faults
            if any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules()):
                module.train()
                for _ in range(20):  # statistics of what comes in, as after a training
                    module(torch.randn(4, 3, *side_of(config)))
        module.save_pretrained(folder)
    if task != "image-classification":
        save_tokenizer(folder)
    else:
        height, width = side_of(config)
        size = {"height": height, "width": width}
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "ViTImageProcessor", "size": size})
        )
