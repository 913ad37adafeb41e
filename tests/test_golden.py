"""Each method equals what its authors' own code computed on tiny random models.

`golden/` has arrays of every method, for a ViT and a ResNet. The full set, with a third model and more sizes, lies
beside the repository of its developers (../shared/golden) and is used where it is there. `test_methods.py` recomputes
the same formulas the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eclip
from eclip.backbones.attention_pooling import gather
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding
from eclip.methods.decompose import terms
from eclip.methods.gradeclip import _single_head
from eclip.methods.surgery import RESNETS

FULL, SHIPPED = Path(__file__).parents[2] / "shared" / "golden", Path(__file__).parent / "golden"
GOLDEN = FULL if FULL.is_dir() else SHIPPED

VITS = [name for name in ("tiny-vit", "tiny-vit12") if (GOLDEN / name).is_dir()]
MODELS = [*VITS, "tiny-rn"]


@cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return dict(arrays)


def _golden(file: str, model: str, name: str) -> np.ndarray:
    if (array := f"{model.replace('-', '_')}__{name}") not in _arrays(file) and GOLDEN == SHIPPED:
        pytest.skip(f"{array} of {file} is only in the full set of arrays, ../shared/golden")
    return _arrays(file)[array]


@cache
def _backbone(model: str) -> Backbone:
    return eclip.load(f"local-dir:{GOLDEN / model}")


@cache
def _encode(model: str, size: str, positions: str) -> Encoding:
    kind = "rn" if model == "tiny-rn" else "vit"
    name = f"{kind}_images_native" if size == "native" else f"{kind}_image_{size}"
    return eclip.encode(_backbone(model), torch.from_numpy(_arrays("inputs")[name]), positions=positions)


def _classes() -> torch.Tensor:
    return torch.from_numpy(_arrays("inputs")["class_text_matrix"])


def _texts(model: str, name: str) -> torch.Tensor:
    ids = torch.from_numpy(_arrays("inputs")[name])
    return torch.nn.functional.normalize(_backbone(model).encode_tokens(ids), dim=-1)


def _close(ours: torch.Tensor, golden: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(ours.numpy(), golden, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("model", MODELS)
def test_plain_clip(model: str) -> None:
    encoding = _encode(model, "native", "bicubic_aa")
    _close(encoding.feature, _golden("plain_clip", model, "image_embedding_native"), 1e-4)
    _close(encoding.backbone.project(encoding.tokens), _golden("plain_clip", model, "tokens_native"), 1e-4)


@pytest.mark.parametrize("model", VITS)
@pytest.mark.parametrize("positions", ["bicubic_aa", "bicubic", "bilinear", "bicubic_plus01"])
@pytest.mark.parametrize("size", ["square96", "rect48x80"])
def test_tokens_off_the_training_grid(model: str, size: str, positions: str) -> None:
    if size == "rect48x80" and positions == "bilinear":
        pytest.skip("no published code resizes bilinearly to a grid that is not square")
    golden = _golden("plain_clip", model, f"tokens_{size}_pos_{positions}")
    encoding = _encode(model, size, positions)
    _close(encoding.backbone.project(encoding.tokens), golden, 1e-4)


@dataclass(frozen=True)
class Case:
    """One stored array and what must equal it.

    Attributes:
        method: whose default it is, or whose option.
        file: of the golden folder, with `array` in it.
        size: of the images.
        positions: how the authors resize positions.
        texts: "classes" (the five of the inputs) or "texts" (the model's own three; "second" of them alone).
        read: stored array -> (image, text, row, col), for `image` alone if that is given.
        scaled: the authors differentiate logits, not cosines.
    """

    model: str
    method: str
    file: str
    array: str
    size: str = "native"
    positions: str = "bicubic_aa"
    options: dict[str, Any] = field(default_factory=dict)
    texts: str = "texts"
    read: Callable[[np.ndarray, Encoding], np.ndarray] = lambda stored, encoding: stored
    image: int | None = None
    scaled: bool = False

    def __str__(self) -> str:
        return f"{self.model} {self.method} {self.array}"

    @property
    def atol(self) -> float:
        """As the README of the arrays states it; cosines of stored tokens have a tolerance of their own."""
        return 1e-5 if self.read is _cosines else _stated(self.file)[f"{self.model.replace('-', '_')}__{self.array}"]

    def compare(self) -> tuple[np.ndarray, np.ndarray]:
        """(ours, theirs)."""
        encoding = _encode(self.model, self.size, self.positions)
        text = _classes() if self.texts == "classes" else _texts(self.model, "tokens")
        text = text[1:2] if self.texts == "second" else text
        ours = eclip.METHODS[self.method](encoding, text, **self.options).numpy()
        ours = ours * encoding.backbone.logit_scale if self.scaled else ours
        theirs = self.read(_golden(self.file, self.model, self.array), encoding)
        return (ours if self.image is None else ours[self.image]), theirs


@cache
def _stated(file: str) -> dict[str, float]:
    """Absolute tolerance of each array of a file; the relative one is 1e-4 for all."""
    section = (GOLDEN / "README.md").read_text(encoding="utf-8").split(f"## {file}.npz")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w\S*) \|.*\| rtol 0\.0001, atol (\S+) \|", section, flags=re.M)
    return {name: float(atol) for name, atol in rows}


def _cosines(tokens: np.ndarray, encoding: Encoding) -> np.ndarray:
    """The cosines of stored tokens with the classes; of some methods the CLS row is stored as well."""
    patches = tokens[:, -encoding.grid.row * encoding.grid.col :]
    unit = patches / np.linalg.norm(patches, axis=-1, keepdims=True)
    return (unit @ _classes().numpy().T).transpose(0, 2, 1).reshape(len(tokens), -1, *encoding.grid)


def _on_grid(stored: np.ndarray, encoding: Encoding) -> np.ndarray:
    return stored.reshape(*stored.shape[:-1], *encoding.grid)


def _without_cls(rows: np.ndarray, encoding: Encoding) -> np.ndarray:
    """A row of attention an image, the same for all three texts."""
    return np.repeat(_on_grid(rows[:, None, encoding.prefix :], encoding), 3, axis=1)


def _sum_of_blocks(stored: np.ndarray, encoding: Encoding) -> np.ndarray:
    return stored.sum(axis=1)


def _cases() -> Iterator[Case]:
    for model in MODELS:
        pool = model == "tiny-rn"
        yield Case(model, "itsm", "itsm", "similarity_native", texts="classes", read=_patch_rows)
        for size in ["native", "rect96x160"] if pool else ["native", "square96", "rect48x80"]:
            array = f"scores_{size}" + ("" if pool else "_clip_quickgelu_eps1e-5")
            yield Case(model, "maskclip", "maskclip", array, size, "bicubic", texts="classes")
        for size in ["native", "square192"] if pool else ["native", "square96"]:
            for resnet in ["released_vv", "normed_scale8"] if pool else [""]:
                array = f"fsurgery_scores_{size}_{resnet}".rstrip("_")
                options = {"resnet": resnet} if resnet else {}
                yield Case(model, "surgery", "clip_surgery", array, size, "bilinear", options, "classes", _patch_rows)
        yield from _resnet_cases(model) if pool else _vit_cases(model)


def _vit_cases(model: str) -> Iterator[Case]:
    dense = {"texts": "classes", "read": _cosines}
    for size in ["native", "square96", "rect48x80"]:
        off = "bicubic_plus01"
        yield Case(model, "sclip", "sclip", f"tokens_{size}", size, off, **dense)
        yield Case(model, "clearclip", "clearclip", f"patch_tokens_{size}_ClearCLIP_nores", size, off, **dense)
        for kind, options in {
            "reduced_naclip": {},
            "vanilla_naclip": {"reduced": False},
            "reduced_kk": {"neighbors": False},
        }.items():
            if f"tokens_{size}_{kind}" in _names("naclip", model):
                yield Case(model, "naclip", "naclip", f"tokens_{size}_{kind}", size, off, options, **dense)
    clean = "rect48x80", "bicubic"
    yield Case(model, "sclip", "sclip", "tokens_rect48x80_CLEAN_possize", *clean, **dense)
    yield Case(model, "naclip", "naclip", "tokens_rect48x80_reduced_naclip_CLEAN_possize", *clean, **dense)
    for kind, options in {
        "ClearCLIP_res": {"residual": True},
        "MaskCLIP_nores": {"attention": "identity"},
        "vanilla_nores": {"attention": "qk"},
    }.items():
        yield Case(model, "clearclip", "clearclip", f"patch_tokens_native_{kind}", options=options, **dense)
    for size in ["native", "rect48x80"]:
        for kind, options in {"res": {}, "nores": {"residual": False}}.items():
            yield Case(model, "gem", "gem", f"patch_tokens_{size}_{kind}", size, options=options, **dense)
    yield Case(model, "gradcam", "gradcam", "raw_lastblock_ln1", scaled=True)
    options = {"layer": "input"}
    yield Case(model, "gradcam", "gradcam", "raw_input_of_lastblock", options=options, scaled=True)
    rows = {"read": lambda stored, encoding: _without_cls(stored[:, :, 0].mean(axis=1), encoding)}
    yield Case(model, "attention", "chefer", "attention_lastblock", **rows)
    yield Case(model, "rollout", "chefer", "rollout_allblocks_matrix_cls_row", read=_without_cls)
    depth = int(model.removeprefix("tiny-vit") or 8)
    for image in (0, 1):
        for array, options in {"lastblock": {}, "allblocks": {"depth": depth}}.items():
            name = f"image_relevance_{array}_image{image}"
            yield Case(model, "chefer", "chefer", name, options=options, read=_on_grid, image=image)
    for array in sorted(_names("legrad", model)):
        if array.startswith("raw_"):
            size, image = _place(array)
            options = {"depth": None} if "allblocks" in array else {}
            yield Case(model, "legrad", "legrad", array, size, options=options, read=_sum_of_blocks, image=image)
    kinds = {
        "OPTION_nativeheads_image_raw_script": {},
        "image_raw_script": {"heads": "single"},
        "image_raw_notebook": {"heads": "single", "loosened": "notebook"},
        "image_raw_withoutksim": {"heads": "single", "loosened": "none"},
    }
    for array in sorted(_names("grad_eclip", model)):
        kind = array.rpartition("_")[0]
        if kind in kinds:
            size, image = _place(array)
            options = kinds[kind]
            yield Case(model, "gradeclip", "grad_eclip", array, size, "bicubic", options, image=image)


def _resnet_cases(model: str) -> Iterator[Case]:
    yield Case(model, "gradcam", "gradcam", "raw_layer4", scaled=True)
    for image in (0, 1):
        for count in (51, 300):
            yield Case(
                model,
                "gscorecam",
                "gscorecam",
                f"cam_raw_top{count}_image{image}",
                options={"channels": count},
                read=lambda stored, encoding: stored[None],
                texts="second",
                image=image,
            )


def _place(array: str) -> tuple[str, int]:
    """native0 and native1 are the two images of that size; others have one."""
    last = array.rpartition("_")[2]
    return ("native", int(last[-1])) if last.startswith("native") else (last, 0)


def _patch_rows(stored: np.ndarray, encoding: Encoding) -> np.ndarray:
    """The stored (image, token, text) rows without the prefix, as (image, text, row, col)."""
    return stored[:, encoding.prefix :].transpose(0, 2, 1).reshape(len(stored), -1, *encoding.grid)


def _names(file: str, model: str) -> set[str]:
    prefix = f"{model.replace('-', '_')}__"
    return {name.removeprefix(prefix) for name in _arrays(file) if name.startswith(prefix)}


CASES = [case for case in _cases() if GOLDEN == FULL or case.array in _names(case.file, case.model)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_method_equals_its_authors(case: Case) -> None:
    ours, theirs = case.compare()
    assert np.abs(theirs).max() > 10 * case.atol, "an array of zeros would agree with anything"
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=case.atol)


@pytest.mark.parametrize("model", MODELS)
def test_rclip_is_itsm_upside_down(model: str) -> None:
    encoding = _encode(model, "native", "bicubic_aa")
    golden = _patch_rows(_golden("itsm", model, "similarity_native"), encoding)
    _close(eclip.METHODS["rclip"](encoding, _classes()), -golden, 1e-5)


@pytest.mark.parametrize(("model", "resnet"), [*((vit, "") for vit in VITS), *(("tiny-rn", kind) for kind in RESNETS)])
def test_surgery_of_a_single_text(model: str, resnet: str) -> None:
    encoding = _encode(model, "native", "bilinear")
    options = {"resnet": resnet} if resnet else {}
    golden = _golden("clip_surgery", model, f"single_text_scores_native_{resnet}".rstrip("_"))
    empty = _texts(model, "tokens_empty")[0]
    ours = eclip.METHODS["surgery"](encoding, _texts(model, "tokens")[:1], reference=empty, **options)
    _close(ours, _patch_rows(golden, encoding), 1e-5)


@pytest.mark.parametrize("model", VITS)
def test_decompose(model: str) -> None:
    encoding = _encode(model, "native", "bicubic_aa")
    chosen = _golden("clip_prs", model, "chosen_class")
    maps = eclip.METHODS["decompose"](encoding, _classes())[[0, 1], chosen]
    _close(maps, _golden("clip_prs", model, "segmentation_raw"), 1e-6)
    found = terms(encoding)
    _close(found.attention, _golden("clip_prs", model, "attention_terms"), 1e-6)
    _close(found.rest, _golden("clip_prs", model, "mlp_terms"), 1e-5)


@pytest.mark.parametrize("model", VITS)
def test_gradeclip_with_one_head_explains_another_score(model: str) -> None:
    """The release's single head is not the model's: its cosines are stored, and differ from the model's own."""
    encoding = _encode(model, "native", "bicubic")
    last = gather(encoding, "gradeclip")
    cosines = cosine(last.features(_single_head(last))[:, 0], _texts(model, "tokens"))
    for image in (0, 1):
        _close(cosines[image], _golden("grad_eclip", model, f"score_singlehead_native{image}"), 1e-5)
    own = cosine(encoding.feature, _texts(model, "tokens"))
    assert (own - cosines).abs().max() > 1e-3
