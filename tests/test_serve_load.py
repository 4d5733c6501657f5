"""recipes.serve as a process: under load, with uploads of hostile clients, and its end.

python -m pytest -m long tests/test_serve_load.py     LOAD=128000 sends 2,000 requests from each of 64 clients
"""

import asyncio
import http.client
import importlib.util
import json
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import uploads

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "{{cookiecutter.project_name}}"
spec = importlib.util.spec_from_file_location("serving", ROOT / "benchmarks" / "serving.py")
serving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(serving)

pytestmark = pytest.mark.long
REFUSED = {400, 404, 405, 408, 411, 413, 414, 415, 422, 431}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def start(train, kept):
    """start(options) -> a context with the server's process; `.port`."""
    if not kept.exists():
        shutil.copytree(train(), kept)

    def open_server(*options: str):
        port = serving.free_port()
        command = [sys.executable, "-m", "recipes.serve", "--port", str(port), "--run", str(kept)]
        command += ["--ingredients", str(kept / "ingredients.ini"), *options]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(kept.parent)}
        context = serving.running(command, PROJECT, port, env=environment)
        context.port = port
        return context

    return open_server


@pytest.fixture
def images(archive):
    return [path.read_bytes() for path in sorted(archive.parent.rglob("testing/*/*.png"))]


def same(one: list, other: list) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a["class"] == b["class"] and abs(a["probability"] - b["probability"]) < 1e-5 for a, b in pairs)


def test_load(start, images):
    """64 clients: answers as one by one, the process answers meanwhile, and its memory stays."""
    count = int(os.environ.get("LOAD", 2000))
    with (server := start()) as process:
        alone = [json.loads(serving.ask(server.port, "POST", "/predict", image, uploads.PNG)[1]) for image in images]
        asyncio.run(serving.load(server.port, images, 64, 500))
        before = serving.memory_of(process.pid)
        with serving.polled(server.port) as health:
            seconds, answers = asyncio.run(serving.load(server.port, images, 64, count))
        after = serving.memory_of(process.pid)
    statuses = [status for _, status, _ in answers]
    counted = {status: statuses.count(status) for status in set(statuses)}
    print(f"\n{count:,} requests of 64 clients: {counted}, {count / seconds:.0f} a second,", end=" ")
    print(f"health p99 {serving.p99(health):.0f} ms, memory {before:.0f} -> {after:.0f} MB")
    assert set(statuses) <= {200, 429, 503} and statuses.count(200) > count / 2
    assert all(same(json.loads(body), alone[i % len(images)]) for i, status, body in answers if status == 200)
    assert serving.p99(health) <= 200 and abs(after / before - 1) <= 0.05
    assert sum("POST /predict" in line for line in process.output) == 500 + count + len(images)


def exchange(port: int, *pieces: bytes, wait: float = 0) -> bytes:
    """What the server says to bytes that are sent as they are, until it closes or stays silent for two seconds."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.settimeout(2 + wait)
            while received := connection.recv(65536):
                answer += received
        except OSError:
            pass  # closed, or silent
    return answer


def hostile() -> dict[str, list[bytes]]:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    block, good = b"\0" * 1_000_000, uploads.GOOD
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "200 MB, as it says": [head + b"Content-Length: 200000000\r\n\r\n", *[block] * 200],
        "200 MB that says 100 bytes": [head + b"Content-Length: 100\r\n\r\n", *[block] * 200],
        "100 bytes that say 200 MB": [head + b"Content-Length: 200000000\r\n\r\n" + good],
        "100 bytes that say 10 MB": [head + b"Content-Length: 10000000\r\n\r\n" + good],
        "200 MB in chunks": [chunked, *[b"f4240\r\n" + block + b"\r\n"] * 200, b"0\r\n\r\n"],
        "chunks of no sense": [chunked, b"zz\r\n" + block],
        "two lengths": [head + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + good],
        "length and chunks": [head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        "a negative length": [head + b"Content-Length: -5\r\n\r\n"],
        "a length of 5,000 digits": [head + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"],
        "a header of 10 MB": [head + b"X-A: ", *[b"a" * 1_000_000] * 10, b"\r\n\r\n"],
        "100,000 headers": [head, *[b"X-A: b\r\n" * 1000] * 100, b"\r\n"],
        "a path of 1 MB": [b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n"],
        "a path above the root": [b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"],
        "a path of control characters": [b"GET /%1b[31m%0aINFO HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"],
        "no HTTP": [b"\x16\x03\x01" + bytes(range(256)) * 10],
        "a web socket": [b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"],
        "another method": [b"BREW /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"],
        "half a request line": [b"POST /pred"],
    }


def test_bad_uploads(start, kept):
    """No error of the server, no traceback, no file, and hardly any memory."""
    files, peak = sorted(kept.parent.rglob("*")), []
    with (server := start()) as process:
        serving.ask(server.port, "POST", "/predict", uploads.GOOD, uploads.PNG)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))  # a byte more in any file is an error
        before, stop = serving.memory_of(process.pid), threading.Event()

        def watch():
            while not stop.wait(0.02):
                peak.append(serving.memory_of(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        for name, (headers, body) in uploads.cases().items():
            status, said = serving.ask(server.port, "POST", "/predict", body, headers)
            assert status in REFUSED | {200}, (name, status, said)
        for name, pieces in hostile().items():
            answer = exchange(server.port, *pieces)
            assert not answer or int(answer.split()[1]) in REFUSED | {200}, (name, answer)
        slow = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 999\r\n\r\n"
        assert b" 408 " in exchange(server.port, slow, wait=35)
        time.sleep(0.5)
        stop.set()
        watcher.join()
        assert serving.ask(server.port, "POST", "/predict", uploads.GOOD, uploads.PNG)[0] == 200
        assert serving.ask(server.port, "GET", "/ready")[0] == 200
    count = len(uploads.cases()) + len(hostile()) + 1
    print(f"\n{count} uploads: memory {before:.0f} MB, at most {max(peak):.0f}, then {peak[-1]:.0f}")
    assert count >= 30 and max(peak) - before <= 300
    assert "Traceback" not in "".join(process.output) and all(line[:-1].isprintable() for line in process.output)
    assert sorted(kept.parent.rglob("*")) == files


def test_clients_that_leave(start, images):
    """Their images are dropped: the next one is answered at once."""
    with (server := start("--batch-size", "1")):
        request = serving.request_of(images[0])
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(request)
        started = time.monotonic()
        while serving.ask(server.port, "GET", "/ready")[0] != 200:
            assert time.monotonic() < started + 20
        assert serving.ask(server.port, "POST", "/predict", images[0], uploads.PNG)[0] == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_end(start, images, workers):
    """SIGTERM under load: what was taken is answered, new connections are refused, the exit code is 0."""
    with (server := start("--workers", workers)) as process:
        answers, broken = [], []

        async def send_until_refused():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except OSError:
                return False
            writer.write(serving.request_of(images[0]))
            try:
                head = await reader.read(65536)
            except ConnectionError:  # it was not accepted yet
                head = b""
            writer.close()
            (answers if head else broken).append(head.split(b"\r\n")[0])
            return True

        async def client():
            while await send_until_refused():
                pass

        async def all_clients():
            asyncio.get_running_loop().call_later(2, process.send_signal, signal.SIGTERM)
            await asyncio.gather(*(client() for _ in range(16)))

        asyncio.run(all_clients())
        assert process.wait(30) == 0
    print(f"\n{len(answers)} answers, {len(broken)} connections closed before they were taken")
    assert len(answers) > 50 and set(answers) == {b"HTTP/1.1 200 OK"}
    taken = sum("POST /predict 200" in line for line in process.output)
    assert taken == len(answers)
    with pytest.raises((OSError, http.client.HTTPException)):
        serving.ask(server.port, "GET", "/health")
