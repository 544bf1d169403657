import torch
from torch import nn

from fedhello.model.absence import without_members


class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x, masks):
        return self.linear(x) * masks[self.kind]


class Model(nn.Module):
    """Chooses a mask by a block's position, and checks it by an attribute of the block."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block(kind) for kind in ("a", "b", "a"))

    def forward(self, x):
        for i, block in enumerate(self.layers):
            assert block.kind == ("a", "b", "a")[i]
            x = block(x, masks={"a": 2, "b": 5})
        return x


def test_blocks_that_hand_on_their_input_leave_the_others_at_their_positions():
    model, x = Model(), torch.ones(1, 2)
    names = dict(model.named_parameters()).keys()
    assert model(x).tolist() == [[20, 20]]
    with without_members(model, "layers", {"layers.1", "elsewhere.0"}, {"layers.1"}):
        assert model(x).tolist() == [[4, 4]]
        assert dict(model.named_parameters()).keys() == names - {"layers.1.linear.weight"}
    assert model(x).tolist() == [[20, 20]] and dict(model.named_parameters()).keys() == names


def test_other_blocks_are_taken_out_of_their_list():
    model = Model()
    first, _, last = model.layers
    with without_members(model, "layers", {"layers.1"}, set()):
        assert list(model.layers) == [first, last]
    assert len(model.layers) == 3
