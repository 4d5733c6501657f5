"""Tar shards: written once, read by number, in an order that depends on the seed alone."""

import functools
import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy
import pytest
import torch
from core import IngredientsError, parse_string, resolve
from pantry.images import load_image_folder
from pantry.shards import LANES, shard_order
from PIL import Image
from recipes import run as runs
from recipes import shard
from recipes.parts import samples as data
from recipes.settings import import_functions
from tests.helpers import equal, metrics_of, state_of

pytest.importorskip("webdataset")
import_functions(Path("no such folder"))
PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of 60 photos, each of one colour that tells which it is."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(60):
        path = folder / f"training/{'abc'[index % 3]}/{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index, 0, 0)).save(path)
    return folder


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory):
    """The same in shards of five or six."""
    folder = tmp_path_factory.mktemp("shards") / "training"
    loaded = load_image_folder(photos, "training")()
    shard.write_shards(loaded, loaded, folder, 600.0)
    return folder


@pytest.fixture
def http_server():
    """`serve(folder) -> URL`."""
    started = []

    def serve(folder):
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        handler.log_message = None
        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=started[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}"

    yield serve
    for server in started:
        server.shutdown()
        server.server_close()


def load(source, **settings):
    text = "".join(f"{key} = {value}\n" for key, value in settings.items())
    text = f"[training.load_dataset]\n@load_dataset = webdataset\nsource = {source}\n{text}"
    return resolve(parse_string(text)).training.load_dataset


def samples_of(loader):
    return data.load(loader, data.scale, memory=0.0)


def test_what_is_read_is_what_was_written(photos, shards):
    samples, loose = samples_of(load(shards)), samples_of(load_image_folder(photos, "training"))
    assert len(samples.shards) > 5 and sum(samples.shards) == len(samples) == 60 and samples.classes == ["a", "b", "c"]
    read = {round(float(x[0, 0, 0]) * 255): int(y) for x, y in (samples[i] for i in range(60))}
    assert read == {round(float(x[0, 0, 0]) * 255): int(y) for x, y in (loose[i] for i in range(60))}
    assert [int(samples[i][1]) for i in range(12)] != sorted(int(samples[i][1]) for i in range(12)), "shuffled once"


def test_arrays_and_arrays_of_targets_come_back_exactly(tmp_path):
    X, y = torch.randn(5, 7), torch.rand(5, 2)
    dataset = torch.utils.data.StackDataset(X, y)
    shard.write_shards((X, y), dataset, tmp_path / "s", 1.0)
    found = load(tmp_path / "s")()
    assert len(found.shards) == 5
    assert sorted(tuple(x.tolist()) for x, _ in (found[i] for i in range(5))) == sorted(map(tuple, X.tolist()))
    assert found[0][1].dtype == torch.float32 and found[0][1].shape == (2,)


def test_an_epoch_reads_each_sample_once_in_an_order_of_its_own(shards):
    samples = samples_of(load(shards))
    order_of = data.epoch_sampler(samples, seed=3)
    first, second = order_of(0), order_of(1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(60))
    assert first.tolist() == data.epoch_sampler(samples, seed=3)(0).tolist() and first.tolist() != second.tolist()
    assert first.tolist() != data.epoch_sampler(samples, seed=4)(0).tolist()


def test_a_rank_reads_shards_of_its_own():
    """Every second position is of shards that the other positions hardly touch, so that two hosts fetch each once."""
    counts = [10] * (4 * LANES)
    order = shard_order(counts, torch.Generator().manual_seed(0))
    of_ranks = [set((order[rank::2] // 10).tolist()) for rank in (0, 1)]
    assert not of_ranks[0] & of_ranks[1] and len(of_ranks[0] | of_ranks[1]) == len(counts)
    # and at any time few shards are in use
    assert max(len(set((order[at : at + 100] // 10).tolist())) for at in range(0, 500, 100)) <= 2 * LANES


def test_a_validation_share_keeps_to_the_shards(shards):
    training, validation = data.split_off(samples_of(load(shards)), 0.25, seed=0)
    assert sum(training.shards) == len(training) == 45 and sum(validation.shards) == 15
    assert sorted(data.epoch_sampler(training, 0)(0).tolist()) == list(range(45))
    parts = [part[index][0] for part in (training, validation) for index in range(len(part))]
    both = [round(float(x[0, 0, 0]) * 255) for x in parts]
    assert sorted(both) == list(range(60))


@pytest.mark.parametrize("how", ["pattern", "pipe", "http"])
def test_shards_by_pattern_pipe_and_url_are_fetched_once(shards, tmp_path, how, http_server):
    last = len(list(shards.glob("*.tar"))) - 1
    pattern = f"shard-{{000000..{last:06}}}.tar"
    log = tmp_path / "log"
    source, settings = {
        "pattern": (f"{shards}/{pattern}", {}),
        "pipe": (f"pipe:echo x >> {log}; cat {shards}/{pattern}", {"index": shards / "index.json"}),
        "http": (f"{http_server(shards)}/{pattern}", {}),
    }[how]
    samples = samples_of(load(source, cache=tmp_path / "cache", **settings))
    batches = data.reader(samples, 7, torch.device("cpu"), workers=2)(torch.arange(60))
    seen = [round(value * 255) for inputs, _ in batches for value in inputs[:, 0, 0, 0].tolist()]
    assert sorted(seen) == list(range(60))
    if how == "pipe":
        assert log.read_text() == "x\n" * (last + 1), "two workers and this process, each shard once"
    assert not list((tmp_path / "cache").glob("*.part"))


def test_the_folder_of_fetched_shards_keeps_to_its_size(shards, tmp_path):
    sizes = [path.stat().st_size for path in shards.glob("*.tar")]
    limit = 3 * max(sizes)
    last = len(sizes) - 1
    source = f"pipe:cat {shards}/shard-{{000000..{last:06}}}.tar"
    found = load(source, index=shards / "index.json", cache=tmp_path / "c", cache_size=limit / 1e9)()
    for index in range(60):
        assert found[index][1] in (0, 1, 2)
        assert sum(path.stat().st_size for path in (tmp_path / "c").glob("*.tar")) <= limit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no index", r"index.json: cannot be read \(No such file or directory\); python -m recipes.shard writes it"),
        ("no shard", "shard-000001.tar: the shard cannot be read: .*No such file"),
        ("cut", "shard-000001.tar: (the shard cannot be read|holds . samples, but index.json says)"),
        ("fewer", r"shard-000000.tar: holds . samples, but index.json says 99; write both again"),
        ("no image", "shard-000000.tar: sample 0, png: this is no image of a known format"),
        ("no class", "shard-000000.tar: sample 0 has png; expected one image or npy, and cls or y.npy"),
        ("pickle", "shard-000000.tar: sample 0, npy: cannot be read: .*allow_pickle=False"),
        ("pipe", "pipe:false: the shard cannot be fetched"),
        ("count", "are 1 shards, but the index has"),
    ],
)
def test_what_is_wrong_with_a_shard_is_named(shards, tmp_path, damage, message):
    folder = tmp_path / "s"
    shutil.copytree(shards, folder)
    source, settings = folder, {}
    index = json.loads((folder / "index.json").read_text())
    if damage == "no index":
        (folder / "index.json").unlink()
    elif damage == "no shard":
        (folder / "shard-000001.tar").unlink()
    elif damage == "cut":
        path = folder / "shard-000001.tar"
        path.write_bytes(path.read_bytes()[:1700])
    elif damage == "fewer":
        index["shards"][0]["samples"] = 99
        (folder / "index.json").write_text(json.dumps(index))
    elif damage == "count":
        source = folder / "shard-000000.tar"
    elif damage == "pipe":
        (folder / "index.json").write_text(json.dumps(index | {"shards": index["shards"][:1]}))
        source, settings = "pipe:false", {"index": folder / "index.json", "cache": tmp_path / "c"}
    else:
        member = {"no image": ("png", b"text"), "no class": None, "pickle": ("npy", pickled())}[damage]
        from webdataset import TarWriter

        number = index["shards"][0]["samples"]
        with TarWriter(str(folder / "shard-000000.tar"), encoder=False) as writer:
            for key in range(number):
                members = {"png": png_bytes()} if member is None else {member[0]: member[1], "cls": b"0"}
                writer.write({"__key__": f"{key}", **members})
    with pytest.raises(IngredientsError, match=message):
        found = load(source, **settings)()
        for at in range(12):
            found[at]


def pickled() -> bytes:
    file = io.BytesIO()
    numpy.save(file, numpy.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


def png_bytes() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture
def sharded(overrides, archive):
    """What turns the tiny data into shards, of which training and validation are read one by one."""
    with tarfile.open(archive) as tar:
        tar.extractall("loose", filter="data")
    del overrides["training.load_dataset.source"]
    changes = {"training.scheme.memory": "0.0", "training.scheme.epochs": "3"}
    for split in ("training", "testing"):
        loaded = load_image_folder(Path("loose/tiny"), split)()
        shard.write_shards(loaded, loaded, Path("shards") / split, 3000.0)
        section = f"{split}.load_dataset"
        changes |= {f"{section}.@load_dataset": "webdataset", f"{section}.source": f"shards/{split}"}
        changes[f"{section}.channels"] = "1"
    return changes


def test_stopped_within_an_epoch_it_ends_as_unbroken_whatever_the_workers(sharded, train, monkeypatch):
    whole = train(sharded | {"project.name": "whole", "training.scheme.workers": "0"})
    saved = runs.Run.save

    def stop(run, state):
        saved(run, state)
        if (state.epoch, state.step) == (1, 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(sharded | {"training.model.checkpoint_minutes": "0.0", "training.scheme.workers": "1"})
    folder = train(sharded | {"training.scheme.resume": "True", "training.scheme.workers": "2"})
    assert metrics_of(folder) == metrics_of(whole)
    assert equal(state_of(folder, "last.pt"), state_of(whole, "last.pt"))


READ_WITHIN = """
import re, resource, sys
from pathlib import Path
import torch
from pantry.shards import webdataset

limit, found = int(sys.argv[1]), webdataset(sys.argv[2])()
found[0]
used = int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
print(sum(found[index][0].nbytes for index in range(len(found))), flush=True)
kept = [found[index][0] for index in range(len(found))]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_memory_does_not_grow_with_the_data(tmp_path):
    """A set of ten times the memory that a process may take more is read; kept in a list it does not fit."""
    limit, count = 16 * 2**20, 160
    dataset = torch.utils.data.StackDataset(torch.zeros(count, 2**20, dtype=torch.uint8), torch.zeros(count))
    shard.write_shards(None, dataset, tmp_path / "s", 32e6)
    command = [sys.executable, "-c", READ_WITHIN, str(limit), str(tmp_path / "s")]  # a new one, without freed memory
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == f"{10 * limit}\n" and done.returncode == 1
    assert "MemoryError" in done.stderr or "allocate memory" in done.stderr, done.stderr
