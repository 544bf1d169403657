"""Record the page of the embedded demo while it runs, as an animated picture: ``make recording``.

It starts ``fedhello run --watch``, opens the page in a headless Chromium (Debian's ``chromium``), and takes a picture
whenever the page has changed. Nothing is staged: pauses are as long as they were, up to ``LONGEST``.
"""

import argparse
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).parent / "images" / "watch.gif"
SIZE = {"width": 1180, "height": 760}
SHOWN = 900
"""Width of the picture in pixels."""
EVERY, LONGEST = 0.7, 2.0
"""Seconds between two looks at the page, and the most that a picture stays."""
COLOURS = 96


def recorded(page: Page, running: subprocess.Popen[str]) -> list[tuple[float, bytes]]:
    """Return (second, PNG) of each change of a page until its run has ended."""
    frames: list[tuple[float, bytes]] = []
    begun = time.monotonic()
    ended = 0
    while ended < 3:  # what is drawn at the end
        ended += running.poll() is not None
        shot = page.screenshot(animations="disabled")
        if not frames or hashlib.sha256(shot).digest() != hashlib.sha256(frames[-1][1]).digest():
            frames.append((time.monotonic() - begun, shot))
        time.sleep(EVERY)
    return frames


def write(frames: list[tuple[float, bytes]], out: Path) -> None:
    """Write pictures as one animated GIF with few colours; the last one stays."""
    pictures = []
    for _, shot in frames:
        picture = Image.open(io.BytesIO(shot)).convert("RGB")
        small = picture.resize((SHOWN, round(SHOWN * picture.height / picture.width)), Image.Resampling.LANCZOS)
        pictures.append(small.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    times = [at for at, _ in frames]
    stays = [min(b - a, LONGEST) for a, b in zip(times, times[1:], strict=False)] + [4.0]
    out.parent.mkdir(exist_ok=True)
    pictures[0].save(
        out,
        save_all=True,
        append_images=pictures[1:],
        duration=[round(1000 * one) for one in stays],
        loop=0,
        optimize=True,
    )


def main() -> None:
    """Run the demo, record its page, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", default=["train.rounds=8"], help="of fedhello run")
    words = parser.parse_args().words
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as browsers:
        command = [sys.executable, "-m", "fedhello", "run", "--watch", "run.name=demo", *words]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            assert running.stdout is not None
            address = next(found[0] for line in running.stdout if (found := re.search(r"http://\S+", line)))
            browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.goto(address, wait_until="domcontentloaded")
            frames = recorded(page, running)
            browser.close()
    write(frames, OUT)
    print(f"{OUT}: {len(frames)} pictures, {OUT.stat().st_size / 1e6:.1f} MB, a run of {frames[-1][0]:.0f} s")


if __name__ == "__main__":
    main()
