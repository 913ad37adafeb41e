"""Maps of `mini` with its head and without, on four mask packs: the bars of the head.

    python recipes/eclip-mini/evaluate.py --data DATA

Expect: the table of docs/eclip.md, in about eight minutes on two cores. No photo of these packs was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import eclip
from eclip.backbones.base import Encoding
from eclip.datasets.masks import VOC_NAMES, read_masks
from eclip.evaluation.scoring import localize

PACKS = {"voc2012seg": VOC_NAMES, "coco80seg": None, "davis2016val": None, "camvid": None}
METHODS = ("itsm", "rclip", "maskclip", "surgery", "gem", "eclip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--head", help="of another run than the one that ships")
    parser.add_argument("--only", choices=list(PACKS))
    args = parser.parse_args()
    backbone = eclip.load("mini", head=args.head)

    def maps(encoding: Encoding, text: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: eclip.METHODS[name](encoding, text) for name in METHODS}

    for pack in [args.only] if args.only else PACKS:
        masks = read_masks(args.data / pack, classes=PACKS[pack])
        for name, record in localize(maps, masks, backbone).items():
            scores = f"mSC {100 * record.msc:6.2f}  mIoU {100 * record.miou:6.2f} at {record.threshold:.2f}"
            by_class = f"by class {100 * record.class_msc:6.2f} {100 * record.class_miou:6.2f}"
            print(f"{pack:13} {name:9} {scores}  {by_class}  ({record.pairs} pairs)", flush=True)


if __name__ == "__main__":
    main()
