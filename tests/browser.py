"""A page seen in Chromium: how wide it is, what reaches out of it, what its console says."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

CHROMIUM = shutil.which("chromium")
DESKTOP, PHONE = 1280, 390
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")

# A page may forbid scripts, so another page looks into it; browsers allow that of files only when told. What lies in a
# box that scrolls or cuts does not reach out of the page, and neither does what lies beside it, as a closed drawer.
FRAME = """<!doctype html><style>*{{margin:0;border:0}}</style>
<iframe id=f src="{page}" style="width:{width}px;height:3000px"></iframe><pre id=o></pre><script>
f.onload = () => setTimeout(() => {{
  const doc = f.contentDocument.documentElement
  const cuts = e => /auto|scroll|hidden/.test(f.contentWindow.getComputedStyle(e).overflowX)
  const held = e => e && e !== doc && (cuts(e) || held(e.parentElement))
  const reaches = box => box.width && box.left < {width} && box.right > {width} + 1
  const out = [...doc.querySelectorAll('*')].filter(e => reaches(e.getBoundingClientRect()) && !held(e.parentElement))
  o.textContent = `width ${{doc.scrollWidth}} outside ${{out.length}} images ${{f.contentDocument.images.length}}`
}}, 1000)
</script>"""


class Seen(NamedTuple):
    """Width of the content, elements that reach out of the page, images, and what the console said."""

    content: int
    outside: int
    images: int
    console: list[str]


def seen(folder: Path, page: Path, width: int) -> Seen:
    """A page at a width; `folder` is for what the browser needs."""
    frame = folder / f"frame-{width}.html"
    frame.write_text(FRAME.format(page=page.absolute().as_uri(), width=width))
    flags = [*FLAGS, "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--virtual-time-budget=8000", f"--window-size={width},3000"]
    done = _browser(*flags, "--dump-dom", frame.as_uri())
    found = re.search(r"width (\d+) outside (\d+) images (\d+)", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return Seen(*map(int, found.groups()), console(done.stderr))


def dom(address: str) -> str:
    """The page as a browser has it after its scripts; fails on anything that its console says."""
    done = _browser(*FLAGS, "--virtual-time-budget=10000", f"--window-size={DESKTOP},900", "--dump-dom", address)
    assert console(done.stderr) == []
    return done.stdout


def console(said: str) -> list[str]:
    """The lines of a browser's output that a page's console wrote."""
    return [line for line in said.splitlines() if "CONSOLE" in line]


def _browser(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(CHROMIUM), *flags], capture_output=True, text=True, timeout=600, check=True)
