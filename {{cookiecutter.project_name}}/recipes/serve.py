"""Serve a trained model: answers over HTTP, and a page to drop an image on.

python -m recipes.serve                                  the best weights of the newest run, on http://127.0.0.1:8000
python -m recipes.serve --run runs/digits/2026-01-31_12-00-00 --port 8001 --workers 2
curl -F image=@a.png -F image=@b.jpg localhost:8000/predict
curl --data-binary @a.png -H "Content-Type: image/png" localhost:8000/predict
"""

import json
import os
import signal
import sys
from importlib.util import find_spec

from core import IngredientsError
from recipes.parts.command import Command

OPTIONS = {  # name -> default, help
    "ingredients": ("ingredients.ini", "names the runs"),
    "run": ("", "a run folder, a checkpoint or an exported model; default: the newest run"),
    "host": ("127.0.0.1", "the address to listen on"),
    "port": (8000, "the port to listen on"),
    "workers": (1, "processes, each with a model of its own"),
    "batch_size": (16, "images in a forward pass, at most"),
    "delay": (5, "milliseconds that an image waits for others on their way"),
    "queue": (256, "images under way, at most; else 503"),
    "max_bytes": (20_000_000, "of a request; else 413"),
    "max_images": (32, "of a request; else 413"),
    "max_pixels": (25_000_000, "of an image; else 422"),
}


def main() -> None:
    with Command(__doc__) as command:
        for name, (default, text) in OPTIONS.items():
            text += f"; default: {default}" if default else ""
            command.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=text)
        arguments, _ = command.read(with_functions=False)
        options = {name: vars(arguments)[name] for name in OPTIONS}
        if wrong := [name for name, value in options.items() if isinstance(value, int) and value < 1]:
            command.parser.error(f"--{wrong[0].replace('_', '-')} must be at least 1")
        if missing := [name for name in ("fastapi", "python_multipart", "uvicorn") if not find_spec(name)]:
            raise IngredientsError(f'{", ".join(missing)} is not installed: python -m pip install ".[serve]"')
        import uvicorn

        from recipes.parts.service import application

        os.environ["SERVE"] = json.dumps(options | {"overrides": command.overrides})
        app = application()  # what is wrong shows here
        if arguments.host not in ("127.0.0.1", "localhost", "::1"):
            print(f"--host {arguments.host}: whoever reaches this machine may use the model; there is no password")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again once all is answered
        command.interruptible()
        settings = {"limit_concurrency": 1000, "http": "h11", "access_log": False}  # h11 bounds the headers
        if arguments.workers > 1:
            app, settings["factory"] = "recipes.parts.service:application", True
        uvicorn.run(app, host=arguments.host, port=arguments.port, workers=arguments.workers, **settings)


if __name__ == "__main__":
    main()
