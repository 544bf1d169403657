"""Record the page of a running federation as an animated picture: ``make recording``.

It starts ``fedhello run --watch``, opens the page in a headless Chromium (Debian's ``chromium``), takes a picture
whenever the page has changed, and scrolls through it once the run has ended. Nothing is staged: pauses are as long as
they were, up to ``LONGEST``. The head is trained (``model.head=aggregate``), so that all that is learned is learned in
rounds; the demo as it is solves the head first, and starts higher than this one ends.
"""

import argparse
import io
import itertools
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
SIZE = {"width": 1180, "height": 1180}
SHOWN = 800
"""Width of the picture in pixels."""
EVERY, LONGEST, LAST = 0.7, 1.5, 3.0
"""Seconds between two looks at the page, the most that a picture stays, and how long the last one stays."""
COLOURS = 128
SCROLLED = (700, 1400, 2100, 2800, 3500)
"""Where the page is shown once the run has ended, in pixels from the top."""

Frames = list[tuple[float, bytes]]
"""(second, PNG) of each change of a page."""


def recorded(page: Page, running: "subprocess.Popen[str]") -> Frames:
    """Return the changes of a page until its run has ended, and the rest of the page."""
    frames: Frames = []
    begun = time.monotonic()

    def look() -> None:
        shot = page.screenshot(animations="disabled")
        if not frames or shot != frames[-1][1]:
            frames.append((time.monotonic() - begun, shot))

    while running.poll() is None:
        look()
        time.sleep(EVERY)
    for top in (0, *SCROLLED):
        page.evaluate(f"scrollTo(0, {top})")
        page.wait_for_timeout(1500)  # what comes into sight is drawn
        look()
    return frames


def write(frames: Frames, out: Path) -> None:
    """Write pictures as one animated GIF with few colours."""
    pictures = []
    for _, shot in frames:
        picture = Image.open(io.BytesIO(shot)).convert("RGB")
        small = picture.resize((SHOWN, round(SHOWN * picture.height / picture.width)), Image.Resampling.LANCZOS)
        pictures.append(small.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    stays = [min(b - a, LONGEST) for (a, _), (b, _) in itertools.pairwise(frames)]
    lasting = [round(1000 * one) for one in (*stays, LAST)]
    out.parent.mkdir(exist_ok=True)
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=lasting, loop=0, optimize=True)


def main() -> None:
    """Run a federation, record its page, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", default=["model.head=aggregate", "train.rounds=12"], help="of fedhello run")
    words = parser.parse_args().words
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as browsers:
        command = [sys.executable, "-m", "fedhello", "run", "--watch", "run.name=demo", *words]
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, cwd=folder, **piped) as running:
            address = next(found[0] for line in running.stdout if (found := re.search(r"http://\S+", line)))
            browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.goto(address, wait_until="domcontentloaded")
            frames = recorded(page, running)
            browser.close()
    write(frames, OUT)
    print(f"{OUT}: {len(frames)} pictures, {OUT.stat().st_size / 1e6:.1f} MB, {frames[-1][0]:.0f} s")


if __name__ == "__main__":
    main()
