"""The API of the page: its answers are the library's, and what it must refuse it refuses."""

# what is not installed is found out before it is imported

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [web]")
pytest.importorskip("multipart", reason="needs the extra [web]")

import httpx
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip.backbones.head import EclipHead
from eclip.cli import app as command_line
from eclip.errors import ImageError, OptionError
from eclip.metrics import METRICS
from eclip.web import arrays, gallery, settings
from eclip.web.arrays import unpacked
from eclip.web.engine import Engine
from eclip.web.refusals import Refusal
from eclip.web.serve import address_of
from eclip.web.settings import Limits, Settings, check_address
from eclip.web.store import Held, Store, plain_name
from eclip.web.worker import Worker
from serving import Served, served

API = "/api/v1/"
SMALL = Limits(file_bytes=1 << 20, pixels=250_000, memory=64 << 20)


@pytest.fixture(scope="module")
def server(tiny_name: str) -> Iterator[Served]:
    with served(Settings(models=(tiny_name,), limits=SMALL)) as one:
        yield one


@pytest.fixture(scope="module")
def file(images: Path) -> Path:
    return images / "a.png"


@pytest.fixture
def image(server: Served, file: Path) -> str:
    return upload(server, file.read_bytes(), file.name)["id"]


def upload(server: Served, data: bytes, name: str = "a.png") -> dict[str, Any]:
    answer = server.client.post(f"{API}images", files=[("files", (name, data))])
    assert answer.status_code == 200, answer.text
    return answer.json()["images"][0]


def ask(server: Served, path: str, **body: Any) -> Any:
    answer = server.client.post(f"{API}{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int, *words: str) -> dict[str, str]:
    """The error of an answer, with the one shape that all errors have."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error: dict[str, str] = answer.json()["error"]
    assert error.keys() == {"type", "message", "hint"}
    for word in words:
        assert word in f"{error['type']} {error['message']} {error['hint']}", error
    return error


TEXTS = ["a dog", "grass", "a dog and a cat"]


# Answers


@pytest.mark.parametrize("method", ["maskclip", "surgery", "gradcam", "attention"])
def test_maps_and_scores_are_those_of_explain(
    server: Served, image: str, file: Path, tiny_name: str, method: str
) -> None:
    answer = ask(server, "explain", images=[image], texts=TEXTS, method=method)
    own, r = answer["images"][0], eclip.explain(file, TEXTS, model=tiny_name, method=method)
    np.testing.assert_array_equal(unpacked(own["maps"]), r.maps[0])
    assert answer["signed"] is r.signed and own["grid"] == list(r.provenance["grid"])
    assert r.health is not None
    for number, one in enumerate(own["texts"]):
        assert one["score"] == pytest.approx(float(r.scores[0, number]), abs=1e-7)
        assert one["level"] == pytest.approx(r.level(0, number))
        assert one["otsu"] == pytest.approx(r.level(0, number, "otsu"))
        assert one["boxes"] == r.boxes(0, number).tolist()
        assert one["points"]["coordinates"] == r.points(0, number)[0].tolist()
        assert one["doubt"] == r.doubt(0, number)
        assert [f"{TEXTS[number]}: {each['sentence']}" for each in one["warnings"]] == r.health.warnings(0, number)
        assert all(each["advice"] for each in one["warnings"])
        noted = r.health.noted(0)[TEXTS[number]]
        assert one["health"] == {name: value for name, value in noted.items() if name != "warnings"}


def test_a_contrast_of_two_texts(server: Served, image: str, file: Path, tiny_name: str) -> None:
    answer = ask(server, "explain", images=[image], texts=["a dog"], versus="a cat", method="maskclip")
    r = eclip.explain(file, "a dog", versus="a cat", model=tiny_name, method="maskclip")
    np.testing.assert_array_equal(unpacked(answer["images"][0]["maps"]), r.maps[0])
    assert answer["images"][0]["texts"][0]["label"] == "a dog, not a cat"


def test_many_images_in_one_call_and_as_half_precision(server: Served, images: Path) -> None:
    files = [images / "a.png", images / "b.jpg"]
    sent = [("files", (one.name, one.read_bytes())) for one in files]
    ids = [one["id"] for one in server.client.post(f"{API}images", files=sent).json()["images"]]
    answer = ask(server, "explain", images=ids, texts=TEXTS, method="itsm", dtype="float16")
    assert [one["name"] for one in answer["images"]] == ["a.png", "b.jpg"]
    for one, own in zip(files, answer["images"], strict=True):
        maps = eclip.explain(one, TEXTS, model=server.state.engine.model(None)[1], method="itsm").maps[0]
        assert own["maps"]["dtype"] == "float16"
        np.testing.assert_allclose(unpacked(own["maps"]), maps, rtol=1e-3, atol=1e-5)


def test_octet_stream_is_a_file_for_numpy(server: Served, image: str, file: Path, tiny_name: str) -> None:
    body = {"images": [image], "texts": TEXTS, "method": "itsm"}
    answer = server.client.post(f"{API}explain", json=body, headers={"Accept": "application/octet-stream"})
    assert answer.headers["content-type"] == "application/octet-stream"
    found, r = np.load(io.BytesIO(answer.content)), eclip.explain(file, TEXTS, model=tiny_name, method="itsm")
    np.testing.assert_array_equal(found["maps"], r.maps)
    np.testing.assert_allclose(found["scores"], r.scores, atol=1e-7)


def test_words_and_pairs(server: Served, image: str, file: Path, tiny_name: str) -> None:
    text = "a dog and a cat"
    words = ask(server, "words", image=image, text=text, method="leave_one_out")
    [expected] = eclip.explain_words(file, text, model=tiny_name, method="leave_one_out").entries()
    assert words["words"] == expected["words"]
    pairs, own = ask(server, "interactions", image=image, text=text), eclip.interactions(file, text, model=tiny_name)
    np.testing.assert_array_equal(unpacked(pairs["values"]), own.values)
    assert pairs["words"] == list(own.words) and pairs["total"] == pytest.approx(own.total)


def test_patches_layers_and_heads(server: Served, image: str, file: Path, tiny_name: str) -> None:
    backbone = eclip.load(tiny_name)
    encoding = eclip.encode(backbone, backbone.preprocess(eclip.explain(file, "a", model=backbone).image())[None])
    like = unpacked(ask(server, "similarity", image=image)["similarity"])
    np.testing.assert_allclose(like[1, 2], eclip.similarity(encoding, (1, 2))[0], atol=2e-3)
    weights = unpacked(ask(server, "attention", image=image)["attention"])
    assert weights.shape[:2] == (7, 2)
    expected = eclip.attention(encoding, 3, 1)[0, 0, encoding.prefix :].unflatten(0, encoding.grid)
    np.testing.assert_allclose(weights[3, 1], expected, atol=1e-3)
    answer = ask(server, "layers", image=image, text="a dog")
    r = eclip.explain(file, "a dog", model=backbone, method="decompose", centered=False)
    np.testing.assert_allclose(unpacked(answer["layers"]).sum(axis=(0, 1)), r.maps[0, 0], atol=1e-5)
    assert answer["score"] == pytest.approx(float(r.scores[0, 0]), abs=1e-6)


def test_compare_has_a_row_or_a_reason_for_each_method(server: Served, image: str, file: Path, tiny_name: str) -> None:
    answer = ask(server, "compare", image=image, texts=["a dog", "grass"])
    c = eclip.compare(file, ["a dog", "grass"], models=tiny_name)
    assert [row["method"] for row in answer["rows"]] == [name for _, name in c.pairs]
    for row in answer["rows"]:
        pair = next(pair for pair in c.pairs if pair[1] == row["method"])
        if pair in c.not_applicable:
            assert row["why"] == c.not_applicable[pair]
        else:
            np.testing.assert_array_equal(unpacked(row["maps"]), c.explanations[pair].drawn())
            assert row["cost"] >= 1 and row["levels"][0] == pytest.approx(c.explanations[pair].level())
    assert any(row["why"] for row in answer["rows"])  # eclip, without a head


def test_classes_and_their_files(server: Served, image: str, file: Path, tiny_name: str) -> None:
    asked: dict[str, Any] = {"classes": ["dog, puppy", "grass"], "background": ["sky"]}
    answer, s = ask(server, "segment", image=image, **asked), eclip.segment(file, model=tiny_name, **asked)
    assert answer["areas"] == s.areas() and answer["classes"] == list(s.classes)
    picture = Image.open(io.BytesIO(unpacked({"dtype": "uint8", "shape": [-1], "data": answer["picture"]}).tobytes()))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(s.overlay(legend=False)))
    coco = server.client.post(f"{API}segment/export", json={"image": image, "format": "coco", **asked}).json()
    assert coco["annotations"] == s.to_coco()["annotations"] and coco["images"][0]["file_name"] == "a.png"
    found = server.client.post(f"{API}segment/export", json={"image": image, "format": "npz", **asked})
    np.testing.assert_array_equal(np.load(io.BytesIO(found.content))["labels"], s.labels[0])


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def truth(server: Served, image: str, data: bytes, name: str = "mask.png", text: int = 1) -> httpx.Response:
    asked = json.dumps({"image": image, "texts": TEXTS, "method": "maskclip", "text": text, "format": "json"})
    return server.client.post(f"{API}truth", files={"mask": (name, data)}, data={"asked": asked})


def test_a_mask_is_scored_by_the_metrics(server: Served, image: str, file: Path, tiny_name: str) -> None:
    inside = np.zeros((30, 40), bool)
    inside[5:20, 10:30] = True
    answer = truth(server, image, png(inside.astype(np.uint8) * 255)).json()
    heat = eclip.explain(file, TEXTS, model=tiny_name, method="maskclip").heatmap(0, 1)
    assert answer["contrast"] == pytest.approx(METRICS["contrast"](heat, inside, ~inside))
    assert answer["pointing_game"] == METRICS["pointing_game"](heat, inside, ~inside)
    curve = unpacked(answer["curve"])
    assert curve[64] == pytest.approx(METRICS["iou"](heat, inside, ~inside, threshold=0.25), abs=1e-6)
    assert answer["best"]["iou"] == pytest.approx(curve.max(), abs=1e-6)
    refused(truth(server, image, png(inside), text=3), 422, "one of the 3 texts, from 0, got 3")


def test_masks_that_cannot_be_scored(server: Served, image: str) -> None:
    refused(truth(server, image, png(np.zeros((30, 40), np.uint8))), 422, "black everywhere")
    refused(truth(server, image, png(np.ones((40, 30), np.uint8))), 422, "30 x 40", "40 x 30")
    buffer = io.BytesIO()
    Image.new("L", (40, 30), 255).save(buffer, "JPEG")
    refused(truth(server, image, buffer.getvalue(), "mask.jpg"), 422, "JPEG", "save the mask as PNG")
    refused(truth(server, image, b"no image"), 415, "not a readable image")


@pytest.mark.parametrize("threshold", [None, 0.37])
def test_the_picture_is_the_overlay(
    server: Served, image: str, file: Path, tiny_name: str, threshold: float | None
) -> None:
    asked = {"image": image, "texts": TEXTS, "method": "maskclip", "text": 2, "alpha": 0.6, "threshold": threshold}
    answer = server.client.post(f"{API}export", json={**asked, "format": "png"})
    r = eclip.explain(file, TEXTS, model=tiny_name, method="maskclip")
    expected = r.overlay(0, 2, threshold=threshold, alpha=0.6)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(expected))
    assert 'filename="a-a-dog-and-a-cat.png"' in answer.headers["content-disposition"]
    refused(server.client.post(f"{API}export", json={**asked, "text": 3, "format": "png"}), 422, "one of the 3 texts")


def test_names_outside_ascii_are_kept(server: Served, file: Path) -> None:
    own = upload(server, file.read_bytes(), "狗.png")["id"]
    asked = {"image": own, "texts": ["猫"], "method": "maskclip", "format": "png", "health": False}
    said = server.client.post(f"{API}export", json=asked).headers["content-disposition"]
    assert unquote(said.partition("filename*=UTF-8''")[2]) == "狗-猫.png"


def test_arrays_json_and_a_page_of_its_own(server: Served, file: Path, tiny_name: str) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\"'.png"
    own = upload(server, file.read_bytes() + b" ", hostile)["id"]
    asked = {"image": own, "texts": [hostile, "b"], "method": "maskclip"}
    get = {one: server.client.post(f"{API}export", json={**asked, "format": one}) for one in ("npz", "json", "html")}
    r = eclip.explain(file, asked["texts"], model=tiny_name, method="maskclip")
    np.testing.assert_array_equal(np.load(io.BytesIO(get["npz"].content))["maps"], r.maps[0])
    noted = get["json"].json()
    np.testing.assert_allclose(noted["maps"]["b"], r.maps[0, 1], atol=1e-6)
    assert noted["boxes"]["b"] == r.boxes(0, 1).tolist() and noted["provenance"]["model"] == tiny_name
    page = get["html"].text
    assert "<img src=x" not in page and page.count("</script>") == 2 and "import " not in page.split("<script")[2]
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_the_command_and_the_python_lines_repeat_the_answer(
    server: Served, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "it's a dog; $(ls).png"
    (tmp_path / name).write_bytes(file.read_bytes() + b"  ")
    own = upload(server, (tmp_path / name).read_bytes(), f"C:\\folder\\{name}")["id"]
    answer = ask(server, "explain", images=[own], texts=['"quoted" text', "b"], method="legrad", options={"depth": 3})
    maps, told = unpacked(answer["images"][0]["maps"]), answer["images"][0]["repeat"]
    import shlex

    words = [*shlex.split(told["command"])[1:], "-o", "out", "--format", "npz,json"]
    result = CliRunner().invoke(command_line, words)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(eclip.Explanation.load("out").maps[0], maps)
    scope: dict[str, Any] = {}
    exec(told["python"], scope)
    np.testing.assert_array_equal(scope["r"].maps[0], maps)


def test_examples_are_those_of_like(
    server: Served, images: Path, tiny_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes((images / name).read_bytes())
    own, other = (upload(server, (tmp_path / name).read_bytes(), name)["id"] for name in ("a.png", "b.jpg"))
    asked = ["a dog", {"like": other, "box": [2, 3, 30, 20]}, {"like": own}]
    texts = ["a dog", eclip.like("b.jpg:2,3,30,20"), eclip.like("a.png")]
    settings: dict[str, Any] = {"method": "maskclip", "versus": "like a.png"}
    answer = ask(server, "explain", images=[own], texts=asked, **settings)["images"][0]
    r = eclip.explain("a.png", texts, model=tiny_name, **settings)
    np.testing.assert_array_equal(unpacked(answer["maps"]), r.maps[0])
    assert [one["text"] for one in answer["texts"]] == ["a dog", "like b.jpg:2,3,30,20", "like a.png"]
    assert answer["texts"][1]["health"]["presence"] is None
    scope: dict[str, Any] = {}
    exec(answer["repeat"]["python"], scope)
    np.testing.assert_array_equal(scope["r"].maps, r.maps)
    assert answer["repeat"]["command"] == r.provenance["command"]
    compared = ask(server, "compare", image=own, texts=asked, methods=["maskclip", "itsm"])
    np.testing.assert_array_equal(
        unpacked(compared["rows"][0]["maps"]), eclip.explain("a.png", texts, model=tiny_name, method="maskclip").maps[0]
    )


def test_an_example_is_encoded_once(server: Served, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import eclip.texts.like

    calls: list[Any] = []
    real = eclip.texts.like._mean_feature
    monkeypatch.setattr(eclip.texts.like, "_mean_feature", lambda *given: calls.append(1) or real(*given))
    own = upload(server, (images / "a.png").read_bytes(), "once.png")["id"]
    asked: list[dict[str, Any]] = [{"like": own, "box": [1, 2, 20, 30]}, {"like": own}]
    first = ask(server, "explain", images=[own], texts=["a dog", *asked], method="itsm")["images"][0]
    asked[0]["name"] = "mug"
    again = ask(server, "explain", images=[own], texts=["a cat", *asked], method="itsm")["images"][0]
    assert len(calls) == 2 and [one["score"] for one in first["texts"][1:]] == [
        one["score"] for one in again["texts"][1:]
    ]
    assert (
        "--like=once.png" in first["repeat"]["command"]
        and "'FILE', box=(1, 2, 20, 30), name='mug'" in again["repeat"]["python"]
    )


def test_examples_of_equal_names_are_named(server: Served, images: Path) -> None:
    own, other = (upload(server, (images / name).read_bytes(), "image.png")["id"] for name in ("a.png", "b.jpg"))
    two: list[dict[str, Any]] = [{"like": own}, {"like": other}]
    refused(server.client.post(f"{API}explain", json={"images": [own], "texts": two}), 400, "have the name 'like image")
    two[1]["name"] = "mug"
    answer = ask(server, "explain", images=[own], texts=two, method="itsm")["images"][0]
    assert [one["text"] for one in answer["texts"]] == ["like image.png", "mug"]
    assert answer["repeat"]["command"] is None and "eclip.like('FILE', name='mug')" in answer["repeat"]["python"]
    answer = ask(server, "explain", images=[other], texts=two[:1], method="itsm")["images"][0]  # of another image.png
    assert (
        answer["repeat"]["command"] is None
        and "eclip.like('FILE', name='like image.png')" in answer["repeat"]["python"]
    )
    two[1]["box"] = [0, 1, 20, 19]
    for path, of in (
        ("explain", {"images": [own], "method": "itsm"}),
        ("compare", {"image": own, "methods": ["itsm"]}),
    ):
        answer = ask(server, path, texts=two, **of)
        python = answer.get("images", [answer])[0]["repeat"]["python"]
        assert "eclip.like('FILE', box=(0, 1, 20, 19), name='mug')" in python
    for query, status, words in (
        ({"like": own, "box": [0, 0, 9999, 9]}, 400, ["OptionError", "is not inside the image"]),
        ({"like": own, "box": [0, 0, 9]}, 422, ["texts.0"]),
        ({"like": own, "name": "  "}, 422, ["texts.0.Example.name"]),
        ({"like": "unknown"}, 404, ["UnknownImage"]),
    ):
        refused(server.client.post(f"{API}explain", json={"images": [own], "texts": [query]}), status, *words)
    many = {"images": [own], "texts": [{"like": own, "name": f"{number}"} for number in range(17)]}
    refused(server.client.post(f"{API}explain", json=many), 422, "at most 16 of them may be examples, got 17")
    refused(server.client.post(f"{API}words", json={"image": own, "text": two[0]}), 422, "text")


def test_the_python_lines_name_the_head(
    tiny_folder: Path, tiny_name: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = eclip.load(tiny_name)
    EclipHead.start(backbone, "value", init="random", seed=3).save(tmp_path / "head")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(file.read_bytes())
    with served(Settings(models=(tiny_name,), head=str(tmp_path / "head"))) as one:
        own = upload(one, file.read_bytes())["id"]
        answer = ask(one, "explain", images=[own], texts=["a dog"], method="eclip")["images"][0]
        compared = ask(one, "compare", image=own, texts=["a dog"], methods=["eclip", "itsm"])
        assigned = ask(one, "segment", image=own, classes=["a dog", "grass"], method="eclip")
        plain = ask(one, "explain", images=[own], texts=["a dog"], method="itsm")["images"][0]
    scope: dict[str, Any] = {}
    exec(answer["repeat"]["python"], scope)
    np.testing.assert_allclose(scope["r"].maps[0], unpacked(answer["maps"]), atol=1e-6)
    for told in (compared, assigned):
        assert f"eclip.load({tiny_name!r}, head={str(tmp_path / 'head')!r})" in told["repeat"]["python"]
        exec(told["repeat"]["python"], {})
    assert "eclip.load" not in plain["repeat"]["python"]


def test_classes_that_are_cut_are_told(server: Served, image: str) -> None:
    long = " ".join(["dog"] * 240)
    for answer in (
        ask(server, "segment", image=image, classes=[long, "grass"]),
        ask(server, "compare", image=image, texts=[long], methods=["itsm"]),
    ):
        assert any("words" in said for said in answer["warnings"]), answer["warnings"]


def test_one_forward_pass_for_any_number_of_questions(server: Served, file: Path) -> None:
    own = upload(server, file.read_bytes() + b"   ")["id"]
    model, calls = server.state.engine.model(None)[1].model, []
    handle = None
    ask(server, "explain", images=[own], texts=["a"], method="itsm")
    held = server.state.store.get(own)
    first = held.encodings[server.state.default][0]
    for method in ("itsm", "gem", "rollout"):
        ask(server, "explain", images=[own], texts=["b", "c"], method=method)
    assert held.encodings[server.state.default][0] is first
    assert model is server.state.engine.model(None)[1].model and not calls and handle is None


def test_concepts_need_a_mean(server: Served, image: str) -> None:
    answer = server.client.post(f"{API}concepts", json={"image": image})
    refused(answer, 400, "mean")
    assert server.client.get(f"{API}models").json()[0]["concepts"] is False  # so the page does not ask


# Refusals


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"texts": []}, 422, ["texts", "at least 1"]),
        ({"texts": [""]}, 422, ["texts.0"]),
        ({"texts": ["  "]}, 400, ["TextError", "is empty"]),
        ({"texts": ["a" * 1001]}, 422, ["texts.0", "1000"]),
        ({"texts": ["a"] * 65}, 422, ["texts", "64"]),
        ({"texts": ["a"], "method": "grad-cam"}, 400, ["UnknownNameError", "gradcam"]),
        ({"texts": ["a"], "method": "eclip"}, 422, ["NoHeadError"]),
        ({"texts": ["a"], "model": "ViT-B-32/openai"}, 400, ["UnknownNameError", "eclip serve --models"]),
        ({"texts": ["a"], "method": "gem", "options": {"depht": 3}}, 400, ["OptionError", "depth"]),
        ({"texts": ["a"], "method": "gem", "options": {"image_size": 4096}}, 400, ["OptionError", "image_size"]),
        ({"texts": ["a"], "method": "gem", "options": {"device": "cuda"}}, 400, ["OptionError", "device"]),
        ({"texts": ["a"], "method": "no", "options": {"depth": 3}}, 400, ["UnknownNameError"]),
        ({"texts": ["a"], "options": {"depth": 3}}, 400, ["options belong to a method"]),
        ({"texts": ["a"], "method": "rise", "options": {"mask_count": 10**9}}, 400, ["how long it takes"]),
        ({"texts": ["a"], "method": "attention", "versus": "b"}, 400, ["cannot explain the difference"]),
        ({"texts": ["a"], "templates": "a photo of {}"}, 422, ["templates", "imagenet80"]),
        ({"texts": ["a"], "refine": "nothing"}, 400, ["UnknownNameError", "/refinements", "leave_one_out"]),
        ({"texts": ["a"], "surprise": 1}, 422, ["surprise"]),
        ({"texts": ["a"], "images": ["../../etc/passwd"]}, 422, ["images.0"]),
        ({"texts": ["a"], "images": ["unknown"]}, 404, ["UnknownImage", "upload it again"]),
    ],
)
def test_wrong_questions_get_a_sentence(
    server: Served, image: str, body: dict[str, Any], status: int, words: list[str]
) -> None:
    refused(server.client.post(f"{API}explain", json={"images": [image], **body}), status, *words)


def test_what_is_no_json_and_what_is_not_there(server: Served) -> None:
    refused(server.client.post(f"{API}explain", content=b"{", headers={"Content-Type": "application/json"}), 422)
    refused(server.client.get(f"{API}nothing"), 404, "nothing at this address")
    refused(server.client.get(f"{API}explain"), 405)
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "//etc/passwd"):
        refused(server.client.get(path), 404)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_files_that_are_no_images(server: Served, file: Path) -> None:
    data = file.read_bytes()
    cases: list[tuple[bytes, int, str]] = [
        (b"", 415, "empty"),
        (b"not an image", 415, "not a readable image"),
        (data[: len(data) // 2], 415, "damaged"),
        (bomb(1000, 1000), 413, "1000 x 1000"),
        (bomb(60_000, 60_000), 413, "TooLarge"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", 415, "not a readable image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not a readable image"),
        (bytes(2 << 20), 413, "the request is larger than 2 MiB"),
    ]
    for content, status, word in cases:
        answer = server.client.post(f"{API}images", files=[("files", ("a.png", content))])
        refused(answer, status, word)
    many = [("files", (f"{number}.png", data)) for number in range(17)]
    refused(server.client.post(f"{API}images", files=many), 413, "TooMany")
    refused(server.client.post(f"{API}images", files=[("wrong", ("a.png", data))]), 422, "files")
    assert upload(server, data)["width"] == 40  # and the server goes on


def test_a_body_without_a_length_is_bounded_too(server: Served) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(64):
            yield bytes(1 << 16)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = server.client.post(f"{API}images", content=endless(), headers=headers)
    refused(answer, 413, "TooLarge")


def test_only_its_own_pages_are_answered(server: Served) -> None:
    client = server.client
    assert client.get("/").status_code == 200
    refused(client.get("/", headers={"Host": "evil.example"}), 421, "evil.example", "--allow-host")
    refused(client.get("/", headers={"Host": "evil.example:7860"}), 421)
    refused(client.get("/", headers={"Host": "192.168.1.1"}), 421)
    refused(client.get(f"{API}models", headers={"Origin": "https://evil.example"}), 403, "ForeignOrigin")
    refused(client.post(f"{API}explain", json={}, headers={"Origin": "null"}), 403, "ForeignOrigin")
    refused(client.get(f"{API}models", headers={"Origin": "http://["}), 403, "ForeignOrigin")
    refused(client.get(f"{API}models", headers={"Sec-Fetch-Site": "same-site"}), 403)
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # somebody's link
    own = {"Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    answer = client.get(f"{API}models", headers=own)
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_headers(server: Served) -> None:
    paths = ["/", "/docs", "/static/main.js", f"{API}about", f"{API}nothing", "/healthz", "/openapi.json"]
    answers = [server.client.get(path) for path in paths]
    answers.append(server.client.get("/", headers={"Host": "evil.example"}))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
    assert server.client.get(f"{API}about").headers["cache-control"] == "no-store"


def test_no_page_names_another_machine() -> None:
    folder = Path(gallery.__file__).parent / "static"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text.replace("`http://", ""), path.name
        if path.suffix == ".html":
            assert " style=" not in text and "<style" not in text and "javascript:" not in text
            assert not any(f" {event}=" in text for event in ("onclick", "onload", "onerror"))
    weight = sum(path.stat().st_size for path in folder.iterdir() if path.name not in ("docs.html", "docs.js"))
    assert weight < 200 * 1024, f"{weight / 1024:.0f} KiB"


def test_a_bug_shows_nothing_of_the_inside(
    server: Served, image: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret path /home/me")

    monkeypatch.setattr(server.state.engine, "explain", broken)
    answer = server.client.post(f"{API}explain", json={"images": [image], "texts": ["a"]})
    error = refused(answer, 500, "went wrong inside eclip")
    assert "secret" not in answer.text and "Traceback" not in answer.text
    number = error["message"].split("error ")[1].rstrip(").")
    assert number in caplog.text and "secret path" in caplog.text


def test_a_token_is_asked_for(tiny_name: str) -> None:
    with served(Settings(models=(tiny_name,), token="long enough", limits=SMALL)) as one:
        client = httpx.Client(base_url=one.address, trust_env=False)
        assert client.get("/").status_code == 200  # the page holds nothing
        assert client.get("/healthz").status_code == 200
        for path in (f"{API}about", f"{API}models", "/metrics", "/openapi.json"):
            answer = client.get(path)
            refused(answer, 401, "needs a token")
            assert answer.headers["www-authenticate"] == "Bearer"
            refused(client.get(path, headers={"Authorization": "Bearer wrong enough"}), 401, "not the one")
            assert one.client.get(path).status_code == 200
        assert one.client.get(f"{API}models", headers={"Host": "10.0.0.7:80"}).status_code == 200  # an address
        refused(one.client.get(f"{API}models", headers={"Host": "evil.example"}), 421)


def test_a_folder_to_look_at(tiny_name: str, images: Path) -> None:
    with served(Settings(models=(tiny_name,), gallery=images, hosts=("my.host",), limits=SMALL)) as one:
        about = one.client.get(f"{API}about").json()
        assert [picture["name"] for picture in about["gallery"]] == ["a.png", "b.jpg"] and not about["uploads"]
        first = about["gallery"][0]["id"]
        assert one.client.get(f"{API}images/{first}").headers["content-type"] == "image/png"
        assert ask(one, "explain", images=[first], texts=["a"])["images"][0]["name"] == "a.png"
        sent = one.client.post(f"{API}images", files=[("files", ("a.png", (images / "a.png").read_bytes()))])
        refused(sent, 403, "ReadOnly")
        refused(one.client.delete(f"{API}images/{first}"), 403, "Gallery")
        assert one.client.get("/healthz", headers={"Host": "my.host"}).status_code == 200
        for host, origin in (("127.0.0.1:7860", "https://my.host"), ("my.host", "https://My.Host:8443")):  # a proxy
            proxied = {"Host": host, "Origin": origin}
            assert one.client.get(f"{API}models", headers=proxied).status_code == 200
            refused(one.client.get(f"{API}models", headers={**proxied, "Sec-Fetch-Site": "same-site"}), 403)
            refused(one.client.get(f"{API}models", headers={**proxied, "Origin": "https://not.my.host"}), 403)
        refused(one.client.get(f"{API}models", headers={"Host": "not.my.host", "Origin": "https://my.host"}), 421)


def test_an_image_of_a_folder_that_is_replaced_is_encoded_anew(tiny_name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    file.write_bytes(png(noise[0]))
    with served(Settings(models=(tiny_name,), gallery=folder, limits=SMALL)) as one:
        first = one.client.get(f"{API}about").json()["gallery"][0]["id"]
        thumbnail = one.client.get(f"{API}images/{first}?thumbnail=true").content
        before = ask(one, "explain", images=[first], texts=["a dog"])["images"][0]
        file.write_bytes(png(noise[1].transpose(1, 0, 2)))
        after = ask(one, "explain", images=[first], texts=["a dog"])["images"][0]
        wanted = eclip.explain(file, "a dog", model=tiny_name)
        np.testing.assert_allclose(unpacked(after["maps"]), wanted.maps[0], atol=1e-5)
        assert not np.allclose(unpacked(before["maps"]), wanted.maps[0], atol=1e-3)
        assert one.client.get(f"{API}images/{first}?thumbnail=true").content != thumbnail
        assert one.client.get(f"{API}images/{first}/about").json()["width"] == 30
        file.unlink()
        gone = one.client.get(f"{API}images/{first}/about")
        assert gone.status_code >= 400 and "a.png: no such file" in gone.text and str(folder) not in gone.text


def test_no_upload_is_written_to_disk(tiny_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", lambda self: pytest.fail("an upload went to disk"))
    with served(Settings(models=(tiny_name,))) as one:
        assert upload(one, png(noise))["width"] == 900  # 2.4 MB


def test_images_can_be_forgotten(server: Served, file: Path) -> None:
    own = upload(server, file.read_bytes() + b"    ")["id"]
    assert server.client.delete(f"{API}images/{own}").status_code == 200
    refused(server.client.get(f"{API}images/{own}"), 404, "UnknownImage")


def test_metrics_count_by_declared_address(server: Served, image: str) -> None:
    server.client.get(f"{API}images/{image}")
    refused(server.client.get("/", headers={"Host": "evil.example"}), 421)
    text = server.client.get("/metrics").text
    assert 'eclip_requests_total{address="/api/v1/images/{image}",status="200"}' in text
    assert 'eclip_requests_total{address="other",status="421"}' in text
    assert image not in text and "eclip_image_bytes" in text and "eclip_waiting 0.0" in text


def test_the_api_describes_itself(server: Served) -> None:
    found = server.client.get("/openapi.json").json()
    assert {"/api/v1/explain", "/api/v1/images", "/healthz", "/metrics"} <= found["paths"].keys()
    assert all(one["description"] for ways in found["paths"].values() for one in ways.values())


def test_the_models_weights_are_untouched(server: Served, image: str, tiny_name: str) -> None:
    backbone, fresh = server.state.engine.model(None)[1], eclip.load(tiny_name)
    for method in ("gradcam", "gem", "decompose"):
        ask(server, "explain", images=[image], texts=["a"], method=method)
    theirs = fresh.model.state_dict()
    assert all((value == theirs[name]).all() for name, value in backbone.model.state_dict().items())
    assert not any(module._forward_hooks for module in backbone.model.modules())


# Store


def held_in(store: Store, seed: int, side: int = 100) -> Held:
    image = Image.new("RGB", (side, side), (seed, 0, 0))
    return store.add(f"{seed}.png", bytes([seed]), image)


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    store = Store(Limits(memory=3 * 100 * 100 * 3))
    a, b, c = (held_in(store, seed) for seed in range(3))
    store.get(a.id)
    held_in(store, 3)
    assert store.get(a.id) and store.get(c.id)
    with pytest.raises(Refusal, match="no image"):
        store.get(b.id)
    with pytest.raises(Refusal, match="more than"):
        held_in(store, 4, side=400)
    assert store.bytes <= store.limits.memory


def test_encodings_are_dropped_before_images(tiny_name: str) -> None:
    store = Store(Limits())
    engine = Engine(Settings(models=(tiny_name,)), store)
    engine.models = {tiny_name: eclip.load(tiny_name)}
    ids = [held_in(store, seed).id for seed in range(4)]
    engine.prepare([(one, tiny_name) for one in ids], [])
    each = store.get(ids[0]).bytes - 100 * 100 * 3
    assert each > 10_000
    store.limits = Limits(memory=store.bytes - 2 * each)
    store.sweep()
    assert [len(held.encodings) for held in map(store.get, ids)] == [1, 0, 0, 1]  # the first was used again
    engine.prepare([(ids[1], tiny_name)], [])
    assert store.get(ids[1]).encodings


def test_images_are_forgotten_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    store = Store(Limits(idle=10), clock=lambda: now[0])
    a, b = held_in(store, 0), held_in(store, 1)
    Image.new("RGB", (4, 4)).save(tmp_path / "g.png")
    store.keep("g", "g.png", tmp_path / "g.png")
    now[0] = 8
    store.get(b.id)
    now[0] = 12
    store.sweep()
    assert len(store) == 1 and store.get(b.id) and store.get("g").image.size == (4, 4)
    with pytest.raises(Refusal):
        store.get(a.id)


def test_ids_cannot_be_guessed_from_the_file() -> None:
    one, other = Store(Limits()), Store(Limits())
    assert held_in(one, 7).id == held_in(one, 7).id != held_in(other, 7).id
    assert len(one) == 1


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\a\\b.png", "b.png"),
        ("a\nb\0.png", "ab.png"),
        ("", "image"),
        ("/", "image"),
    ],
)
def test_names_of_files_are_only_names(given: str, plain: str) -> None:
    assert plain_name(given) == plain
    assert len(plain_name("x" * 500 + ".png")) == 120


# Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker(lambda needs, others: None, waiting=8, seconds=30)
    one.start()
    yield one
    one.close()


class Gate:
    """A task that runs until it is opened."""

    def __init__(self) -> None:
        self.running, self.opened = threading.Event(), threading.Event()

    def __call__(self, check: Any) -> str:
        self.running.set()
        while not self.opened.wait(0.01):
            check()
        return "done"


def test_callers_take_turns(worker: Worker) -> None:
    gate, order = Gate(), list[str]()
    first = worker.submit("a", gate)
    gate.running.wait(5)
    jobs = [worker.submit(who, lambda check, who=who: order.append(who)) for who in "aaabbc"]
    gate.opened.set()
    for job in jobs:
        job.future.result(5)
    assert first.future.result(5) == "done" and order == ["a", "b", "c", "a", "b", "a"]


def test_the_queue_is_bounded_for_all_and_for_each(worker: Worker) -> None:
    gate = Gate()
    worker.submit("x", gate)
    gate.running.wait(5)
    for _ in range(6):
        worker.submit("a", gate)
    with pytest.raises(Refusal) as refusal:
        worker.submit("a", gate)
    assert refusal.value.status == 503 and refusal.value.headers["Retry-After"]
    for who in "bc":
        worker.submit(who, gate)
    with pytest.raises(Refusal, match="too many"):
        worker.submit("d", gate)
    gate.opened.set()


def test_what_nobody_waits_for_is_not_computed(worker: Worker) -> None:
    gate, ran = Gate(), list[int]()
    running = worker.submit("a", gate)
    gate.running.wait(5)
    waiting = worker.submit("a", lambda check: ran.append(1))
    waiting.stop()
    assert len(worker) == 0
    running.stop()  # at its next check
    assert worker.submit("a", lambda check: "next").future.result(5) == "next"
    assert not ran
    with pytest.raises(CancelledError):
        running.future.result(5)


def test_what_takes_too_long_is_given_up() -> None:
    worker = Worker(lambda needs, others: None, waiting=8, seconds=0.05)
    worker.start()
    with pytest.raises(Refusal, match="longer than"):
        worker.submit("a", Gate()).future.result(5)
    worker.close()


def test_an_error_does_not_end_the_worker(worker: Worker) -> None:
    def broken(_: Any) -> None:
        raise SystemExit("no")

    with pytest.raises(SystemExit):
        worker.submit("a", broken).future.result(5)
    assert worker.submit("a", lambda check: 1).future.result(5) == 1


def test_what_is_cancelled_leaves_the_queue(worker: Worker) -> None:
    gate = Gate()
    worker.submit("a", gate)
    gate.running.wait(5)
    for _ in range(100):
        worker.submit("a", gate).stop()
    assert len(worker._queues["a"]) == 1
    gate.opened.set()


def test_closing_refuses_and_cancels(worker: Worker) -> None:
    gate = Gate()
    worker.submit("a", gate)
    gate.running.wait(5)
    waiting = worker.submit("a", gate)
    worker.close()
    gate.opened.set()
    assert waiting.future.cancelled()
    with pytest.raises(Refusal, match="is closing"):
        worker.submit("a", gate)


def test_images_of_waiting_requests_share_a_forward_pass(tiny_name: str, images: Path) -> None:
    batches = list[int]()
    store = Store(SMALL)
    engine = Engine(Settings(models=(tiny_name,)), store, batches.append)
    engine.models = {tiny_name: eclip.load(tiny_name)}
    ids = []
    for seed in range(11):
        values = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        ids.append(store.add("a.png", bytes([seed]), Image.fromarray(values)).id)
    engine.prepare([(ids[0], tiny_name)], [*((one, tiny_name) for one in ids[1:]), ("gone", tiny_name), (ids[1], "no")])
    assert batches == [8]
    with pytest.raises(Refusal):
        engine.prepare([("gone", tiny_name)], [])
    broken = images.parent / "broken.png"
    broken.write_bytes((images / "a.png").read_bytes()[:200])
    store.keep("good", "a.png", images / "a.png")
    store.keep("broken", "broken.png", broken)
    engine.prepare([("good", tiny_name)], [("broken", tiny_name)])  # which finds out when it runs
    assert tiny_name in store.get("good").encodings
    with pytest.raises(ImageError, match="damaged"):
        engine.prepare([("broken", tiny_name)], [("good", tiny_name)])
    batches.pop()
    alone = eclip.explain(store.get(ids[3]).image, "a dog", model=tiny_name, method="gem")
    held, backbone, encoding, _ = engine.encoded(ids[3], None)
    assert batches == [8]
    text = eclip.encode_texts(backbone, ["a dog"])
    np.testing.assert_allclose(eclip.METHODS["gem"](encoding, text)[0], alone.maps[0], atol=1e-5)
    assert held.bytes > 3 * 40 * 40


def test_a_method_with_many_passes_stops_when_nobody_waits(tiny_name: str) -> None:
    store = Store(SMALL)
    engine = Engine(Settings(models=(tiny_name,)), store)
    engine.models = {tiny_name: eclip.load(tiny_name)}
    own = store.add("a.png", b"a", Image.new("RGB", (40, 40))).id
    from eclip.web import schemas

    asked = schemas.Explain(images=[own], texts=["a"], method="rise", health=False)
    worker = Worker(engine.prepare, waiting=4, seconds=60)
    worker.start()
    job = worker.submit("a", lambda check: engine.explain(asked, [own], check))
    while not job.future.running():
        time.sleep(0.005)
    job.stop()
    start = time.monotonic()
    assert worker.submit("b", lambda check: 1).future.result(30) == 1
    assert time.monotonic() - start < 5
    worker.close()


def test_a_caller_who_goes_away_frees_the_model(server: Served, image: str) -> None:
    body = {"images": [image], "texts": ["a"], "method": "rise", "health": False}
    with pytest.raises(httpx.ReadTimeout):
        server.client.post(f"{API}explain", json=body, timeout=0.05)
    start = time.monotonic()
    ask(server, "explain", images=[image], texts=["b"], method="itsm")
    assert time.monotonic() - start < 10


# Command line


def test_other_machines_need_a_token() -> None:
    for host in ("0.0.0.0", "192.168.1.7", "::"):
        with pytest.raises(OptionError, match="--token"):
            check_address(Settings(host=host))
        check_address(Settings(host=host, token="long enough"))
    for token in ("short", "schlüssel", " long enough", "long\nenough"):
        with pytest.raises(OptionError, match="8 characters, which browsers can send"):
            check_address(Settings(token=token))
    for name in ("demo.example.org:8443", "https://demo.example.org", "*.example.org", "", "müller.de", "a/b"):
        with pytest.raises(OptionError, match="without scheme, port"):
            check_address(Settings(hosts=(name,)))
    check_address(Settings(hosts=("demo.example.org", "LAB_1", "10.0.0.7", "::1", "[fe80::1]")))
    for host in settings.LOOPBACK:
        check_address(Settings(host=host))
    assert address_of(Settings(host="::1"), 80) == "http://[::1]:80/"
    assert address_of(Settings(token="a b/c long"), 80).endswith("#token=a%20b%2Fc%20long")


def test_wrong_options_are_usage_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*words: str) -> str:
        result = CliRunner().invoke(command_line, ["serve", *words])
        assert result.exit_code == 2, result.output
        return " ".join(result.output.split())

    assert "--token" in told("--host", "0.0.0.0")
    assert "needs a folder" in told("--read-only-gallery", str(tmp_path / "none"))
    assert "no image" in told("--read-only-gallery", str(tmp_path), "--port", "0")
    assert "--head" in told("--head", "head", "--models", "mini,ViT-B-32/openai")
    assert "65535" in told("--port", "70000")
    assert "Check --host." in told("--host", "::zz", "--token", "auto", "--port", "0")
    assert "Check --host." in told("--host", "192.0.2.1", "--token", "auto", "--port", "0")
    with served_port() as port:
        assert f"port {port}" in (said := told("--port", str(port))) and "another --port" in said


class served_port:
    """A port that is in use."""

    def __enter__(self) -> int:
        import socket

        self.socket = socket.create_server(("127.0.0.1", 0))
        return int(self.socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else name)
    result = CliRunner().invoke(command_line, ["serve"])
    assert result.exit_code == 1 and "pip install 'eclip[web]'" in result.output


@pytest.mark.long
def test_ctrl_c_stops_the_server(tiny_name: str) -> None:
    import signal

    words = [sys.executable, "-m", "eclip", "serve", "--models", tiny_name, "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    address = line.split()[-1]
    assert httpx.get(address, trust_env=False).status_code == 200
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0 and "stopped." in error and "Traceback" not in error and out == ""


def test_arrays_of_any_type_come_back() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float16", "uint8", "uint16"):
        values = (rng.random((2, 3, 5)) * 200).astype(dtype)
        np.testing.assert_array_equal(unpacked(arrays.packed(values)), values)
    assert replace(Settings(), port=1).port == 1 and tiny.VIT["patch_size"] == 8
