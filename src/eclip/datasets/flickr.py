"""Flickr8k and Flickr30k: images with five captions each."""

from __future__ import annotations

from pathlib import Path

from eclip.datasets.caption_tables import Columns, read_table
from eclip.datasets.karpathy import read_karpathy
from eclip.datasets.layout import either, names_in, top
from eclip.datasets.packs import in_tars
from eclip.datasets.pair import PairSet
from eclip.errors import LayoutError

_LISTS = {"train": "trainImages", "val": "devImages", "test": "testImages"}


def flickr8k(root: Path, split: str) -> PairSet:
    """Hodosh et al. 2013: the published text files and images, or tars."""
    if any(root.glob("*.tar")):
        return in_tars(root, split)
    text = top(root, ("Flickr8k.token.txt", f"Flickr_8k.{_LISTS[split]}.txt"), ("Flickr8k_text", ""))
    images = either(root, "Flicker8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset", "Images")
    table = text / "Flickr8k.token.txt"
    found = _from_table(table, Columns(), images)
    listed = dict.fromkeys(names_in(text / f"Flickr_8k.{_LISTS[split]}.txt"))
    pairs = {Path(pair.key).name: pair for pair in found.items}
    bad = [(key, why) for key, why in found.bad if Path(key).name in listed or key.startswith(f"{table}, line")]
    told = {Path(key).name for key, _ in bad} | pairs.keys()
    bad += [(name, "listed in the split, but without a caption.") for name in listed if name not in told]
    return PairSet(found.name, [pairs[name] for name in listed if name in pairs], None, bad)


def flickr30k(root: Path, split: str) -> PairSet:
    """Young et al. 2014: Karpathy's splits, with dataset_flickr30k.json; or all images, with results.csv."""
    images = either(root, "flickr30k_images/flickr30k_images", "flickr30k_images", "flickr30k-images", "images")
    for name in ("dataset_flickr30k.json", "annotations/dataset_flickr30k.json"):
        if (root / name).exists():
            return read_karpathy(root / name, split, [images])
    if split != "all":
        raise LayoutError(f"{root / 'dataset_flickr30k.json'}: no such file, and results.csv has only the split 'all'.")
    table = either(root, "results.csv", "flickr30k_images/results.csv")
    return _from_table(table, Columns("image_name", "comment", "|"), images)


def _from_table(table: Path, columns: Columns, images: Path) -> PairSet:
    pairs, bad = read_table(str(table), columns, sorted(str(path) for path in images.glob("*.jpg")))
    return PairSet(table.parent.name, pairs, None, bad)
