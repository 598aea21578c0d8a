"""A headless Chromium, for tests of pages as a reader sees them. `make browser` installs one."""

import shutil
from contextlib import contextmanager
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]


@contextmanager
def browser_page(**options):
    """A page of the browser, and the addresses outside this machine that it has requested."""
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
