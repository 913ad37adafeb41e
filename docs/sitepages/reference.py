"""Pages of the Python API: every public name, by subject. Docstrings are read by mkdocstrings."""

from __future__ import annotations

from collections.abc import Iterable

from sitepages import methods
from sitepages.text import cell, table

NAMES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "explain": (
        "Explain and compare",
        "Heat maps of images for texts, by one method or by several side by side.",
        ("explain", "explain_each", "compare", "like", "Like", "Explanation", "SamMasks", "Comparison"),
    ),
    "models": (
        "Models and texts",
        "Models as `Backbone` records, one forward pass as an `Encoding`, text features, and trained heads.",
        ("load", "wrap", "Backbone", "encode", "Encoding", "encode_texts", "EclipHead", "load_head", "with_head"),
    ),
    "tensors": (
        "Tensors",
        "Maps of methods as heat maps, masks and boxes in PyTorch; attention and similarity of patches; attacks.",
        ("heatmaps", "masks", "boxes", "attention", "similarity", "attack", "Attack"),
    ),
    "words": (
        "Words",
        "Which words of a text count, and which patches match each word.",
        ("explain_words", "WordRelevance", "interactions", "Interactions"),
    ),
    "concepts": (
        "Concepts and segmentation",
        "What a model sees without being given a text, and one class name for each pixel.",
        ("concepts", "concepts_each", "Concepts", "image_mean", "segment", "segment_each", "Segmentation"),
    ),
    "stream": (
        "Many images",
        "Data sets that do not fit into memory, on one machine or on many.",
        ("explain_dataset", "segment_dataset", "words_dataset", "explain_stream", "MapDataset"),
    ),
    "video": (
        "Videos",
        "A map for each frame, spans in which a text is found, and a film.",
        ("explain_video", "VideoExplanation"),
    ),
    "training": ("Training", "A head for your model.", ("train", "TrainConfig", "masked_max_pool")),
    "evaluation": (
        "Evaluation",
        "Methods against baselines on data sets with masks, boxes or captions.",
        ("evaluate", "Evaluation", "report"),
    ),
    "errors": ("Errors", "Every error and warning that a user can see is defined in `eclip.errors`.", ("EclipError",)),
}
"""Pages: title, first sentence, and the public names in order. The registries have a page of their own."""

REGISTRIES = {
    "METHODS": "Explanation methods, from an encoding and text features to raw maps.",
    "REFINEMENTS": "Steps after a method, which align its maps with the content of the image.",
    "WORD_METHODS": "Relevance of the words of a text.",
    "GUIDES": "Maps that weight patches when a head is trained.",
    "METRICS": "Numbers that say how good a map is.",
    "DATASETS": "Public data sets, and layouts for your own.",
    "PROTOCOLS": "Named and versioned rules of evaluation.",
    "TEMPLATES": "Sentences into which a name is put.",
}


def pages() -> dict[str, str]:
    """All pages of the reference, but that of the command line."""
    made = {}
    for page, (title, what, names) in NAMES.items():
        blocks = [f"::: eclip.{name}\n" for name in names]
        if page == "errors":
            blocks = [
                "::: eclip.errors\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
            ]
        made[f"reference/{page}.md"] = "\n".join([f"# {title}\n", f"{what}\n", *blocks])
    made["reference/registries.md"] = _registries()
    return made


def _registries() -> str:
    import eclip

    lines = [
        "# Registries\n",
        "Dictionaries from a name to an entry, which is called like a function; `eclip.METHODS[name].options` holds "
        "the options of an entry with their defaults. Methods link to their pages.\n",
    ]
    for registry, what in REGISTRIES.items():
        entries = getattr(eclip, registry)
        lines += [
            f"## eclip.{registry}\n",
            f"{what}\n",
            table(("name", "what it is"), _rows(registry, entries.items())),
        ]
    return "\n".join(lines)


def _rows(registry: str, entries: Iterable[tuple[str, object]]) -> Iterable[tuple[str, str]]:
    for name, entry in entries:
        linked = f"[`{name}`](../{methods.path_of(name)})" if registry == "METHODS" else f"`{name}`"
        yield linked, cell(getattr(entry, "summary", "") or _templates(entry))


def _templates(entry: object) -> str:
    prompts = [entry] if isinstance(entry, str) else list(entry) if isinstance(entry, Iterable) else []
    first = f'"{prompts[0]}"' if prompts else ""
    return first if len(prompts) == 1 else f"{len(prompts)} sentences, the first {first}"
