import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from fedhello.errors import ModelError
from fedhello.model.blocks import Blocks, find_blocks
from fedhello.model.targets import (
    adaptable,
    attention_parts,
    check_targets,
    find_all_linear,
    find_attention,
    find_attention_qv,
    left_out,
)


class StateSpace(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(4, 8), nn.Linear(8, 4)
        self.A_log, self.D = nn.Parameter(torch.ones(8, 2)), nn.Parameter(torch.ones(8))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mixer = StateSpace()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))


def test_what_a_kernel_reads_or_nothing_calls_gets_no_adapter():
    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(2))
    paths = find_all_linear(model, find_blocks(model))
    called = {"layers.0.mixer.in_proj", "layers.0.mixer.out_proj", "layers.1.experts.0"}
    assert adaptable(model, paths, called) == [
        f"layers.{l}.{name}" for l in (0, 1) for name in ("mixer.in_proj", "experts.0", "experts.1")
    ]
    with pytest.raises(ModelError, match=r"block 0 of Module has mixer\.in_proj, mixer\.out_proj"):
        find_attention_qv(
            model, find_blocks(model)
        )  # in_proj of a state space is no projection of query, key and value


def test_named_layers_must_all_get_an_adapter_and_each_block_one():
    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(2))
    blocks = find_blocks(model)
    asked = [f"layers.{l}.mixer.{name}" for l in (0, 1) for name in ("in_proj", "out_proj")]
    kept = asked[::2]
    check_targets(model, blocks, asked, kept, named=False)
    with pytest.raises(ModelError, match=r"can get an adapter; out_proj of Module cannot: .*Leave it out"):
        check_targets(model, blocks, asked, kept, named=True)
    with pytest.raises(ModelError, match=r"each block .* block 1 of Module has none \(its linear layers: mixer\.in"):
        check_targets(model, blocks, asked, kept[:1], named=False)


def test_large_parts_without_an_adapter_are_named_with_their_share():
    config = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    blocks = find_blocks(model)
    paths = find_all_linear(model, blocks)
    total = sum(weight.numel() for weight in model.parameters())
    experts, table = 2 * 4 * 3 * 16 * 96, 64 * 16
    assert left_out(model, blocks, paths, []) == (
        f"no adapter is put into the experts ({experts / total:.0%} of the weights)"
    )
    assert table / total < 0.05
    some = left_out(model, Blocks(blocks.paths), [path for path in paths if "q_proj" in path], ["lm_head"])
    assert some.startswith("no adapter is put into the experts (")
    whole = nn.Module()
    whole.layers, whole.embed = nn.ModuleList([Block(), Block()]), nn.Embedding(100, 4)
    listed = find_blocks(whole)
    assert "embeddings (" in left_out(whole, listed, find_all_linear(whole, listed), [])
    del whole.embed
    assert "the blocks' mixer.A_log (" in left_out(whole, listed, find_all_linear(whole, listed), [])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.value, self.out_proj = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.reduction = nn.Conv1d(4, 4, 3, bias=False)


def test_what_other_sets_cover_by_their_names_and_leave_out_is_named():
    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(2))
    for block in model.layers:
        block.attention = Attention()
    blocks = find_blocks(model)
    paths, parts = find_attention(model, blocks), attention_parts(model, blocks)
    assert parts == ["layers.0.attention", "layers.1.attention"]
    # 4·4·3 weights of 4·4·6 in each block; those outside the attention are not what the name says.
    assert left_out(model, blocks, paths, [], within=parts, called="the attention's weights") == (
        "no adapter is put into the blocks' attention.reduction (50% of the attention's weights)"
    )
    asked = [f"{path}.out_proj" for l in (0, 1) for path in (f"layers.{l}.mixer", f"layers.{l}.attention")]
    kept = [path for path in asked if "mixer" not in path]
    said = left_out(model, blocks, kept, [], within=asked, called="these layers' weights", least=0)
    assert said == f"no adapter is put into the blocks' mixer.out_proj ({36 / 52:.0%} of these layers' weights)"
    assert left_out(model, blocks, asked, [], within=asked, least=0) is None
