"""The web application of recipes/serve.py. An upload stays in memory, and its name is never used as a path."""

import asyncio
import base64
import io
import json
import logging
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
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

PAGES = os.path.abspath(f"{__file__}/../../templates")
SMALL, SCANS = (
    65_536,
    100,
)  # bytes of an image worth no thread of its own; of a JPEG, as each takes time
BODIES, SECONDS = 8, 30  # all bodies may take BODIES * max_bytes of memory, and each SECONDS to arrive
FORM = {"type": "object", "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
STATUS = {FormParserError: 400, TimeoutError: 408, IngredientsError: 422, ClientDisconnect: 499}  # of these errors


class Service:
    """A predictor behind HTTP. options: those of recipes/serve.py."""

    def __init__(self, predictor, options):
        self.predictor, self.options, self.images, self.bytes = predictor, options, 0, 0  # of requests under way
        self.waiting, self.turn = {}, asyncio.Lock()  # future prediction -> Upload or input; who predicts
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
            found, small = asyncio.Future(), upload.getbuffer().nbytes <= SMALL
            self.waiting[found] = upload if small else await run(self.decoders, self.prepare, upload)
            async with self.turn:
                while not found.done():
                    await self.predict_batch()
        prediction = found.result()
        names = [name for name in request.query_params if f"_{name}" in prediction]
        maps = {name: await run(self.decoders, as_png, prediction[f"_{name}"]) for name in names}
        return {"name": str(upload)} | without_tensors(prediction) | maps

    async def predict_batch(self) -> None:
        """Predict what waits, after `delay` if more is on the way."""
        for _ in range(self.options.delay):
            if len(self.waiting) < min(self.images, self.options.batch_size):
                await asyncio.sleep(0.001)
        batch, run = list(self.waiting)[: self.options.batch_size], asyncio.get_running_loop().run_in_executor
        results = await run(self.forward, self.attempt, list(map(self.waiting.pop, batch)))
        for found, result in zip(batch, results, strict=True):
            (found.set_exception if isinstance(result, Exception) else found.set_result)(result)

    def prepare(self, upload: Upload) -> torch.Tensor:
        scans = upload.getvalue().count(b"\xff\xda") if upload.getvalue()[:2] == b"\xff\xd8" else 0
        refuse(scans > SCANS, 422, f"{upload}: a JPEG of more than {SCANS} scans")
        return self.predictor.prepare(self.predictor.read(upload)[0][1])

    def attempt(self, batch: list) -> list:
        """The prediction for each, or the error: of a batch that fails or has several shapes, each half on its own."""
        try:
            for i, given in enumerate(batch):
                batch[i] = self.prepare(given) if isinstance(given, Upload) else given
            return self.predictor(batch)
        except Exception as error:
            half = len(batch) // 2
            return self.attempt(batch[:half]) + self.attempt(batch[half:]) if half else [error]


def application():
    """The ASGI application; the environment variable SERVE has the options, as JSON."""
    options = SimpleNamespace(**json.loads(os.environ["SERVE"]))
    ingredients = parse(options.ingredients, (), declared_paths(), [check_sections])
    torch.set_num_threads(max(1, processors() // options.workers - 1))  # one for decoding and answering
    predictor = open_predictor(options.run or None, ingredients, options.overrides, top=5)
    if reads := carried(predictor.task, "READS"):
        raise IngredientsError(
            f"{predictor.facts['task']} reads {reads}, recipes.serve takes images; see recipes.predict"
        )
    service, app = Service(predictor, options), FastAPI(title="Predictions", docs_url=None, redoc_url=None)
    for error, status in STATUS.items():
        app.add_exception_handler(error, lambda _, error, status=status: JSONResponse({"detail": str(error)}, status))
    app.get("/", include_in_schema=False)(lambda: FileResponse(f"{PAGES}/serve.html"))
    app.get("/docs", include_in_schema=False)(lambda: FileResponse(f"{PAGES}/serve-docs.html"))
    app.get("/health", name="health")(lambda: {"alive": True})
    app.get("/info", name="info")(lambda: predictor.facts | {"limits": vars(options)})
    app.get("/ready", name="ready")(lambda: refuse(service.images >= options.queue, 503, "busy") or {"ready": True})
    body = {"content": {"multipart/form-data": {"schema": FORM}, "image/*": {}}}
    app.post("/predict", openapi_extra={"requestBody": body})(service.predict)
    return logged(app)


def logged(app):
    """`app` that writes a line a request, as its answer begins."""

    async def call(scope, receive, send):
        started = time.perf_counter()

        async def watched(message):
            if "status" in message:
                said = scope["method"], shortened(escaped(scope["path"])), message["status"]
                said += 1000 * (time.perf_counter() - started), scope.get("images", 0)
                logging.getLogger("uvicorn.error").info("%s %s %d %.0f ms %d images", *said)
            await send(message)

        await asyncio.sleep(0)  # if no HTTP follows the headers, uvicorn answers first
        await app(scope, receive, watched)

    return call


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The images in the body of a request."""
    kind, given = parse_options_header(request.headers.get("content-type"))
    if kind.startswith(b"image/"):
        return [Upload("image", await request.body())]
    refuse(kind != b"multipart/form-data", 415, "expected multipart/form-data, or an image and its type")
    files, ends, kept = [], [], {"MAX_MEMORY_FILE_SIZE": float("inf")}  # larger ones would go to the disk
    parser = FormParser(kind.decode(), None, files.append, lambda: ends.append(1), given.get(b"boundary"), config=kept)
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
    images = (pixels + 0.5).to("cpu", torch.uint8).reshape(-1, *pixels.shape[-2:]).numpy()
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file, "PNG")
    return [base64.b64encode(file.getvalue()).decode() for file in files]
