"""
Screenshots of pages, wide and narrow, light and dark, to look at before a release; needs Chromium (`make browser`).

    make docs
    python docs/screenshots.py OUT site/index.html site/quickstart/index.html runs/photos_demo/report.html

A page of `g4i label` is an address: http://127.0.0.1:PORT/?token=...
"""

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from browser import browser_page  # noqa: E402

WIDTHS = {"wide": 1280, "narrow": 390}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


def take(out: Path, pages: list[str]) -> None:
    """A PNG of each page, `NAME-WIDTH-SCHEME.png`; files are served from the current folder."""
    out.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="."))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for scheme in ("light", "dark"):
        with browser_page(color_scheme=scheme) as (shown, _):
            for page in pages:
                address = page if "://" in page else f"http://127.0.0.1:{server.server_port}/{page}"
                name = "label" if "://" in page else "-".join(Path(page).with_suffix("").parts[-2:])
                for width, pixels in WIDTHS.items():
                    shown.set_viewport_size({"width": pixels, "height": 900})
                    shown.goto(address)
                    shown.screenshot(path=out / f"{name}-{width}-{scheme}.png")
                    overflow = shown.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    print(f"{name} {width} {scheme}" + (f": {overflow} px too wide" if overflow > 0 else ""))
    server.shutdown()


if __name__ == "__main__":
    take(Path(sys.argv[1]), sys.argv[2:])
