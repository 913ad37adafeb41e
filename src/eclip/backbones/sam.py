"""Segment Anything models of transformers: SAM, SAM 2 and SAM 3's tracker, from points and a box to masks.

An image is encoded once; each prompt is one pass through the small mask decoder, independent of all others. Only public
methods of the model are called: `get_image_embeddings` and its forward pass.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from eclip.backbones.building import built_apart
from eclip.backbones.catalog import SAM_CLASSES, SAM_EXAMPLE, sam_folder
from eclip.backbones.create import HF_CONFIG, fetch_weights, short
from eclip.backbones.devices import Device, resolve_device
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.backbones.host import named_tensors
from eclip.backbones.hub import fetch, one_folder
from eclip.backbones.huggingface import HF_COLORS, model_type, quietly, read_model, transformers_class
from eclip.backbones.unwrapped import check_accessible, unwrapped
from eclip.errors import EclipError, ImageError, MissingExtraError, ModelError, OptionError
from eclip.files import file_state

OFFLINE = "a model in a local folder needs no network"
PLAIN = {"output_attentions": False, "output_hidden_states": False}
"""Otherwise transformers would leave hooks on a model whose configuration asks for these outputs."""
INSTEAD = {
    "Sam3Model": "it takes texts and boxes but no points. Load Sam3TrackerModel from the same weights",
    "Sam2VideoModel": "it is for videos. Load Sam2Model from the same weights",
    "Sam3VideoModel": "it is for videos. Load Sam3TrackerModel from the same weights",
    "Sam3TrackerVideoModel": "it is for videos. Load Sam3TrackerModel from the same weights",
}
"""Models of transformers that a user may take for one of ours, and what to do."""

_loaded: dict[tuple[str, torch.device], tuple[Any, Sam]] = {}
"""(name, device) -> state of its files when loaded, and the model."""
_lock = threading.Lock()
_log = logging.getLogger("eclip")


class SamPrompt(NamedTuple):
    """Where an object is, in pixels of the upright image.

    Attributes:
        points: (x, y) of each point.
        labels: 1 on the object, 0 off it.
        box: left, top, right, bottom; right and bottom are exclusive. None = without.
    """

    points: Int[np.ndarray, "point 2"]
    labels: Int[np.ndarray, " point"]
    box: Int[np.ndarray, " edge"] | None

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a point nor a box."""
        return not len(self.points) and self.box is None


@dataclass(frozen=True, eq=False)
class Sam:
    """A Segment Anything model, which is never changed, and its image processor.

    Attributes:
        model: of transformers, without wrappers.
        processor: turns an image into its input, and its output into masks of the image's size.
        name: by which `load_sam` loaded it; None for a model in memory.
    """

    model: nn.Module
    processor: Any
    name: str | None = None

    @property
    def family(self) -> str:
        """Its class in transformers."""
        return next(base.__name__ for base in type(self.model).__mro__ if base.__name__ in SAM_CLASSES.values())

    @property
    def weight(self) -> Tensor:
        """A weight, for device and precision."""
        return next(tensor for _, tensor in named_tensors(self.model) if tensor.is_floating_point())

    def encode(self, image: Image.Image) -> SamImage:
        """Run the image encoder on an upright image, once for any number of prompts.

        Raises:
            ImageError: the image is too narrow for the model's input.
            ModelError: the processor does not fit the model.
        """
        edge = dict(getattr(self.processor, "size", None) or {}).get("longest_edge")
        if edge is not None and edge * min(image.size) < max(image.size) / 2:
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels is too narrow for {self.family}: resized to {edge} "
                "pixels along its longer side, nothing is left of the shorter one."
            )
        pixels = np.array(image.convert("RGB"))  # with its layout, which would be guessed for 1 or 3 rows
        try:
            inputs = self.processor(images=pixels, input_data_format="channels_last", return_tensors="pt")
        except Exception as error:  # transformers and torchvision raise errors of many classes here
            raise ModelError(f"the processor of {self.family} failed on an image: {short(error)}.") from error
        values = inputs["pixel_values"]
        height, width = inputs["reshaped_input_sizes"][0] if "reshaped_input_sizes" in inputs else values.shape[-2:]
        own: Any = self.model.get_submodule("prompt_encoder").input_image_size
        sides = (own, own) if isinstance(own, int) else tuple(own)
        if tuple(values.shape[-2:]) != sides:
            raise ModelError(
                f"the processor makes images of {' x '.join(map(str, values.shape[-2:]))} pixels, but {self.family} "
                f"takes {' x '.join(map(str, sides))}: load both from the same folder."
            )
        start = time.perf_counter()
        with eval_no_grad(self.model):
            placed = values.to(self.weight.device, self.weight.dtype)
            embedding = self.model.get_image_embeddings(placed, **PLAIN)  # type: ignore[operator]
        _log.info("%s encoded an image in %.3f s", self.family, time.perf_counter() - start)
        return SamImage(self, embedding, image.size, (int(width), int(height)), inputs)


class SamImage(NamedTuple):
    """An encoded image.

    Attributes:
        sam: the model.
        embedding: of the image, a tensor or one for each scale.
        size: (width, height) of the image in pixels.
        inner: (width, height) of the image within the model's input, which may be padded.
        inputs: of the model, from the processor.
    """

    sam: Sam
    embedding: Any
    size: tuple[int, int]
    inner: tuple[int, int]
    inputs: Any

    def masks(self, prompt: SamPrompt) -> tuple[Bool[np.ndarray, "mask height width"], Float[np.ndarray, " mask"]]:
        """SAM's masks for one prompt, in pixels of the image, and its own prediction of their IoU, the best first.

        Raises:
            OptionError: the prompt is empty.
            ModelError: the masks are not finite.
        """
        if prompt.is_empty:
            raise OptionError("a prompt needs a point or a box.")
        model, where = self.sam.model, self.sam.weight.device
        asked: dict[str, Any] = {}
        if len(prompt.points):
            asked["input_points"] = self._scaled(prompt.points)[None, None].to(where)
            asked["input_labels"] = torch.from_numpy(np.asarray(prompt.labels, np.int64))[None, None].to(where)
        if prompt.box is not None:
            corners = np.stack([prompt.box[:2], prompt.box[2:] - 1])  # pixels, as of the boxes that SAM was trained on
            asked["input_boxes"] = self._scaled(corners).reshape(1, 1, 4).to(where)
        with eval_no_grad(model):
            answer = model(image_embeddings=self.embedding, multimask_output=True, return_dict=True, **PLAIN, **asked)
            ious = answer.iou_scores[0, 0].float()
            if not bool(ious.isfinite().all() and answer.pred_masks.isfinite().all()):
                raise ModelError(
                    f"the masks of {self.sam.family} are not finite: check its weights, or use float32 instead of "
                    f"{self.sam.weight.dtype}."
                )
            order = ious.argsort(descending=True, stable=True).tolist()
            found = [self._resized(answer.pred_masks[:, 0, place : place + 1].float()) for place in order]
        return np.stack(found), ious[order].cpu().numpy()

    def _scaled(self, places: Int[np.ndarray, "point 2"]) -> Float[Tensor, "point 2"]:
        """Coordinates (x, y) in the model's input; float32 whatever the model's precision, which rounds them itself."""
        factors = np.array(self.inner, np.float64) / self.size
        return torch.from_numpy((places * factors).astype(np.float32))

    def _resized(self, low: Float[Tensor, "1 1 row col"]) -> Bool[np.ndarray, "height width"]:
        """A mask in the image's own size, by the processor."""
        sizes = [self.inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in self.inputs]
        [whole] = self.sam.processor.post_process_masks([low], *sizes)
        return whole[0, 0].cpu().numpy()


def sam_of(model: Any, device: Device | None) -> Sam:
    """The SAM of a name, of a pair (model, processor) in memory, or a Sam itself; see `Explanation.sam`.

    Raises:
        OptionError: it is none of these, or a device was given for a model in memory.
        ModelError: it is not a SAM, or it cannot be loaded.
    """
    if isinstance(model, str | Path):
        return load_sam(str(model), device)
    if device is not None:
        raise OptionError(f"device={device!r} requires a model's name: a model in memory stays where it is.")
    if isinstance(model, Sam):
        return model
    pair = tuple(model) if isinstance(model, tuple | list) else ()
    if len(pair) != 2 or not isinstance(pair[0], nn.Module) or isinstance(pair[1], nn.Module):
        given = f"a pair of {' and '.join(type(one).__name__ for one in pair)}" if pair else type(model).__name__
        raise OptionError(
            f"a SAM is a name such as {SAM_EXAMPLE!r}, a folder, or a pair (model, processor) of transformers, got "
            f"{given}."
        )
    inner, processor = unwrapped(pair[0]), getattr(pair[1], "image_processor", pair[1])
    kinds = [base.__name__ for base in type(inner).__mro__ if base.__module__.startswith("transformers.")]
    if not set(kinds) & set(SAM_CLASSES.values()):
        raise _unsupported(type(inner).__name__, kinds)
    if not callable(processor) or not hasattr(processor, "post_process_masks"):
        raise OptionError(
            f"the processor must be transformers' processor of the model, got {type(pair[1]).__name__}: use "
            "AutoProcessor.from_pretrained with the model's name."
        )
    check_accessible(inner)
    return Sam(inner, processor)


def load_sam(name: str, device: Device | None = None) -> Sam:
    """Load a SAM by name, frozen, in float32 and in evaluation mode. Equal calls return the same object.

    Args:
        name: "ORG/NAME" or "hf:ORG/NAME" on the Hugging Face Hub, or a folder that `save_pretrained` wrote.
        device: see `eclip.load`; None = the CPU.

    Raises:
        MissingExtraError: transformers is not installed.
        DownloadError: the files are not on this machine and cannot be downloaded.
        DeviceError: the device is not available.
        ModelError: there is no such folder, it holds no SAM, or it cannot be read.
    """
    folder, where = sam_folder(name), resolve_device(device)
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("SAM", "transformers", "hf") from None
    key = name, where
    with _lock:
        stamp = tuple(map(file_state, sorted(folder.glob("*")) if folder else ()))
        start = time.perf_counter()
        if key not in _loaded or _loaded[key][0] != stamp:
            try:
                files = _fetched(name.removeprefix("hf:")) if folder is None else folder
                model, processor = _read(files, transformers)
            except EclipError as error:
                if name in str(error):
                    raise
                raise type(error)(f"{name}: {error}") from error
            except Exception as error:  # transformers raises OSError, ValueError, RuntimeError and others alike
                raise ModelError(f"{name} cannot be loaded: {short(error)}") from error
            found = Sam(model.to(where), processor, name)
            _loaded[key] = stamp, found
            _log.info("loaded %s: %s on %s in %.1f s", name, found.family, where, time.perf_counter() - start)
        return _loaded[key][1]


def _fetched(repository: str) -> Path:
    """The folder with the files of a repository of the Hub, downloaded if needed; its type is checked first."""

    def files() -> list[Path]:
        config = fetch(repository, (HF_CONFIG,), "", OFFLINE)
        _class_of(config.parent)
        return [config, *fetch_weights(repository, OFFLINE), fetch(repository, HF_COLORS, "", OFFLINE)]

    return one_folder(repository, files)


def _class_of(folder: Path) -> str:
    """The class of transformers that a folder's configuration asks for.

    Raises:
        ModelError: it is not a SAM.
    """
    kind = model_type(folder)
    if kind not in SAM_CLASSES:
        raise _unsupported(f"a model of type {kind!r}", ["Sam3Model"] if kind == "sam3" else [])
    return SAM_CLASSES[kind]


def _unsupported(what: str, kinds: list[str]) -> ModelError:
    why = next((INSTEAD[kind] for kind in kinds if kind in INSTEAD), f"use a model such as {SAM_EXAMPLE!r}")
    classes = ", ".join(dict.fromkeys(SAM_CLASSES.values()))
    return ModelError(f"{what} is not one of transformers' {classes}: {why}.")


def _read(folder: Path, transformers: Any) -> tuple[nn.Module, Any]:
    """The model in a folder, and its image processor. Nothing is downloaded."""
    cls = transformers_class(_class_of(folder))
    if not any((folder / name).is_file() for name in HF_COLORS):
        raise ModelError(f"{str(folder)!r} has no {HF_COLORS[0]}: save the model's processor there too.")
    with quietly(), built_apart(draw=False):
        model = read_model(folder, cls)
        processor = transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
        model.to(torch.float32).eval().requires_grad_(False)
    return model, processor
