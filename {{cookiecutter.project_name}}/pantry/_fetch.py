"""Files fetched over the network, with further tries; bytes that are no file. Not a shelf: it registers nothing."""

import io
import os
import shutil
import time
from http.client import HTTPException, responses
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from core import IngredientsError

HEADERS = {"User-Agent": "Mozilla/5.0"}  # some servers refuse urllib's own
PAUSE = 1.0  # seconds before the second try; each later pause is twice the one before


class Upload(io.BytesIO):
    """The bytes of an image or table that is no file; `str(upload)` is its name, for messages."""

    def __init__(self, name: str, content: bytes):
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


def fetch(url: str, archive: Path, timeout: float, tries: int) -> None:
    """Download `archive`; the file gets its name when it is complete."""
    part = archive.with_name(archive.name + ".part")
    for attempt in range(1, tries + 1):
        try:
            save(url, part, timeout)
            part.replace(archive)
            return
        except (OSError, HTTPException, ValueError) as error:
            code = 0
            if isinstance(error, HTTPError):
                code = error.code
                error.close()
            if attempt == tries or (code in range(400, 500) and code not in (408, 429)):  # these two pass
                answer = f"the server answered {code} {responses.get(code, '')}"
                reason = answer if code else error or type(error).__name__
                raise IngredientsError(
                    f"{url}: cannot be downloaded ({attempt} of {tries} tries): {reason}. Check source in "
                    f"[project.data], or download it yourself and write source = file:/path/to/{archive.name}"
                ) from error
        finally:
            part.unlink(missing_ok=True)
        time.sleep(PAUSE * 2 ** (attempt - 1))


def fetch_bytes(url: str, most: int = 2**26, timeout: float = 30.0) -> bytes:
    """What an address sends, kept in memory; IngredientsError if that is more than `most` bytes or takes too long."""
    try:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError("only http and https are fetched")
        with urlopen(Request(url, headers=HEADERS), timeout=timeout) as response:
            content = response.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it is larger than {most:,} bytes")
        return content
    except (OSError, HTTPException, ValueError) as error:
        raise IngredientsError(f"{url}: cannot be fetched: {error or type(error).__name__}") from error


def save(url: str, file: Path, timeout: float) -> None:
    """One try."""
    from tqdm import tqdm

    with urlopen(Request(url, headers=HEADERS), timeout=timeout) as response, open(file, "wb") as stream:
        size = int(response.headers.get("Content-Length") or 0) or None  # unknown
        with tqdm.wrapattr(response, "read", size, desc=file.stem, leave=False, disable=None) as source:
            shutil.copyfileobj(source, stream)
        if size and stream.tell() != size:
            raise ConnectionError(f"the connection ended after {stream.tell():,} of {size:,} bytes")
        stream.flush()
        os.fsync(stream.fileno())
