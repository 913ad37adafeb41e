"""Copy the part of the golden arrays that a clone ships: every method, one ViT and one ResNet, less than 1 MiB.

    python tests/golden/choose.py --golden ../shared/golden

Writes the arrays and models beside this file, and README.md with where each array is from. Tests use the full set, if
it is there, and this part otherwise.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MODELS = ("tiny-vit", "tiny-rn")
SIZES = ("native", "rect48x80")
INPUTS = (
    *("vit_images_native", "vit_image_rect48x80", "rn_images_native"),
    *("tokens", "tokens_empty", "class_text_matrix"),
)
MORE = {
    "plain_clip": (r"tiny_(vit|rn)__(tokens|image_embedding)_native", r"tiny_vit__tokens_rect48x80_pos_.*"),
    "clip_surgery": (r"tiny_(vit|rn)__single_text_scores_native.*",),
    "clip_prs": (r"tiny_vit__(chosen_class|segmentation_raw)",),
    "grad_eclip": (r"tiny_vit__score_singlehead_native\d", r"tiny_vit__text_.*"),
    "chefer": (r"tiny_vit__text_scores_.*",),
    "exclip": (r"tiny_(vit|rn)__.*",),
}
"""Arrays that tests read besides those of `test_golden.CASES`, as patterns."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, required=True)
    golden = parser.parse_args().golden
    sys.path.insert(0, str(HERE.parent))
    import test_golden

    if not test_golden.GOLDEN.samefile(golden):
        raise SystemExit(f"the tests read {test_golden.GOLDEN}: run this in a checkout with {golden} beside it.")
    wanted: dict[str, set[str]] = {"inputs": set(INPUTS)}
    for case in test_golden.CASES:
        if case.model in MODELS and case.size in SIZES:
            wanted.setdefault(case.file, set()).add(f"{case.model.replace('-', '_')}__{case.array}")
    count = size = 0
    for file in sorted(wanted.keys() | MORE.keys()):
        with np.load(golden / f"{file}.npz") as arrays:
            patterns = MORE.get(file, ())
            names = wanted.get(file, set()) | {n for n in arrays if any(re.fullmatch(one, n) for one in patterns)}
            np.savez_compressed(HERE / f"{file}.npz", **{name: arrays[name] for name in sorted(names)})
        wanted[file], count = names, count + len(names)
        size += (HERE / f"{file}.npz").stat().st_size
    for model in MODELS:
        (HERE / model).mkdir(exist_ok=True)
        for part in ("open_clip_config.json", "open_clip_model.safetensors"):
            shutil.copyfile(golden / model / part, HERE / model / part)
    (HERE / "README.md").write_text(
        readme((golden / "README.md").read_text(encoding="utf-8"), wanted), encoding="utf-8"
    )
    print(f"{count} arrays in {len(wanted)} files, {size / 2**20:.2f} MiB")


def readme(whole: str, wanted: dict[str, set[str]]) -> str:
    """The provenance of each file, and the rows of its arrays."""
    parts = [INTRODUCTION]
    for section in whole.split("\n## ")[1:]:
        file = section.partition(".npz")[0]
        if file not in wanted:
            continue
        lines = section.splitlines()
        kept = [line for line in lines if not line.startswith("| ") or _cells(line)[0] in {"name", *wanted[file]}]
        parts.append("## " + "\n".join(map(_without_notes, kept)).strip() + "\n")
    return "\n".join(parts).replace("normalis", "normaliz")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _without_notes(line: str) -> str:
    """A row without the column that points into notes which are not part of the repository."""
    if not line.startswith("|") or len(cells := _cells(line)) < 5:
        return line
    return f"| {' | '.join(cells[:3] + cells[4:])} |"


INTRODUCTION = """# Golden arrays

What published code computed on two tiny models with random weights, `tiny-vit` (8 blocks of width 64, 8 x 8
patches) and `tiny-rn` (a modified ResNet with attention pooling), from random inputs. No published code and no
published weights are here. `choose.py` took these arrays from a larger set (three models, more sizes), which the tests
use where it lies beside the repository.

Each section names the repositories and commits whose code was run. "diff" is the largest difference from a second,
independent computation of the formula in float64; the tolerance is five times the rounding of float32 that was seen.
To run the code: OpenAI-style models got the tiny models' head size of 32; LeGrad was given blocks that take the
sequence first, as its wrapper expects; mmcv's modules were replaced by stand-ins; `.cuda()` was removed; the token ids
of exCLIP's empty text are those of this vocabulary. Versions: torch 2.14.1, open_clip 3.3.0, numpy 2.4.6, scipy 1.17.1,
Python 3.11.
"""


if __name__ == "__main__":
    main()
