# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1", "fastapi",
#                 "python-multipart", "uvicorn", "litserve"]
# ///
"""Requests per second of recipes.serve, beside a FastAPI endpoint without batches and LitServe, with one model.

    uv run benchmarks/serving.py PROJECT [ROUNDS] [CLIENTS] [REQUESTS]

PROJECT: a rendered project of digits in which a model was trained. The endpoint is what people write: a function that
decodes the file of a form, predicts and answers, in FastAPI's threads. LitServe batches as many images, as long. All
three read, preprocess and predict by recipes/parts/predictor.py. CLIENTS connections send REQUESTS in all, a PNG in a
multipart form each; rounds are interleaved, and the table holds medians. "health p99" is that of GET /health, asked by
another process every 10 ms meanwhile; memory is that of the server after its first round and after its last.
OMP_NUM_THREADS=1 keeps the endpoint's threads from getting in each other's way. How much batches bring depends on the
network: mobilenet_v3_small takes a quarter of the time for an image in a batch, small_cnn less time than HTTP does.
"""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

CONTENDERS = ("recipes.serve", "unbatched", "LitServe")
BATCH, DELAY = 16, 5  # images, milliseconds: the defaults of recipes.serve
BOUNDARY = "e5f0c1"  # of the parts of a form


# ------------------------------------------------------------------------------------------------------------- servers


def open_model(project: str):
    sys.path.insert(0, project)
    os.chdir(project)
    from core import parse
    from recipes.parts import predictor
    from recipes.settings import check_sections, declared_paths

    ingredients = parse("ingredients.ini", (), declared_paths(), [check_sections])
    return predictor.open_predictor(None, ingredients, top=5), predictor.Upload


def serve_unbatched(project: str, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI, UploadFile

    predictor, Upload = open_model(project)
    app = FastAPI()

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    @app.post("/predict")
    def predict(image: UploadFile):
        [(_, sample)] = predictor.read(Upload(image.filename, image.file.read()))
        return predictor([predictor.prepare(sample)])

    uvicorn.run(app, port=port, log_level="warning")


if "LitServe" in sys.argv:  # its workers import this file again
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device):
            self.predictor, self.Upload = open_model(sys.argv[3])

        def decode_request(self, request):
            image = request["image"]
            [(_, sample)] = self.predictor.read(self.Upload(image.filename, image.file.read()))
            return self.predictor.prepare(sample)

        def batch(self, inputs):
            return inputs

        def predict(self, inputs):
            return self.predictor(inputs)

        def unbatch(self, output):
            return output

        def encode_response(self, output):
            return [output]


def serve_litserve(project: str, port: int) -> None:
    api = Api(max_batch_size=BATCH, batch_timeout=DELAY / 1000)
    litserve.LitServer(api, accelerator="cpu").run(port=port, log_level="warning", generate_client_file=False)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], folder: Path | str, port: int, **options):
    """A server, from its first answer until SIGTERM; what it printed is a list of lines, `.output`."""
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0, **options
    )
    server.output = []
    reader = threading.Thread(target=lambda: server.output.extend(server.stdout), daemon=True)
    reader.start()
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(port, "GET", "/health")[0] == 200:
                    break
            if server.poll() is not None:
                reader.join()
                raise SystemExit("".join(server.output))
            time.sleep(0.1)
        yield server
    finally:
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(server.pid, number)
                    server.wait(30)
        finally:
            reader.join(5)
            server.stdout.close()


def serving(name: str, project: str, port: int):
    command = [sys.executable, __file__, "--serve", name, project, str(port)]
    if name == "recipes.serve":
        command = [sys.executable, "-m", "recipes.serve", "--port", str(port)]
    return running(command, project, port)


def memory_of(pid: int) -> float:
    """Resident megabytes of a process and those that it started."""
    total, parents = 0, {pid}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            if int(folder.name) in parents or int(status["PPid"]) in parents:
                parents.add(int(folder.name))
                total += int(status.get("VmRSS", "0").split()[0])
    return total / 1000


# -------------------------------------------------------------------------------------------------------------- client


def ask(port: int, method: str, path: str, body: bytes | None = None, headers=None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def form(image: bytes, name: str = "image.png") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    return f"{head}Content-Type: image/png\r\n\r\n".encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def request_of(image: bytes) -> bytes:
    body = form(image)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def client(port: int, requests) -> list[tuple[int, int, bytes]]:
    """(number, status, body) of the answers; `requests`: an iterator of (number, request) that clients share."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for number, request in requests:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        answers.append((number, int(head.split()[1]), await reader.readexactly(length)))
        if b"connection: close" in head:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return answers


async def load(port: int, images: list[bytes], clients: int, count: int) -> tuple[float, list]:
    """(seconds, (number, status, body) of each answer): request i sends image i, modulo how many there are."""
    ready = list(map(request_of, images))
    requests = iter([(number, ready[number % len(ready)]) for number in range(count)])
    started = time.perf_counter()
    answers = await asyncio.gather(*(client(port, requests) for _ in range(clients)))
    return time.perf_counter() - started, sorted(answer for each in answers for answer in each)


def poll_health(port: int) -> None:
    """Print the milliseconds that each GET /health takes, until the standard input is closed."""
    connection, taken = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    import select

    while not select.select([sys.stdin], [], [], 0.01)[0]:
        started = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        taken.append(1000 * (time.perf_counter() - started))
    print(json.dumps(taken))


@contextlib.contextmanager
def polled(port: int):
    """A list that holds, after the block, the milliseconds of each GET /health that was asked meanwhile."""
    command, taken = [sys.executable, __file__, "--health", str(port)], []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as poller:
        yield taken
        taken += json.loads(poller.communicate()[0])


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def main(project: str, rounds: int = 5, clients: int = 64, count: int = 2000) -> None:
    images = [path.read_bytes() for path in sorted(Path(project, "data/digits/testing").glob("*/*.png"))]
    rates, health, memory, seen = ({name: [] for name in CONTENDERS} for _ in range(4))
    with contextlib.ExitStack() as stack:
        ports = {name: free_port() for name in CONTENDERS}
        servers = {name: stack.enter_context(serving(name, project, ports[name])) for name in CONTENDERS}
        for turn in range(rounds + 1):  # the first one warms up
            for name in CONTENDERS[turn % 3 :] + CONTENDERS[: turn % 3]:
                with polled(ports[name]) as taken:
                    seconds, answers = asyncio.run(load(ports[name], images, clients, count))
                memory[name].append(memory_of(servers[name].pid))
                seen[name] += [status for _, status, _ in answers]
                if turn:
                    rates[name].append(count / seconds)
                    health[name] += taken
    ratios = {name: [a / b for a, b in zip(rates[name], rates["unbatched"], strict=True)] for name in CONTENDERS}
    print(f"{clients} clients, {count:,} requests a round, {rounds} rounds")
    print(f"{'':<14} requests/s  ratio  health p99   memory        answers")
    for name in CONTENDERS:
        counted = {status: seen[name].count(status) for status in sorted(set(seen[name]))}
        print(
            f"{name:<14} {statistics.median(rates[name]):10.0f} {statistics.median(ratios[name]):6.2f}"
            f" {p99(health[name]):8.0f} ms {memory[name][0]:5.0f} -> {memory[name][-1]:.0f} MB  {counted}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        {"unbatched": serve_unbatched, "LitServe": serve_litserve}[sys.argv[2]](sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2] == ["--health"]:
        poll_health(int(sys.argv[2]))
    elif len(sys.argv) < 2:
        raise SystemExit(__doc__)
    else:
        main(sys.argv[1], *map(int, sys.argv[2:]))
