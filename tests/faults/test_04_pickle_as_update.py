"""Case 4: a pickle is not opened at the door (``test_04_no_pickle_in_source`` searches the package for others)."""

import io
import pickle
from pathlib import Path

import torch


class Bomb:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_refused_unopened(letter, tmp_path):
    sentinel = tmp_path / "sentinel"
    bomb, saved = pickle.dumps(Bomb(sentinel)), io.BytesIO()
    torch.save({"a.lora_A.weight": Bomb(sentinel)}, saved)
    for payload in (bomb, saved.getvalue()):
        assert letter.reason(payload) == "malformed" or len(payload) > letter.expected.limit
        for part in ({"tensors": payload}, {"header": payload}):
            assert letter.reason(letter.write(**part), max_bytes=10**6) == "malformed"
    assert not sentinel.exists()
    pickle.loads(bomb)
    assert sentinel.exists(), "the bomb is live"
