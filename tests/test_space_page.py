"""The page of a Space in a real browser, and what its server gives away."""

import contextlib
from pathlib import Path

import httpx2
import pytest
from space_browser import browser_page, running
from trained_emoji import train_emoji

from g4i_hf.hub import release_student
from g4i_hf.hub.space import build_space
from g4i_hf.hub.space_app import Explainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The app of an Emoji Styles student, trained for three epochs."""
    folder = tmp_path_factory.mktemp("trained")
    run = train_emoji(folder)
    with contextlib.chdir(folder):  # where the embeddings are
        return build_space(run, release_student(run), run / "space")


@pytest.mark.slow
def test_the_page_explains_uploaded_pictures_and_classifies_by_names(trained, tmp_path):
    explainer = Explainer(trained, device="cpu")
    gallery = sorted((trained / "gallery").iterdir())
    with (
        running(trained, tmp_path) as address,
        browser_page(viewport={"width": 1200, "height": 1100}) as (page, outside),
    ):
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        classify = page.get_by_role("button", name="Classify by these names")

        def shown(path: Path) -> None:
            """Waits for what the functions say of a picture."""
            classes, captions = explainer.look(str(path))
            page.locator("#classes h2", has_text=max(classes, key=classes.get)).wait_for()
            page.locator("#captions", has_text=captions[0][1]).wait_for()
            assert f"{max(classes.values()):.0%}" in page.locator("#classes").inner_text()
            for score, caption in captions:
                assert score in page.locator("#captions").inner_text()
                assert caption in page.locator("#captions").inner_text()

        shown(gallery[0])  # there is an answer at once
        first = page.locator("#captions").inner_text()
        # 1. A picture of one's own: the one before goes, and with it what was said of it
        page.get_by_role("button", name="Remove Image").click()
        page.locator("#classes h2").wait_for(state="detached")
        classify.click()
        page.get_by_text("There is no picture yet").wait_for()
        page.locator("#picture input[type=file]").set_input_files(gallery[3])
        shown(gallery[3])
        assert page.locator("#captions").inner_text() != first
        # 2. Classes by their names
        page.locator("#names textarea").fill("sandwich\n<b>wheelchair</b>\nguitar")
        classify.click()
        page.locator("#named", has_text="<b>wheelchair</b>").wait_for()  # text, not markup
        named = explainer.by_names(str(gallery[3]), "sandwich\n<b>wheelchair</b>\nguitar")
        assert page.locator("#named h2").inner_text() == max(named, key=named.get)
        before = page.locator("#named").inner_text()
        # 3. A picture of the gallery: classes, captions and names change with it
        page.locator("button.gallery-item").nth(0).click()
        shown(gallery[0])
        page.wait_for_function("before => document.querySelector('#named').innerText != before", arg=before)
        # 4. What a visitor does wrong
        page.locator("#names textarea").fill(" \n ")
        classify.click()
        page.get_by_text("There are no names yet").wait_for()
        page.locator("#names textarea").fill("\n".join(map(str, range(300))))
        classify.click()
        page.get_by_text("These are 300 names: 200 at most").wait_for()
        (tmp_path / "broken.png").write_text("no picture")
        page.get_by_role("button", name="Remove Image").click()
        page.locator("#picture input[type=file]").set_input_files(tmp_path / "broken.png")
        page.get_by_text("This file cannot be read as a picture").wait_for()
        assert outside == [] and errors == []


@pytest.mark.slow
def test_the_app_serves_no_file_but_what_it_shows(trained, tmp_path):
    payload = {"meta": {"_type": "gradio.FileData"}}
    own = next((trained / "gallery").iterdir())

    def answer(path: str) -> str:
        called = client.post("/gradio_api/call/by_names", json={"data": [payload | {"path": path}, "cat\ndog"]})
        return client.get(f"/gradio_api/call/by_names/{called.json()['event_id']}").text

    with running(trained, tmp_path) as address, httpx2.Client(base_url=address, timeout=60) as client:
        sent = client.post("/gradio_api/upload", files={"files": ("a.png", own.read_bytes(), "image/png")})
        assert "event: complete" in answer(sent.json()[0])  # this is how it works, and
        for path in (
            str(own),
            str(trained / "app.py"),
            "/etc/passwd",
            "../../etc/passwd",
            f"{sent.json()[0]}/../../..",
        ):
            assert "event: error" in answer(path), path
            got = client.get(f"/gradio_api/file={path}")
            assert got.status_code in (403, 404), path
        large = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(11_000_000), "image/png")})
        assert large.status_code == 413
        listening = (Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else "").splitlines()
        port = f":{int(address.rsplit(':', 1)[1]):04X}"
        bound = {line.split()[1] for line in listening if line.split()[1].endswith(port) and line.split()[3] == "0A"}
        assert bound <= {"0100007F" + port}  # 127.0.0.1
