"""What stands below a block: the modules that compute its input, their weights, and how to go on from that input."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from fedhello.model.adapter import LoraModel


def modules_below(model: LoraModel, block: int) -> Iterator[nn.Module]:
    """Yield the modules that compute a block's input: those registered before the blocks, and the blocks below it.

    Args:
        model: The model.
        block: l; L for what stands below the head.
    """
    first = model.blocks.lists[0]
    for path, module in model.base.named_modules():
        if path == first:
            break
        if path and not first.startswith(f"{path}."):
            yield module
    for below in model.block_modules()[:block]:
        yield from below.modules()


def weights_below(model: LoraModel, block: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that a block's input can depend on, with their names: all but the head's and those from it on.

    Args:
        model: The model.
        block: l; L for what stands below the head.
    """
    others = {id(weight) for own in model.block_modules()[block:] for weight in own.parameters()}
    # Names of the head are its parameters' saved names; elsewhere it may be wrapped, so it is told by its block.
    own = model.own_parameters
    inside = {id(weight) for below in model.block_modules() for weight in below.parameters()}
    for name, weight in model.module.named_parameters():
        if id(weight) not in others and (id(weight) in inside or id(weight) not in own):
            yield name, weight


def output_of(block: nn.Module, call: int, run: Callable[[], object]) -> Any:
    """Return what a block returns in its n-th call in a forward pass; what would follow it does not run.

    Args:
        block: The block.
        call: n ≥ 1: a block may be called several times, as ALBERT's.
        run: The forward pass.
    """
    left = call

    def stop(_: nn.Module, __: object, output: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _Reached(output)

    handle = block.register_forward_hook(stop)
    try:
        run()
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise RuntimeError(f"expected {call} calls of a block in a forward pass; found {call - left}")


class _Reached(Exception):  # noqa: N818 - it ends a forward pass, and is no error
    """A block has returned what is wanted."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


@contextmanager
def forward_replaced(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a block another forward inside the context.

    Args:
        block: The block.
        forward: What it runs instead.
    """
    own = block.__dict__.get("forward")
    block.forward = forward
    try:
        yield
    finally:
        del block.forward
        if own is not None:
            block.forward = own


@contextmanager
def going_on_from(blocks: Sequence[nn.Module], output: list[Any], calls: int) -> Iterator[None]:
    """Let blocks return an output, which the last of them has computed before, in place of running; in one pass.

    Args:
        blocks: The blocks, in the order in which they run.
        output: What each of them returns, alone in a list, which the last call empties.
        calls: How often the pass calls the last of them.
    """
    left = calls

    def known(*_: Any, **__: Any) -> Any:
        return output[0]

    def last(*_: Any, **__: Any) -> Any:
        nonlocal left
        left -= 1
        return output[0] if left else output.pop()

    with ExitStack() as stack:
        for block in blocks[:-1]:
            stack.enter_context(forward_replaced(block, known))
        stack.enter_context(forward_replaced(blocks[-1], last))
        yield
