"""Weights to start from: of torchvision or timm, a file, a URL, the Hugging Face hub."""

import hashlib
import os
import re
import sys
from contextlib import contextmanager
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path

import torch

from core import IngredientsError, SettingError, locate, parse_string
from core.registry import need
from recipes.parts.finetune import head
from recipes.parts.library_models import name_of_body, unwrapped

KINDS = (".safetensors", ".pt", ".pth")


def load_weights(model, weights: str, name: str, options: dict | None = None, ingredients=None, fetch=True) -> str:
    """Load weights into a model of `find_backbone(name, options)`. Returns one line: what was loaded, what stayed new.

    weights: pretrained (those of torchvision or timm); a state dict in a file .safetensors, or .pt and .pth as
    torch.save and this project write them; https://.../name.pth#sha256=...; hf:organization/name[/file].
    Weights of a classifier also fit the body of a network that has one. A head of another size stays new; entries that
    the model does not have are ignored.
    ingredients: to add a line if their classes or normalization are not those of the weights
    fetch: False reads nothing but a file that is named, as for --check
    Raises IngredientsError with all entries of another shape, or if nothing fits or the file cannot be read.
    """
    weights, body = str(weights), name_of_body(name, options)
    if not fetch and (weights == "pretrained" or "://" in weights or weights.startswith("hf:")):
        return "\n".join([f"not checked: the weights {weights}", *_notes(model, {}, body, ingredients)])
    state, meta = _find(weights, body)
    network = unwrapped(model)
    own = network.state_dict()
    head_tensors = set(map(id, head(network).state_dict(keep_vars=True).values()))
    in_head = {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in head_tensors}
    state, how = _rename(state, own, in_head)
    common = [key for key in own if key in state]
    differ = [key for key in common if state[key].shape != own[key].shape]
    if wrong := [key for key in differ if key not in in_head]:
        lines = [f"    {key} is {list(state[key].shape)}, but {list(own[key].shape)} in {name}" for key in wrong]
        raise IngredientsError("\n".join([f"{weights}: weights of another network:", *lines]))
    loaded = {key: state[key] for key in common if key not in differ}
    if not any(key not in in_head for key in loaded):
        got, expected = ", ".join(list(state)[:3]), ", ".join(list(own)[:3])
        raise IngredientsError(f"{weights}: no entry fits {name}: expected {expected}, …, got {got}, …")
    own.update(loaded)  # not a new dict: this one holds the versions of the modules
    network.load_state_dict(own)
    if not in_head & loaded.keys():
        _narrow(head(network))
    new = [key for key in own if key not in loaded and not key.endswith("num_batches_tracked")]  # which nothing reads
    told = f"newly initialized: {', '.join(_modules_of(new, loaded))}" if new else "nothing newly initialized"
    told = f"loaded {len(loaded)} of {len(state)} entries of {weights}{how}; {told}"
    return "\n".join([told, *_notes(model, meta, body, ingredients)])


def _narrow(layer) -> None:
    """Draw a linear head anew, as PyTorch does, if its first logits would be far apart.

    EfficientNet and MnasNet draw theirs by the number of classes; so few of them begin with a loss of 5 and more, which
    spoils the body. 4 epochs of tf_efficientnet_lite0 on 210 photos of 10 classes: accuracy 0.64, instead of 0.43.
    """
    can_be = isinstance(layer, torch.nn.Linear) and not layer.weight.is_meta
    if can_be and layer.weight.square().mean() * layer.in_features > 1:  # PyTorch's own: 1/3
        layer.reset_parameters()


def _notes(model, meta: dict, body: str, ingredients) -> list[str]:
    """What of the ingredients does not go with the weights; meta: that of a file which this project wrote."""
    if ingredients is None:
        return []
    notes = []
    classes = meta.get("classes", [])
    if len(classes) == len(model.class_names) and classes != model.class_names:  # so the head was loaded
        notes.append(f"note: the weights have other classes, or in another order: {', '.join(classes)}")
    own = _normalization_in(ingredients)
    expected = _normalization_in(parse_string(meta["ingredients"])) if meta else _normalization_of(body)
    if own and expected and own != expected:
        advice = f"the weights expect mean = {expected[0]}, std = {expected[1]}"
        notes.append(f"note: {locate(SettingError('training.preprocess.mean', advice), ingredients)}")
    return notes


def _normalization_in(ingredients) -> list | None:
    """[mean, std] that [training.preprocess] writes; None: a function of another name may normalize as well."""
    section = ingredients.at("training.preprocess", {})
    is_known = section.get("@preprocess", "resize_and_scale") == "resize_and_scale"
    return [section.get("mean"), section.get("std")] if is_known else None


def _normalization_of(body: str) -> list | None:
    """[mean, std] of each channel that pretrained weights of torchvision or timm expect; None: not known."""
    if body.startswith("timm."):
        expected = need("timm").models.get_pretrained_cfg(body.removeprefix("timm."))
    else:
        from torchvision import models

        expected = models.get_model_weights(body).DEFAULT.transforms() if body in models.list_models() else None
    return expected and [list(expected.mean), list(expected.std)]


def _modules_of(new: list[str], loaded) -> list[str]:
    """The shortest names of modules that cover `new` and hold nothing that was loaded."""

    def paths(key: str):
        """a.b.c -> a, a.b, a.b.c"""
        return accumulate(key.split("."), "{}.{}".format)

    holding = {path for key in loaded for path in paths(key)}
    return list(dict.fromkeys(next(path for path in paths(key) if path not in holding) for key in new))


def _rename(state: dict, own: dict, in_head: set) -> tuple[dict, str]:
    """(the state, how) under those names that fit the model best: without a wrapper's prefix, or with that of the body.

    If no name fits, but the body has the same shapes in the same order, it is that of another library: by order.
    """
    wrappers = ("", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "1.")  # 1.: after GreyToRGB
    prefixes = [wrapper + part for part in ("", "features.") for wrapper in wrappers]
    places = ("", "backbone.", "backbone.body.")
    pairs = [(prefix, place) for prefix in prefixes for place in places]
    renamed = [{place + key.removeprefix(prefix): state[key] for key in state} for prefix, place in pairs]
    best = max(renamed, key=lambda names: sum(key in own for key in names))
    theirs, body = ([key for key in names if not key.endswith("num_batches_tracked")] for names in (state, own))
    body = [key for key in body if key not in in_head]
    pairs = zip(theirs, body, strict=False)
    by_order = {own_key: state[key] for key, own_key in pairs if state[key].shape == own[own_key].shape}
    if len(by_order) < len(body) or any(key in own and key not in in_head for key in best):
        return best, ""
    return by_order, ", by their order, since names differ"


# ------------------------------------------------------------------------------------------------------------- sources


def _find(weights: str, body: str) -> tuple[dict, dict]:
    """(tensors by name, meta of a file that this project wrote, else {})."""
    if weights == "pretrained" and body.startswith("timm."):
        config = need("timm").models.get_pretrained_cfg(body.removeprefix("timm."))
        weights = f"hf:{config.hf_hub_id}" if config and config.hf_hub_id else weights
    if weights == "pretrained":
        return _of_torchvision(body), {}
    if weights.startswith("hf:"):
        return _read(_from_hub(weights))
    return _read(_from_url(weights) if "://" in weights else Path(os.path.expanduser(weights)))


def _of_torchvision(name: str) -> dict:
    from torchvision import models

    if name not in models.list_models():
        raise IngredientsError(f"there are no pretrained weights of {name}; write weights = <path> of a file, or None")
    weights = models.get_model_weights(name).DEFAULT
    with _explained(weights.url, f"put that file into {_folder()}, or "):
        try:  # through the model: torchvision renames entries of some of its files
            return models.get_model(name, weights=weights, progress=False).state_dict()
        except RuntimeError:  # a file of the body alone
            return weights.get_state_dict(progress=False)


def _folder() -> Path:
    """Where torch.hub keeps files."""
    return Path(torch.hub.get_dir()) / "checkpoints"


@contextmanager
def _explained(url: str, advice: str = ""):
    """Name the file and where it goes if it cannot be downloaded: no network, disk full, cut off, another hash."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        message = f"cannot download the weights from {url} ({reason}); {advice}write weights = <path> of a file"
        raise IngredientsError(f"{message} that you have") from error


def _from_url(url: str) -> Path:
    """The file of a URL in torch.hub's folder, downloaded if it is not there with this hash."""
    address, _, digest = url.partition("#sha256=")
    name = address.partition("?")[0].rpartition("/")[2]
    in_name = re.search(r"-([0-9a-f]{8,64})[.]", name)  # as torch.hub names files
    digest = digest.lower() or (in_name and in_name[1]) or ""
    if not re.fullmatch("[0-9a-f]{8,64}", digest) or not name.endswith(KINDS):
        raise IngredientsError(f"{url}: expected https://.../name.pth#sha256=..., the hash that `sha256sum` prints")
    path = _folder() / name
    if path.is_file():
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
                return path
    with _explained(address, f"put that file into {_folder()}, or "):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), digest, progress=sys.stderr.isatty())
    return path


def _from_hub(name: str) -> Path:
    """The file of hf:organization/name[/file] in the cache of huggingface_hub, downloaded if it is not there."""
    parts = name.removeprefix("hf:").split("/")
    if len(parts) < 2 or not all(parts):
        raise IngredientsError(f"{name}: expected hf:organization/name, or hf:organization/name/file.safetensors")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:]) or "model.safetensors"
    try:
        hub = need("huggingface_hub")
    except ValueError as error:
        raise IngredientsError(f"{name}: {error}") from None
    with _explained(f"https://huggingface.co/{repository}/resolve/main/{file}"):
        cached = hub.try_to_load_from_cache(repository, file)  # asks no network
        return Path(cached if isinstance(cached, str) else hub.hf_hub_download(repository, file))


def _read(path: Path) -> tuple[dict, dict]:
    """(the tensors of a file by name, its meta)."""
    if path.suffix not in KINDS:
        kinds = "a file that ends in .safetensors, .pt or .pth, a URL, or hf:organization/name"
        raise IngredientsError(f"{path}: expected pretrained, {kinds}")
    if not path.is_file():
        raise IngredientsError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), {}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise IngredientsError(f"{path}: reading it needs a package: pip install safetensors") from None
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise IngredientsError(f"{path}: cannot be read as weights: {reason}") from error
    meta = state.get("meta") if isinstance(state, dict) else None
    for key in ("model", "state_dict"):  # a checkpoint holds them beside other things
        state = state.get(key, state) if isinstance(state, dict) else state
    tensors = isinstance(state, dict) and {key: value for key, value in state.items() if torch.is_tensor(value)}
    if not tensors:
        raise IngredientsError(f"{path}: expected a state dict (names and tensors), got {type(state).__name__}")
    return tensors, meta if isinstance(meta, dict) and "ingredients" in meta else {}
