"""Two network namespaces of this machine, joined by a link of a given rate."""

import subprocess
from contextlib import ExitStack, contextmanager

ADDRESSES = ("10.54.0.1", "10.54.0.2")


@contextmanager
def shaped_link(rate):
    """Join two network namespaces by a link that carries some bytes per second, each way.

    Yields:
        For each of them its address, and the command that runs another one in it.

    Raises:
        PermissionError: Where this machine permits no namespaces, or no link of a rate; it says why.
    """
    with ExitStack() as stack:
        first, second = (stack.enter_context(_namespace()) for _ in ADDRESSES)
        # Both ends of the link go when their namespaces end.
        _called("ip", "link", "add", "wire", "netns", first, "type", "veth", "peer", "name", "wire", "netns", second)
        ends = []
        for address, namespace in zip(ADDRESSES, (first, second), strict=True):
            inside = ("nsenter", f"--net=/proc/{namespace}/ns/net")
            _called(*inside, "ip", "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                _called(*inside, "ip", "link", "set", device, "up")
            shape = ("tbf", "rate", f"{8 * rate}bit", "burst", "256kb", "latency", "2s")
            _called(*inside, "tc", "qdisc", "add", "dev", "wire", "root", *shape)
            ends.append((address, inside))
        yield ends


@contextmanager
def _namespace():
    """Hold a network namespace by a process, which ends with this one, and yield the process's id."""
    command = ["unshare", "--net", "sh", "-c", "echo ready && exec cat"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    try:
        holder = subprocess.Popen(command, **pipes)
    except FileNotFoundError as error:
        raise PermissionError(str(error)) from error
    with holder:
        if holder.stdout.readline() != "ready\n":
            raise PermissionError(holder.stderr.read().strip())
        yield str(holder.pid)


def _called(*words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError(str(error)) from error
    if done.returncode:
        raise PermissionError(f"{' '.join(words)}: {done.stderr.strip()}")
