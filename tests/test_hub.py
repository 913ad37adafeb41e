"""All downloads, against a small Hub on loopback: cut off, refused, damaged, no space, offline, two at once."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

import eclip
import tiny
from eclip.backbones import catalog, create, head, hub_errors, load
from eclip.backbones.head import EclipHead, load_head
from eclip.errors import DownloadError, ModelError
from eclip.guides import GUIDES, Seen, dino
from hub import Hub, environment, started

tiny_hf: Any = pytest.importorskip("tiny_hf")
NETWORK = "test_vit.r160_in1k"


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of a client in this process that knows this hub alone and remembers no model."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "cache"
    own = {"ENDPOINT": hub.url, "HF_HUB_CACHE": str(folder), "HF_TOKEN_PATH": str(tmp_path / "token")}
    own |= {"HF_HUB_OFFLINE": False, "DOWNLOAD_CHUNK_SIZE": 2**16}
    own["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in own.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(load, "_loaded", {})
    dino._load.cache_clear()
    return folder


# --- every path -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetching:
    """One way to fetch.

    Attributes:
        serve: what the hub has.
        ask: fetch and use; a tensor that tells right weights from others.
        weights: the large file.
        place: of it, as errors name it, without the host.
    """

    serve: Callable[[Hub, dict[str, Path]], None]
    ask: Callable[[], torch.Tensor]
    weights: str = "open_clip_model.safetensors"
    place: str = "org/tiny"


def _text(name: str) -> Callable[[], torch.Tensor]:
    return lambda: eclip.load(name).encode_text(["a dog", "the cat"])


def _seen() -> Seen:
    from PIL import Image

    image = Image.linear_gradient("L").convert("RGB")
    backbone = tiny.backbone("vit")
    return Seen([image], ["a"], eclip.encode(backbone, backbone.preprocess(image)[None]))


PATHS = {
    "hf-hub:": Fetching(lambda hub, made: hub.put("org/tiny", made["open_clip"]), _text("hf-hub:org/tiny")),
    "a tag": Fetching(
        lambda hub, made: hub.put("org/tiny", made["open_clip"], "open_clip_model.safetensors"), _text("Tiny-ViT/hub")
    ),
    "a tag with a file": Fetching(
        lambda hub, made: hub.put("org/tiny", made["checkpoint"]), _text("Tiny-ViT/file"), "epoch_3.pt"
    ),
    "a tag with a tokenizer": Fetching(
        lambda hub, made: (hub.put("org/tiny", made["worded"], "open_clip_model.safetensors"), _words(hub, made)),
        _text("Tiny-words/hub"),
    ),
    "hf-hub: with a tokenizer": Fetching(
        lambda hub, made: (hub.put("org/tiny", made["worded"]), _words(hub, made)), _text("hf-hub:org/tiny")
    ),
    "hf:": Fetching(lambda hub, made: hub.put("org/tiny", made["hf"]), _text("hf:org/tiny"), "model.safetensors"),
    "hf: in shards": Fetching(
        lambda hub, made: hub.put("org/tiny", made["shards"]), _text("hf:org/tiny"), "model-00002-of"
    ),
    "a head": Fetching(
        lambda hub, made: hub.put("org/tiny", made["head"]),
        lambda: load_head("hf-hub:org/tiny").image.weight,
        "eclip_head.safetensors",
    ),
    "a guide": Fetching(
        lambda hub, made: hub.put(f"timm/{NETWORK}", made["network"]),
        lambda: GUIDES["dino"](_seen(), name=NETWORK),
        "model.safetensors",
        f"timm/{NETWORK}",
    ),
}


def _words(hub: Hub, made: dict[str, Path]) -> None:
    hub.put("org/words", made["hf"], "config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as their repositories have them."""
    folders = {
        name: tmp_path_factory.mktemp(name) for name in ("checkpoint", "worded", "hf", "shards", "head", "network")
    }
    torch.save({"state_dict": tiny.model("vit").state_dict()}, folders["checkpoint"] / "epoch_3.pt")
    config = json.loads((tiny_folder / "open_clip_config.json").read_text())
    text = {**config["model_cfg"]["text_cfg"], "hf_tokenizer_name": "org/words", "tokenizer_kwargs": {"clean": "lower"}}
    config["model_cfg"] = {**config["model_cfg"], "text_cfg": text}
    (folders["worded"] / "open_clip_config.json").write_text(json.dumps(config))
    (folders["worded"] / "open_clip_model.safetensors").write_bytes(
        (tiny_folder / "open_clip_model.safetensors").read_bytes()
    )
    for name, options in (("hf", {}), ("shards", {"max_shard_size": "60KB"})):
        tiny_hf.model("CLIP", "eager").save_pretrained(folders[name], **options)
        tiny_hf.tokenizer("CLIP").save_pretrained(folders[name])
        colors = {"image_mean": tiny.MEAN, "image_std": tiny.STD, "resample": 3, "do_normalize": True}
        (folders[name] / "preprocessor_config.json").write_text(json.dumps(colors))
    EclipHead.start(tiny.backbone("vit"), init="random").save(folders["head"])
    network = timm.create_model(NETWORK, pretrained=False)
    for seed, weight in enumerate(network.parameters()):
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    save_file(network.state_dict(), folders["network"] / "model.safetensors")
    return {**folders, "open_clip": tiny_folder}


@pytest.fixture
def tags(made: dict[str, Path], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny architectures, and tags of their weights, that open_clip and our catalog know by name."""
    configs = {"Tiny-ViT": made["open_clip"], "Tiny-words": made["worded"]}
    hub.plain["tiny.pt"] = content = (made["checkpoint"] / "epoch_3.pt").read_bytes()
    summed = hashlib.sha256(content).hexdigest()[:8]
    hub.plain[f"tiny-{summed}.pt"] = content
    known, weights = dict(catalog.architectures()), dict(open_clip.pretrained._PRETRAINED)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    for name, folder in configs.items():
        known[name] = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        (tmp_path / f"{name}.json").write_text(json.dumps(known[name]))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        weights[name] = {
            "hub": open_clip.pretrained._pcfg(hf_hub="org/tiny/", quick_gelu=True),
            "file": open_clip.pretrained._pcfg(hf_hub="org/tiny/epoch_3.pt", quick_gelu=True),
            "url": open_clip.pretrained._pcfg(f"{hub.url}/plain/tiny.pt", quick_gelu=True),
            "summed": open_clip.pretrained._pcfg(f"{hub.url}/plain/tiny-{summed}.pt", quick_gelu=True),
        }
    every = {**catalog.tags(), **{name: list(weights[name]) for name in configs}}
    monkeypatch.setattr(catalog, "architectures", lambda: known)
    monkeypatch.setattr(create, "architectures", lambda: known)
    monkeypatch.setattr(catalog, "tags", lambda: every)
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", weights)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, hub: Hub, cache: Path, made: dict[str, Path], tags: None) -> Fetching:
    found = PATHS[request.param]
    found.serve(hub, made)
    return found


def _forget() -> None:
    load._loaded.clear()
    dino._load.cache_clear()


def _parts(cache: Path) -> list[Path]:
    return [file for file in cache.rglob("*") if "incomplete" in file.name or file.name.startswith("tmp")]


@pytest.mark.long(every=5)
def test_what_is_fetched_is_right_is_said_and_is_fetched_once(
    path: Fetching, hub: Hub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = path.ask()
    [size] = {
        len(files[name]) for files in hub.repositories.values() for name in files if name.startswith(path.weights)
    }
    assert f" ({hub_errors.amount(size)}) once from {hub.host}/{path.place}" in caplog.text
    assert len(hub.bodies(path.weights)) == 1
    _forget()
    hub.asked.clear()
    assert torch.equal(path.ask(), first)
    assert hub.asked == [], "what is in the cache needs no network"


@pytest.mark.long(every=5)
def test_offline_what_is_cached_works_and_what_is_not_says_so(
    path: Fetching, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set, so nothing is downloaded: unset it"):
        path.ask()
    assert hub.asked == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    first = path.ask()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _forget()
    hub.asked.clear()
    assert torch.equal(path.ask(), first)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("path", "kind"), [("hf-hub:", "cut"), *((each, "reset") for each in PATHS)], indirect=["path"]
)
@pytest.mark.long(every=5)
def test_a_cut_download_goes_on_where_it_stopped(
    path: Fetching, hub: Hub, cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 2**10)  # what is kept ends with a chunk
    hub.fault(kind, path.weights, after=2000, times=1 if kind == "cut" else 2, methods=("GET",))
    got = path.ask()
    first, *rest = [one.range for one in hub.bodies(path.weights)]
    assert first is None and rest and all(one is not None for one in rest), rest
    assert _parts(cache) == []
    _forget()
    assert torch.equal(path.ask(), got)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "gated": (
        {"status": 401, "headers": {"X-Error-Code": "GatedRepo"}},
        r"is gated: accept its license at https://\S+ and log in with `hf auth login`, or set HF_TOKEN\.$",
    ),
    "no access": (
        {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}},
        r"is gated: accept its license at https://\S+ and log in with `hf auth login`",
    ),
    "no such repository": (
        {"status": 401, "headers": {"X-Error-Code": "RepoNotFound"}},
        r"there is no such repository, or it is private or gated: check the name.*HF_TOKEN\.$",
    ),
    "a bare 401": ({"status": 401}, r"private or gated: check the name, or accept its license and log in"),
    "a bad token": (
        {"status": 401, "headers": {"X-Error-Message": "Invalid credentials in Authorization header"}},
        r"rejected your token: unset HF_TOKEN, or log in again with `hf auth login`\.$",
    ),
    "a token without rights": ({"status": 403}, r"your account or token has no access \(status 403\)"),
    "too many": (
        {"status": 429, "headers": {"RateLimit": '"resolvers";r=0;t=120'}},
        r"too many requests: wait 120 seconds and try again, or log in",
    ),
    "too many, said otherwise": ({"status": 429, "headers": {"Retry-After": "77"}}, "wait 77 seconds"),
    "too many, not said how long": ({"status": 429}, "wait a few minutes"),
    "a server that fails": ({"status": 503}, r"the server failed with status 503: try again later.*'(mini|spectral)'"),
    "a teapot": ({"status": 418}, "the server responded with status 418"),
}


@pytest.mark.parametrize(
    ("path", "refusal"),
    [("hf-hub:", each) for each in REFUSALS] + [(each, "gated") for each in list(PATHS)[1:]],
    indirect=["path"],
)
@pytest.mark.long(every=5)
def test_a_refusal_says_the_way_out_and_leaves_nothing(path: Fetching, hub: Hub, cache: Path, refusal: str) -> None:
    provenance, message = REFUSALS[refusal]
    fault = hub.fault("status", path.weights, methods=("HEAD",), **provenance)
    with pytest.raises(DownloadError, match=message) as raised:
        path.ask()
    said = str(raised.value)
    assert f"{hub.host}/{path.place}" in said and "\n" not in said and said.count(". ") <= 1, said
    assert _parts(cache) == []
    fault.times = 0
    assert path.ask().isfinite().all()


def test_a_repository_that_is_not_there(path: Fetching, hub: Hub) -> None:
    hub.repositories.clear()
    with pytest.raises(DownloadError, match=rf"{hub.host}/{path.place}: there is no such repository, or it is private"):
        path.ask()


def test_a_repository_without_weights(path: Fetching, hub: Hub) -> None:
    for repository, files in hub.repositories.items():
        hub.repositories[repository] = {name: file for name, file in files.items() if not name.startswith(path.weights)}
    with pytest.raises(DownloadError, match=rf"{hub.host}/{path.place} has no .*{path.weights}.*check the name"):
        path.ask()


@pytest.mark.long(every=5)
def test_wrong_bytes_are_noticed_and_not_kept(path: Fetching, hub: Hub, cache: Path) -> None:
    fault = hub.fault("wrong", path.weights, methods=("GET",))
    with pytest.raises(DownloadError, match=r"arrived damaged: its checksum is wrong. It was discarded; try again"):
        path.ask()
    assert _parts(cache) == []
    fault.times = 0
    assert path.ask().isfinite().all()


def test_an_answer_that_is_no_hubs(path: Fetching, hub: Hub) -> None:
    hub.fault("no etag", path.weights)
    with pytest.raises(DownloadError, match="check HF_ENDPOINT, proxy and firewall"):
        path.ask()


@pytest.mark.parametrize(
    ("path", "provenance"),
    [("hf-hub:", "cut short"), ("hf-hub:", "emptied"), *((each, "flipped") for each in PATHS)],
    indirect=["path"],
)
@pytest.mark.long(every=5)
def test_a_damaged_file_in_the_cache_is_named_and_fetched_anew(
    path: Fetching, hub: Hub, cache: Path, provenance: str
) -> None:
    first = path.ask()
    [link] = [file for file in cache.rglob("*") if file.is_symlink() and file.name.startswith(path.weights)]
    blob, content = link.resolve(), link.read_bytes()
    last = bytes([content[-1] ^ 1])
    blob.write_bytes({"flipped": content[:-1] + last, "cut short": content[:-9], "emptied": b""}[provenance])
    _forget()
    with pytest.raises(DownloadError) as raised:
        path.ask()
    assert f"the file {str(link)!r} is damaged" in str(raised.value)
    assert f"Delete {str(blob)!r} to download it again." in str(raised.value)
    blob.unlink()
    assert torch.equal(path.ask(), first)


def test_what_does_not_fit_is_not_begun(path: Fetching, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_errors.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**8))
    with pytest.raises(DownloadError, match=r"the disk is full \(0 KiB free in .* set HF_HUB_CACHE to a folder"):
        path.ask()
    assert hub.bodies("") == []


@pytest.mark.long(every=5)
def test_a_disk_that_fills_up_says_so_and_is_left_as_it_was(path: Fetching, hub: Hub, cache: Path) -> None:
    """The kernel refuses what goes beyond a limit, as it does on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
    try:
        with pytest.raises(DownloadError, match=r"the disk is full \(.* set HF_HUB_CACHE to a folder on another disk"):
            path.ask()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert _parts(cache) == [], "the space is given back"
    assert path.ask().isfinite().all()


# --- one path, in depth ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_hub(hub: Hub, cache: Path, made: dict[str, Path], tags: None) -> Hub:
    hub.put("org/tiny", made["open_clip"])
    return hub


def test_a_mirror_that_does_not_say_of_what_kind_its_404_is(tiny_hub: Hub, made: dict[str, Path]) -> None:
    hub = tiny_hub
    hub.repositories["org/tiny"]["open_clip_pytorch_model.bin"] = (made["checkpoint"] / "epoch_3.pt").read_bytes()
    hub.fault("status", "open_clip_model.safetensors", status=404)
    got = eclip.load("hf-hub:org/tiny").encode_text(["a dog"])
    torch.testing.assert_close(got, tiny.backbone("vit").encode_text(["a dog"]))


def test_an_answer_that_does_not_come(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eclip.backbones.hub, "PATIENCE", 0.1)
    fault = tiny_hub.fault("hang", "open_clip_config.json")
    with pytest.raises(DownloadError, match=r"the server did not respond in time.*'mini' is part of the package"):
        eclip.load("hf-hub:org/tiny")
    fault.go.set()


def test_nobody_who_listens(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:\d+/org/tiny: \[Errno 111\].*'mini' is part of the package"):
        eclip.load("hf-hub:org/tiny")


def test_a_cache_that_cannot_be_written(tiny_hub: Hub, cache: Path) -> None:
    cache.parent.joinpath("cache").write_text("a file, where a folder should be")
    with pytest.raises(DownloadError, match="is not writable: set HF_HUB_CACHE to a writable folder"):
        eclip.load("hf-hub:org/tiny")


def test_a_token_goes_to_the_hub_and_not_to_its_storage(tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    eclip.load("hf-hub:org/tiny")
    assert {one.token for one in tiny_hub.asked if "/resolve/" in one.path} == {"Bearer hf_secret"}
    assert {one.token for one in tiny_hub.asked if "/resolve/" not in one.path} == {None}


def test_a_cache_without_links(tiny_hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_SYMLINKS", True)
    first = eclip.load("hf-hub:org/tiny").encode_text(["a dog"])
    _forget()
    tiny_hub.asked.clear()
    assert torch.equal(eclip.load("hf-hub:org/tiny").encode_text(["a dog"]), first)
    assert tiny_hub.asked == []


@pytest.mark.parametrize("content", [b"{", b"", b'{"model_cfg": \xff}'])
def test_a_damaged_configuration_in_the_cache_is_named(tiny_hub: Hub, cache: Path, content: bytes) -> None:
    first = eclip.load("hf-hub:org/tiny").encode_text(["a dog"])
    [link] = cache.rglob("open_clip_config.json")
    link.resolve().write_bytes(content)
    _forget()
    with pytest.raises(DownloadError) as raised:
        eclip.load("hf-hub:org/tiny")
    assert f"the file {str(link)!r} is damaged" in str(raised.value)
    link.resolve().unlink()
    assert torch.equal(eclip.load("hf-hub:org/tiny").encode_text(["a dog"]), first)


def test_a_large_file_is_hashed_again_only_when_it_has_changed(
    tiny_hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    own = eclip.backbones.hub._digest
    monkeypatch.setattr(eclip.backbones.hub, "_digest", lambda path: hashed.append(path) or own(path))
    monkeypatch.setattr(eclip.backbones.hub, "SMALL", 2**10)
    eclip.load("hf-hub:org/tiny")
    hashed.clear()
    _forget()
    eclip.load("hf-hub:org/tiny")
    assert hashed == []
    [link] = cache.rglob("*.safetensors")
    content = bytearray(link.read_bytes())
    content[-1] ^= 1
    link.resolve().write_bytes(content)
    _forget()
    with pytest.raises(DownloadError, match="is damaged"):
        eclip.load("hf-hub:org/tiny")


def test_a_tokenizer_that_was_fetched_in_part_is_fetched_to_its_end(
    hub: Hub, cache: Path, made: dict[str, Path]
) -> None:
    hub.put("org/tiny", made["hf"])
    fault = hub.fault("status", "/tokenizer.json", status=503)
    with pytest.raises(DownloadError, match="status 503"):
        eclip.load("hf:org/tiny")
    fault.times = 0
    expected = tiny_hf.backbone("CLIP", torch.float32).encode_text(["a dog"])
    torch.testing.assert_close(eclip.load("hf:org/tiny").encode_text(["a dog"]), expected)


def test_a_repository_that_moves_on_is_read_of_one_revision(
    hub: Hub, cache: Path, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hub as module

    hub.put("org/tiny", made["hf"], "config.json")
    with pytest.raises(DownloadError, match=r"has no model\.safetensors"):
        eclip.load("hf:org/tiny")
    monkeypatch.setattr(module, "COMMIT", "beef" * 10)
    hub.put("org/tiny", made["hf"])
    expected = tiny_hf.backbone("CLIP", torch.float32).encode_text(["a dog"])
    torch.testing.assert_close(eclip.load("hf:org/tiny").encode_text(["a dog"]), expected)


def test_a_head_that_is_updated_between_its_files_is_read_of_one_revision(
    hub: Hub, cache: Path, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hub as module

    hub.put("org/tiny", made["head"])
    fetched = []

    def fetch(repository: str, names: tuple[str, ...], size: str) -> Path:
        fetched.append(hub_of_heads(repository, names, size))
        monkeypatch.setattr(module, "COMMIT", "beef" * 10)  # after the first file
        return fetched[-1]

    hub_of_heads = head.fetch
    monkeypatch.setattr(head, "fetch", fetch)
    found = load_head("hf-hub:org/tiny")
    assert torch.equal(found.image.weight, load_head(made["head"]).image.weight)
    assert len({file.parent for file in fetched}) == 2, "of two revisions, of which the later is read"


# --- plain addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["url", "summed"])
@pytest.mark.long(every=5)
def test_a_tag_on_another_server(
    tiny_hub: Hub, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """open_clip itself writes straight to the place where it looks, so a cut download is taken for whole."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    tiny_hub.fault("cut", "/plain/", after=2000, times=1, methods=("GET",))
    got = eclip.load(f"Tiny-ViT/{tag}").encode_text(["a dog"])
    torch.testing.assert_close(got, tiny.backbone("vit").encode_text(["a dog"]))
    assert "MiB) once from 127.0.0.1" in caplog.text
    assert {one.token for one in tiny_hub.asked} == {None}
    tiny_hub.asked.clear()
    _forget()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(eclip.load(f"Tiny-ViT/{tag}").encode_text(["a dog"]), got)
    assert tiny_hub.asked == []


@pytest.mark.long
def test_a_tag_on_another_server_that_fails(tiny_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".cache" / "clip"
    fault = tiny_hub.fault("wrong", "/plain/", methods=("GET",))
    with pytest.raises(DownloadError, match="arrived damaged: its checksum is wrong"):
        eclip.load("Tiny-ViT/summed")
    assert list(folder.glob("*.pt*incomplete")) == list(folder.glob("*.pt")) == []
    fault.kind, fault.status, fault.methods = "status", 404, ("HEAD", "GET")
    with pytest.raises(DownloadError, match=r"Tiny-ViT/summed: the weights .*/plain/tiny-\w+\.pt: .* status 404"):
        eclip.load("Tiny-ViT/summed")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        eclip.load("Tiny-ViT/url")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    fault.times = 0
    eclip.load("Tiny-ViT/summed")
    [file] = folder.glob("*.pt")
    file.write_bytes(file.read_bytes()[:-5])
    _forget()
    with pytest.raises(DownloadError, match=r"is damaged: .* Delete .* to download it again"):
        eclip.load("Tiny-ViT/summed")
    file.rename(folder / "tiny.pt")  # as open_clip leaves it where it was cut and there is no checksum
    with pytest.raises(ModelError, match=rf"Tiny-ViT/url: '{folder}/tiny\.pt' cannot be read .* delete it to download"):
        eclip.load("Tiny-ViT/url")


# --- other processes ------------------------------------------------------------------------------------------------

SLOWLY = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 2**10; "


def _until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 150
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.long
def test_ctrl_c_shows_how_far_it_came_and_the_next_run_goes_on(tiny_hub: Hub, cache: Path, images: Path) -> None:
    weights = "open_clip_model.safetensors"
    fault = tiny_hub.fault("stall", weights, after=500_000, times=1, methods=("GET",))
    words = ["explain", str(images / "a.png"), "-t", "a dog", "--model", "hf-hub:org/tiny", "-o", str(cache / "out")]
    screen, side = pty.openpty()
    script = f"{SLOWLY}import sys; sys.argv = ['eclip', *{words!r}]; from eclip.cli import main; main()"
    with started(script, environment(tiny_hub, cache), stderr=side) as process:
        os.close(side)
        shown = b""
        while not (
            tiny_hub.stalled.is_set() and re.search(rb"downloading open_clip_model.safetensors, 7 MiB.*[67]/100", shown)
        ):
            shown += os.read(screen, 2**16)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the end of a terminal; unread, it would fill and hold the process
            while os.read(screen, 2**16):
                pass
        assert process.wait(120) == 130
    os.close(screen)
    fault.go.set()
    assert b"downloading open_clip_model.safetensors (7 MiB) once from 127.0.0.1" in shown
    [part] = _parts(cache)
    here = part.stat().st_size
    assert 490_000 < here <= 500_000
    tiny_hub.asked.clear()
    eclip.load("hf-hub:org/tiny")
    assert [one.range for one in tiny_hub.bodies(weights)] == [f"bytes={here}-"]
    assert _parts(cache) == []


@pytest.mark.long
def test_two_processes_at_once_fetch_one_copy(tiny_hub: Hub, cache: Path) -> None:
    weights = "open_clip_model.safetensors"
    fault = tiny_hub.fault("wait", weights, times=1, methods=("GET",))
    script = "import eclip; print(float(eclip.load('hf-hub:org/tiny').encode_text(['a dog']).sum()))"
    env = environment(tiny_hub, cache)
    with started(script, env) as one, started(script, env) as two:
        _until(lambda: sum(asked.method == "HEAD" and weights in asked.path for asked in tiny_hub.asked) == 2)
        time.sleep(0.2)
        fault.go.set()
        said = [process.communicate(timeout=150) for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), said
    expected = float(tiny.backbone("vit").encode_text(["a dog"]).sum())
    assert [float(out) for out, _ in said] == pytest.approx([expected] * 2, abs=1e-4)
    assert len(tiny_hub.bodies(weights)) == 1
    assert _parts(cache) == []


# --- the suite itself -----------------------------------------------------------------------------------------------


def test_no_test_can_reach_another_machine(_outside: list[str]) -> None:
    for attempt in (
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.getaddrinfo("huggingface.co", 443),
        lambda: huggingface_hub.get_hf_file_metadata("https://huggingface.co/org/tiny/resolve/main/a.json", timeout=1),
    ):
        with pytest.raises(Exception):  # noqa: B017 - each library has its own
            attempt()
        assert _outside.pop()
