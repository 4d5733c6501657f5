"""The page of recipes.serve in a browser: images are dropped on it, and it shows what was found in them."""

import base64
import io
import json
import shutil
import threading
import time

import numpy
import pytest
import torch
import uvicorn
from PIL import Image
from recipes import serve
from recipes.parts import predictor

playwright = pytest.importorskip("playwright.sync_api")
DROP = """(files) => {
  const dropped = new DataTransfer();
  for (const [name, data] of files)
    dropped.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type: "image/png"}));
  document.getElementById("drop").dispatchEvent(
    new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""
PIXEL = "([x, y]) => [...document.querySelector('canvas').getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)]"
FOUND = {
    "objects": [{"class": "class-1", "score": 0.9, "box": [10, 8, 50, 40]}],
    "_masks": torch.nn.functional.pad(torch.ones(1, 20, 10), (40, 14, 20, 8)),  # 40 to 50, 20 to 40
}
MASK = torch.nn.functional.pad(torch.full((24, 64), 2), (0, 0, 24, 0))  # the lower half


@pytest.fixture
def page(train, monkeypatch):
    """The page of a server with a tiny model, `.url` its address; it asks nobody else, and the console stays empty."""
    chromium = shutil.which("chromium") or pytest.skip("there is no chromium")
    folder = train()
    options = {name: default for name, (default, _) in serve.OPTIONS.items()} | {"overrides": []}
    options |= {"run": str(folder), "ingredients": str(folder / "ingredients.ini")}
    monkeypatch.setenv("SERVE", json.dumps(options))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # restored after the test
    from recipes.parts.service import application

    server = uvicorn.Server(uvicorn.Config(application(), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    said, asked = [], []
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(url)
            page.wait_for_function("() => document.getElementById('facts').textContent")
            yield page
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
    said = [text for text in said if "422" not in text]  # Chromium tells of each
    assert said == [] and [address for address in asked if not address.startswith((url, "data:", "blob:"))] == []


def drop(page, count, *files):
    page.evaluate(DROP, [(name, base64.b64encode(data).decode()) for name, data in files])
    page.wait_for_function(f"() => document.querySelectorAll('.answer').length === {count}")
    page.wait_for_function(
        "() => document.querySelectorAll('.answer').length === document.querySelectorAll('canvas').length"
    )


def scene() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (40, 40, 40)).save(file, "PNG")
    return file.getvalue()


def test_a_dropped_image_is_classified(page, archive):
    files = [next((archive.parent / f"tiny/testing/class-{label}").glob("*.png")).read_bytes() for label in range(3)]
    drop(page, 3, *((f"<b>{label}.png", data) for label, data in enumerate(files)))
    assert page.locator(".name").all_inner_texts() == ["<b>2.png", "<b>1.png", "<b>0.png"]
    first = [answer.locator(".label").first.inner_text() for answer in page.locator(".answer").all()]
    assert first == ["class-2", "class-1", "class-0"]
    page.evaluate(DROP, [("page.html", base64.b64encode(b"<p>").decode())])
    page.wait_for_function(
        "() => document.getElementById('message').textContent.includes('page.html: this is no image')"
    )


def test_the_list_of_requests(page):
    """It needs no network: `page` sees to that."""
    page.goto(page.url + "docs")
    page.wait_for_function("() => document.querySelectorAll('h2').length === 4")
    assert "POST /predict" in page.locator("h2").all_inner_texts()
    assert "multipart/form-data or image/*" in page.inner_text("body")


def test_what_is_found_is_drawn(page, monkeypatch):
    """A box of the class's colour, in pixels of the image; then the map of classes over it."""
    monkeypatch.setattr(predictor.Predictor, "__call__", lambda self, inputs: [FOUND] * len(inputs))
    drop(page, 1, ("scene.png", scene()))
    assert page.locator(".row").all_inner_texts() == ["class-1\n90.0 %"]
    times, grey = page.evaluate("() => document.querySelector('canvas').width") / 64, [40, 40, 40]
    at = lambda x, y: page.evaluate(PIXEL, [x * times, y * times])  # noqa: E731
    edges = [at(10, 30), at(30, 40), at(50, 12)]
    assert edges[0] == edges[1] == edges[2] != grey and at(30, 20) == at(5, 5) == at(60, 44) == grey
    assert at(45, 30) not in (grey, edges[0]), "the object itself is tinted"
    shares = {"shares": {"class-0": 0.5, "class-2": 0.5}, "_mask": MASK}
    monkeypatch.setattr(predictor.Predictor, "__call__", lambda self, inputs: [shares] * len(inputs))
    drop(page, 2, ("scene.png", scene()))
    assert page.locator(".label").all_inner_texts() == ["class-0", "class-2", "class-1"]
    assert at(30, 10) == grey and numpy.abs(numpy.subtract(at(30, 40), grey)).max() > 40
