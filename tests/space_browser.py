"""
An app of a Space in a process of its own, and a headless browser that looks at it.

    python tests/space_browser.py runs/emoji_styles/aligned/space docs/images/space.png

draws the picture in the documentation.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]


@contextmanager
def running(space: Path, home: Path) -> Iterator[str]:
    """The address of the app, started as its README says in an environment that holds nothing of ours."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home / "gradio")}
    with (home / "app.log").open("w") as log:
        process = subprocess.Popen([sys.executable, space / "app.py"], cwd=home, env=env, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                httpx2.get(f"http://127.0.0.1:{port}/", timeout=5).raise_for_status()
                break
            except httpx2.HTTPError:
                assert process.poll() is None, (home / "app.log").read_text()[-3000:]
                time.sleep(0.25)
        else:
            raise AssertionError("the app did not start: " + (home / "app.log").read_text()[-3000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def browser_page(**options):
    """A page of a headless Chromium, and the addresses outside this machine that it has asked for."""
    from playwright.sync_api import sync_playwright

    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        if executable is None and not Path(playwright.chromium.executable_path).is_file():
            raise AssertionError(f"No browser was found: none of {', '.join(BROWSERS)}. `make browser` installs one.")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page, outside = browser.new_page(**options), []

        def route(request):
            if request.request.url.startswith("http://127.0.0.1:"):
                return request.continue_()
            outside.append(request.request.url)
            return request.abort()

        page.route("**/*", route)
        try:
            yield page, outside
        finally:
            browser.close()


def draw(space: Path, picture: Path, home: Path) -> None:
    with running(space, home) as address, browser_page(viewport={"width": 1180, "height": 1060}) as (page, _):
        page.goto(address)
        page.locator("#captions", has_text="wheelchair").wait_for()
        page.locator("#names textarea").fill("wheelchair\nbicycle\nmusical instrument\nsomething to eat\na face")
        page.get_by_role("button", name="Classify by these names").click()
        page.locator("#named", has_text="wheelchair").wait_for()
        time.sleep(1)  # bars grow
        page.screenshot(path=picture)
    image = Image.open(picture).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        draw(Path(sys.argv[1]), Path(sys.argv[2]), Path(home))
