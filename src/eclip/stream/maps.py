"""MapDataset: maps that a run wrote, as a Dataset of PyTorch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from eclip.errors import ResultError
from eclip.stream.shards import INFO, SHARDS, members

MAPS = "maps.npy"


class MapDataset(Dataset[dict[str, Any]]):
    """The maps in a folder that `eclip.explain_dataset` or `eclip explain --write maps` wrote, one item for each image.

    An item has "id", "source" (the name of the image), "width", "height", "texts", "scores" (text), and "maps"
    (text, row, col), float32 from the stored float16. Only places in files are in memory; each item is read when it is
    asked for, so that worker processes of a DataLoader share the work.

    Args:
        folder: of the run; its finished shards count.

    Raises:
        ResultError: there is no shard, or no map was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.files: list[Path] = []
        places: list[tuple[int, int, int, int, int]] = []
        for shard in sorted((Path(folder) / SHARDS).glob("[0-9]*")):
            if shard.suffix != ".part":
                places += self._tar(shard) if shard.is_file() else self._folder(shard)
        if not places:
            raise ResultError(f"{folder} holds no maps. `eclip explain SOURCE --write maps -o {folder}` writes them.")
        self.places = np.array(places, dtype=np.int64)  # file of the maps, offset, size; and those of the JSON below

    def _tar(self, shard: Path) -> list[tuple[int, int, int, int, int]]:
        self.files.append(shard)
        number, found = len(self.files) - 1, []
        with shard.open("rb") as stream:
            maps = (-1, -1)
            for name, _, data, size in members(stream):
                ending = name.partition(".")[2]
                if ending == MAPS:
                    maps = (data, size)
                elif ending == INFO and maps[0] >= 0:
                    found.append((number, *maps, data, size))
        return found

    def _folder(self, shard: Path) -> list[tuple[int, int, int, int, int]]:
        found = []
        for file in sorted(shard.glob(f"*.{MAPS}")):
            self.files.append(file)
            found.append((len(self.files) - 1, 0, -1, -1, -1))
        return found

    def __repr__(self) -> str:
        return f"MapDataset({len(self)} images, {str(self.folder)!r})"

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The maps of one image."""
        place, offset, size, info_offset, info_size = self.places[number].tolist()
        file = self.files[place]
        with file.open("rb") as stream:
            stream.seek(offset)
            stored = np.load(io.BytesIO(stream.read(size)))
            if info_offset >= 0:
                stream.seek(info_offset)
                info = json.loads(stream.read(info_size))
            else:
                info = json.loads(file.with_name(f"{file.name.partition('.')[0]}.{INFO}").read_bytes())
        texts = info.pop("texts")
        scales, scores = (_numbers([one[key] for one in texts]) for key in ("scale", "score"))
        return {
            **{key: info[key] for key in ("id", "source", "width", "height")},
            "texts": [one["text"] for one in texts],
            "scores": scores,
            "maps": torch.from_numpy(stored.astype(np.float32)) * scales[:, None, None],
        }


def _numbers(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu")
