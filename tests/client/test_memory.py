import mmap
import subprocess
import sys

import pytest
import torch
from torch import nn

from fedhello.client.memory import FLOPS, RESERVE, ProcessPeak, StepMemory, return_memory_at_once
from fedhello.engine.workers import Workers, in_parallel

MEGABYTE = 4 * 256 * 1024


def square(fill: float = 1.0) -> torch.Tensor:
    """One megabyte of float32."""
    return torch.full((256, 1024), fill)


def test_the_peak_is_the_most_that_lived_at_one_moment():
    with StepMemory([]) as memory:
        first = square()
        second = square()
        del first
        third = square()
        del second, third
        square()
    assert memory.peak_bytes == 2 * MEGABYTE


def test_views_take_no_memory_of_their_own():
    with StepMemory([]) as memory:
        whole = square()
        kept = [whole[0], whole.t(), whole.view(-1)]
    assert len(kept) == 3
    assert memory.peak_bytes == MEGABYTE


def test_parameters_and_views_of_them_are_not_counted():
    layer = nn.Linear(1024, 1024, bias=False)
    with StepMemory(layer.parameters()) as memory:
        kept = layer.weight.t()
    assert kept.shape == (1024, 1024)
    assert memory.peak_bytes == memory.saved_bytes == 0


def test_saved_bytes_are_the_different_tensors_that_backward_needs():
    x = square().requires_grad_()
    with StepMemory([]) as memory:
        y = x.exp()  # saves its result
        z = y.exp()  # likewise
        loss = (y * z).sum()  # saves both factors, which are saved already
    assert memory.saved_bytes == 2 * MEGABYTE
    loss.backward()
    assert torch.isfinite(x.grad).all()


def test_gradients_count_towards_the_peak():
    x = square(0.5).requires_grad_()
    with StepMemory([]) as memory:
        x.exp().exp().sum().backward()
    # Two saved results, and at the end of backward the gradient of x beside one that is passed on.
    assert memory.peak_bytes >= 3 * MEGABYTE
    assert memory.saved_bytes == 2 * MEGABYTE


def test_measuring_is_over_when_the_step_is():
    with StepMemory([]) as memory:
        square()
    before = memory.peak_bytes
    kept = [square() for _ in range(5)]
    assert len(kept) == 5
    assert memory.peak_bytes == before


@pytest.mark.parametrize(
    "kernel", ["flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"]
)
def test_attention_of_heads_that_share_keys_counts_the_products_of_all_heads(kernel):
    """8 heads of queries, 2 of keys, on any device's kernel: 2·2·8·5²·(4 + 4), and 2·2·8·5²·(3·4 + 2·4) backward."""
    q, k = torch.empty(2, 8, 5, 4), torch.empty(2, 2, 5, 4)
    aten = torch.ops.aten
    assert FLOPS[getattr(aten, f"_scaled_dot_product_{kernel}")](q, k, k, out_val=q) == 6400
    backward = FLOPS[getattr(aten, f"_scaled_dot_product_{kernel}_backward")]
    assert backward(q, q, k, k, out_val=(q, k, k)) == 16000


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied, and measured, on Linux alone")
def test_a_process_that_is_a_copy_measures_what_the_other_does(tmp_path):
    """Besides what is allocated, it reads a file into memory, as it does with the code of libraries."""
    file, size = tmp_path / "file", 64 * MEGABYTE
    file.write_bytes(bytes(size))

    def measured() -> bytes:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as view:
            with ProcessPeak(torch.device("cpu")) as peak:
                assert sum(view[:: mmap.PAGESIZE]) == 0
                taken = torch.ones(32 * MEGABYTE // 4)
            del taken
        return str(peak.peak_bytes).encode()

    held = torch.ones(32 * MEGABYTE // 4)  # a copy of this process copies it when writing, and takes no more by that
    return_memory_at_once()
    ((_, copy),) = in_parallel([(0, 1.0)], lambda _: (held.add_(1), measured())[1], Workers(1))
    assert int(measured()) == pytest.approx(32 * MEGABYTE, rel=0.1)
    assert int(copy) == pytest.approx(32 * MEGABYTE, rel=0.1)


NEW_SHAPES = """
import torch
from fedhello.client.memory import ProcessPeak, return_memory_at_once

return_memory_at_once()
torch.set_num_threads(1)
weights = [torch.ones(shape, dtype=torch.bfloat16) for shape in [(384, 384), (1536, 384), (384, 1536)]]
with ProcessPeak(torch.device("cpu")) as peak:
    for rows in range(64, 264, 8):
        for weight in weights:
            x = torch.ones(rows, weight.shape[1], dtype=torch.bfloat16)
            y = torch.nn.functional.linear(x, weight)
            y @ weight, y.t() @ x
print(peak.peak_bytes)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.cpu._is_avx512_bf16_supported(),
    reason="kernels for bf16 are compiled where a processor has instructions for it; the process is measured on Linux",
)
def test_kernels_that_are_compiled_for_each_shape_stay_within_the_reserve():
    """Forward and backward products of 25 lengths; torch's caches alone would keep over 100 MB of kernels."""
    done = subprocess.run([sys.executable, "-c", NEW_SHAPES], capture_output=True, text=True, check=True)
    assert int(done.stdout) < RESERVE
