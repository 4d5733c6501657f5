"""recipes.serve: what it answers, to bad uploads too. A real server under load and its end: test_serve_load.py."""

import asyncio
import base64
import io
import json
import shutil
from pathlib import Path

import httpx
import numpy
import pytest
import torch
import uploads
from core import IngredientsError
from PIL import Image
from recipes import serve


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first test leaves what it trained."""
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def opened(train, kept, monkeypatch):
    """opened(changes of the options) -> ask(method, path, ...) -> response, of a server with a tiny model."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # restored after the test
    if not kept.exists():
        shutil.copytree(train(), kept)
    runner = asyncio.Runner()

    def open_server(**changes):
        options = {name: default for name, (default, _) in serve.OPTIONS.items()} | {"overrides": []}
        options |= {"run": str(kept), "ingredients": str(kept / "ingredients.ini")} | changes
        monkeypatch.setenv("SERVE", json.dumps(options))
        from recipes.parts.service import application

        app = application()

        async def request(method, path, **options):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
                return await client.request(method, path, **options)

        async def requests(*several):
            return await asyncio.gather(*(request("POST", "/predict", **options) for options in several))

        ask = lambda *arguments, **options: runner.run(request(*arguments, **options))  # noqa: E731
        ask.app, ask.run = app, runner.run
        ask.together = lambda *several: runner.run(requests(*several))
        return ask

    with runner:
        yield open_server


def raw(data: bytes) -> dict:
    return {"content": data, "headers": uploads.PNG}


def test_it_answers(opened, archive, caplog):
    """Several images in a form, and several requests at once, are answered as one by one."""
    ask, images = (
        opened(batch_size=4),
        list(map(Path.read_bytes, sorted(Path(archive.parent).rglob("testing/*/*.png")))),
    )
    caplog.set_level("INFO", "uvicorn.error")
    alone = [ask("POST", "/predict", **raw(image)).json()[0] for image in images]
    assert alone[0].keys() == {"name", "class", "probability", "top"} and len({one["class"] for one in alone}) > 1
    in_form = ask("POST", "/predict", files=[("any", (f"../../{i}.png", image)) for i, image in enumerate(images)])
    at_once = ask.together(*map(raw, images))
    for one, other, (third,) in zip(alone, in_form.json(), map(httpx.Response.json, at_once), strict=True):
        assert one["class"] == other["class"] == third["class"]
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-6)
        assert one["probability"] == pytest.approx(third["probability"], abs=2e-6)
    assert [answer["name"] for answer in in_form.json()] == [f"../../{i}.png" for i in range(len(images))]
    assert not list(Path("../..").glob("*.png")), "a name is no path"
    assert ask("GET", "/ready").json() == {"ready": True} and ask("GET", "/health").json() == {"alive": True}
    info = ask("GET", "/info").json()
    assert info["classes"] == ["class-0", "class-1", "class-2"] and info["limits"]["batch_size"] == 4
    assert "multipart/form-data" in str(ask("GET", "/openapi.json").json()["paths"]["/predict"])
    assert "Drop images" in ask("GET", "/").text and "://" not in ask("GET", "/docs").text
    assert ask("GET", "/x%1b%0ay").status_code == 404 and ask("GET", "/predict").status_code == 405
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.error"]
    assert len(lines) == 2 * len(images) + 9 and all(map(str.isprintable, lines))
    assert lines[len(images)].startswith("POST /predict 200 ") and lines[len(images)].endswith(
        f"ms {len(images)} images"
    )


async def in_chunks(data):
    yield data


def test_limits(opened):
    ask, image = opened(max_bytes=8000, max_images=2, max_pixels=100, queue=3), uploads.GOOD
    several = lambda count: {"files": [("image", ("a.png", image))] * count}  # noqa: E731
    photo = uploads.image("RGB", (8, 8), "JPEG")
    many = photo[:-2] + photo[photo.rindex(b"\xff\xda") : -2] * 100  # each scan takes time for all pixels
    assert ask("POST", "/predict", **several(2)).status_code == 200
    answers = [ask("POST", "/predict", **raw(image + b"\0" * 8000)), ask("POST", "/predict", **several(3))]
    answers += [ask("POST", "/predict", **raw(uploads.image(size=(11, 11))))]
    answers += [ask("POST", "/predict", content=in_chunks(image), headers=uploads.PNG)]
    answers += [ask("POST", "/predict", **raw(many))]
    assert [answer.status_code for answer in answers] == [413, 413, 422, 411, 422]
    said = ["more than 8,000 bytes", "more than 2 images", "121 pixels", "Content-Length is missing", "100 scans"]
    assert [text in answer.json()["detail"] for text, answer in zip(said, answers, strict=True)] == [True] * 5
    answers = ask.together(*[several(2)] * 3)
    assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
    assert {answer.headers.get("Retry-After") for answer in answers} == {None, "1"}
    assert ask("POST", "/predict", **several(2)).status_code == 200, "what was refused holds no place"


def test_bad_uploads(opened, tmp_path, capfd):
    """Each is refused or answered, without an error of the server; test_serve_load.py has larger ones."""
    ask, files = opened(), sorted(tmp_path.rglob("*"))
    for name, (headers, body) in uploads.cases(large=False).items():
        answer = ask("POST", "/predict", content=body, headers=headers)
        assert answer.status_code in (200, 400, 411, 413, 415, 422), (name, answer)
    assert sorted(tmp_path.rglob("*")) == files and "Traceback" not in capfd.readouterr().err


def test_one_that_fails_takes_no_other_with_it(opened, monkeypatch):
    from recipes.parts import predictor

    plain = predictor.Predictor.__call__

    def failing(self, inputs):
        if any(sample.mean() > 0.9 for sample in inputs):
            raise ValueError("white")
        return [{"_mask": torch.arange(6).reshape(2, 3), **found} for found in plain(self, inputs)]

    monkeypatch.setattr(predictor.Predictor, "__call__", failing)
    ask, white = opened(), uploads.image("1", (8, 8))
    file = io.BytesIO()
    Image.new("L", (8, 8), "white").save(file, "PNG")
    answers = ask.together(raw(white), raw(file.getvalue()), raw(white))
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert "_mask" not in answers[0].text and "white" not in answers[1].text
    [png] = ask("POST", "/predict?mask=true", **raw(white)).json()[0]["mask"]
    assert numpy.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_client_that_is_gone(opened, monkeypatch):
    """Its image is dropped while it waits for a place."""
    from recipes.parts import predictor

    counted, plain = [], predictor.Predictor.__call__
    monkeypatch.setattr(
        predictor.Predictor, "__call__", lambda self, inputs: (counted.extend(inputs), plain(self, inputs))[1]
    )
    ask, statuses = opened(batch_size=1), []
    counted.clear()

    async def leave(number):
        messages = [{"type": "http.request", "body": uploads.GOOD, "more_body": False}, {"type": "http.disconnect"}]
        length = str(len(uploads.GOOD)).encode()
        headers = [(b"content-type", b"image/png"), (b"content-length", length)]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}

        async def receive():
            return messages.pop(0)

        async def send(message):
            statuses.append(message.get("status"))

        await ask.app(scope, receive, send)

    async def all_leave():
        await asyncio.gather(*map(leave, range(5)))

    ask.run(all_leave())
    assert sorted(filter(None, statuses)) == [200, 200, 499, 499, 499] and len(counted) == 2


def test_what_it_does_not_serve(opened, kept, monkeypatch, capsys):
    from recipes import classification

    monkeypatch.setattr(classification, "READS", "texts", raising=False)
    with pytest.raises(IngredientsError, match="classification reads texts, recipes.serve takes images"):
        opened()
    for argv, said in ((["--queue", "0"], "--queue must be at least 1"), (["--port", "x"], "invalid int value: 'x'")):
        monkeypatch.setattr("sys.argv", ["serve", *argv, "--ingredients", str(kept / "ingredients.ini")])
        with pytest.raises(SystemExit) as left:
            serve.main()
        assert left.value.code == 2 and said in capsys.readouterr().err
