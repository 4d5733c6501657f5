"""The web application of recipes/serve.py: the images of several requests are predicted together.

An upload stays in memory, and its name is never used as a path.
"""

import asyncio
import base64
import io
import json
import logging
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header
from starlette.requests import ClientDisconnect

from core import IngredientsError, parse
from core.errors import escaped, shortened
from pantry.images import processors
from recipes.parts.calling import carried
from recipes.parts.predictor import Upload, open_predictor, without_tensors
from recipes.settings import check_sections, declared_paths

PAGE = Path(__file__).resolve().parents[1] / "templates" / "serve.html"
BODIES, SECONDS = 8, 30  # all bodies may take BODIES * max_bytes of memory, and each SECONDS to arrive
FORM = {"type": "object", "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
STATUS = {FormParserError: 400, TimeoutError: 408, IngredientsError: 422, ClientDisconnect: 499}  # of these errors


class Service:
    """A predictor behind HTTP. options: those of recipes/serve.py."""

    def __init__(self, predictor, options):
        self.predictor, self.options = predictor, options
        self.images, self.bytes = 0, 0  # of the requests under way
        self.waiting, self.turn = {}, asyncio.Lock()  # future prediction -> input; who predicts
        self.room = asyncio.Semaphore(2 * options.batch_size)  # for decoded images
        self.decoders, self.forward = ThreadPoolExecutor(processors()), ThreadPoolExecutor(1)
        Image.MAX_IMAGE_PIXELS = options.max_pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # refused when opened, whoever opens it
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the answer says it
        predictor([torch.zeros(predictor.facts["shape"])])  # the first is slow

    async def predict(self, request: Request):
        """The prediction for each image. ?NAME=true adds maps over the image, as PNG in base64, where there are any."""
        size, limits, uploads = int(request.headers.get("content-length", -1)), self.options, []
        refuse(size < 0, 411, "Content-Length is missing")
        refuse(size > limits.max_bytes, 413, f"more than {limits.max_bytes:,} bytes")
        refuse(self.images >= limits.queue or self.bytes + size > BODIES * limits.max_bytes, 503, "busy")
        self.bytes += size
        try:
            async with asyncio.timeout(SECONDS):
                uploads = await read_uploads(request, limits.max_images)
            request.scope["images"] = len(uploads)
            self.images += len(uploads)
            refuse(self.images > limits.queue, 503, "busy")
            return JSONResponse(await asyncio.gather(*(self.answer(request, upload) for upload in uploads)))
        finally:
            self.bytes, self.images = self.bytes - size, self.images - len(uploads)

    async def answer(self, request: Request, upload: Upload) -> dict:
        """The prediction for one image."""
        run, crowded = asyncio.get_running_loop().run_in_executor, self.room.locked()
        async with self.room:
            if crowded and await request.is_disconnected():
                raise ClientDisconnect
            inputs = await run(self.decoders, lambda: self.predictor.prepare(self.predictor.read(upload)[0][1]))
            self.waiting[found := asyncio.Future()] = inputs
            async with self.turn:
                while not found.done():
                    await self.predict_batch()
        prediction = found.result()
        names = [name for name in request.query_params if f"_{name}" in prediction]
        maps = {name: await run(self.decoders, as_png, prediction[f"_{name}"]) for name in names}
        return {"name": str(upload)} | without_tensors(prediction) | maps

    async def predict_batch(self) -> None:
        """Predict inputs of one shape, after `delay` if more are on the way."""
        for _ in range(self.options.delay):
            if len(self.waiting) >= min(self.images, self.options.batch_size):
                break
            await asyncio.sleep(0.001)
        shape = next(iter(self.waiting.values())).shape
        batch = [found for found, inputs in self.waiting.items() if inputs.shape == shape][: self.options.batch_size]
        inputs = [self.waiting.pop(found) for found in batch]
        results = await asyncio.get_running_loop().run_in_executor(self.forward, self.attempt, inputs)
        for found, result in zip(batch, results, strict=True):
            (found.set_exception if isinstance(result, Exception) else found.set_result)(result)

    def attempt(self, inputs: list[torch.Tensor]) -> list:
        """The prediction for each, or the error: one may be to blame for that of the batch."""
        try:
            return self.predictor(inputs)
        except Exception as error:
            return [error] if len(inputs) == 1 else [self.attempt([one])[0] for one in inputs]


def application():
    """The ASGI application; the environment variable SERVE has the options, as JSON."""
    options = SimpleNamespace(**json.loads(os.environ["SERVE"]))
    ingredients = parse(options.ingredients, (), declared_paths(), [check_sections])
    torch.set_num_threads(max(1, processors() // options.workers - 1))  # one for decoding and answering
    predictor = open_predictor(options.run or None, ingredients, options.overrides, top=5)
    if reads := carried(predictor.task, "READS"):
        task = predictor.facts["task"]
        raise IngredientsError(f"{task} reads {reads}, recipes.serve takes images; use python -m recipes.predict")
    service, app = Service(predictor, options), FastAPI(title="Predictions")
    for error, status in STATUS.items():
        answer = lambda request, error, status=status: JSONResponse({"detail": str(error)}, status)  # noqa: E731
        app.add_exception_handler(error, answer)
    app.get("/", include_in_schema=False)(lambda: FileResponse(PAGE))
    app.get("/health", name="health")(lambda: {"alive": True})
    app.get("/info", name="info")(lambda: predictor.facts | {"limits": vars(options)})
    app.get("/ready", name="ready")(lambda: refuse(service.images >= options.queue, 503, "busy") or {"ready": True})
    body = {"content": {"multipart/form-data": {"schema": FORM}}}
    app.post("/predict", openapi_extra={"requestBody": body})(service.predict)
    return logged(app)


def logged(app):
    """`app` that writes a line a request, as its answer begins."""

    async def call(scope, receive, send):
        started = time.perf_counter()

        async def watched(message):
            if "status" in message:
                path, milliseconds = shortened(escaped(scope["path"])), 1000 * (time.perf_counter() - started)
                line = f"{scope['method']} {path} {message['status']} {milliseconds:.0f} ms"
                logging.getLogger("uvicorn.error").info("%s %d images", line, scope.get("images", 0))
            await send(message)

        await asyncio.sleep(0)  # if no HTTP follows the headers, uvicorn answers first
        await app(scope, receive, watched)

    return call


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The images in the body of a request."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind.startswith(b"image/"):
        return [Upload("image", await request.body())]
    refuse(kind != b"multipart/form-data", 415, "expected multipart/form-data, or an image and its type")
    files, ends, in_memory = [], [], {"MAX_MEMORY_FILE_SIZE": float("inf")}  # larger ones would go to the disk
    end = lambda: ends.append(True)  # noqa: E731
    parser = FormParser(kind.decode(), None, files.append, end, options.get(b"boundary"), config=in_memory)
    async for chunk in request.stream():
        parser.write(chunk)
        refuse(len(files) > most, 413, f"more than {most} images")
    refuse(not ends or not files, 400, "there is no file in the form" if ends else "the form has no end")
    return [Upload(file.file_name.decode(errors="replace"), file.file_object.getvalue()) for file in files]


def refuse(is_so: bool, status: int, message: str) -> None:
    if is_so:
        raise HTTPException(status, message, {"Retry-After": "1"} if status == 503 else None)


def as_png(pixels: torch.Tensor) -> list[str]:
    """Maps over the image, (H, W) or (M, H, W), as PNG in base64."""
    pixels = pixels > 0.5 if pixels.is_floating_point() else pixels
    images = pixels.to("cpu", torch.uint8).reshape(-1, *pixels.shape[-2:])
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image.numpy()).save(file, "PNG")
    return [base64.b64encode(file.getvalue()).decode() for file in files]
