"""The output folder of `eclip words`: a page per image, pictures and arrays of pairs, and one manifest."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.files import slug
from eclip.results.command import inputs, options, settings
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png

if TYPE_CHECKING:
    from eclip.words.interactions import Box, Interactions
    from eclip.words.relevance import WordRelevance

WORDS_SCHEMA = "eclip.words/1"


def words_command(sources: Sequence[str], texts: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats a result with this provenance of its manifest."""
    words = ["eclip", "words", *inputs(sources, texts)]
    words += ["--model", provenance["model"], "--method", provenance["method"]]
    words += [*settings(provenance), *options("--set", provenance["options"])]
    if provenance["pairs"] is not None:
        words.append("--pairs")
        for name in ("image_depth", "text_depth", "points"):
            words += [f"--{name.replace('_', '-')}", str(provenance["pairs"][name])]
        for box in provenance["pairs"]["boxes"]:
            words += ["--box", ",".join(f"{side:.15g}" for side in box)]
    return shlex.join(words)


class WordsWriter(Folder):
    """Writes word relevance, and pairs of words and patches, into a folder.

    The manifest is also what `eclip words --json` prints:

        {"schema": "eclip.words/1", "signed": bool, "provenance": {model, method, options, pairs, versions, command},
         "images": [{"source", "width", "height",
                     "texts": [{"text", "score", "words": [{"word", "value", "share"}, ...],
                                "pairs": {as `Interactions.entry`} or null}, ...],
                     "files": {"image", "page", "pictures": [file, ...], "npz"}}, ...],
         "failures": [{"source", "error"}, ...]}

    "value" is raw; "share" is the share of all relevance of the text, ignoring signs. The npz file holds one array
    (word, row, col) per text, named by the text's number.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        manifest = {"schema": WORDS_SCHEMA, "signed": None, "provenance": None}
        super().__init__(folder, FORMATS, manifest, overwrite=overwrite)

    def add(
        self, words: WordRelevance, image: int, pairs: Sequence[Interactions] = (), boxes: Sequence[Box] = ()
    ) -> dict[str, Any]:
        """Write the files of an image; returns its entry in the manifest.

        Args:
            words: word relevance for images.
            image: number of one of them.
            pairs: of that image, one per text; or none.
            boxes: regions of the image to list words for.

        Raises:
            OptionError: a box is not inside the image; nothing is written in this case.
            ResultError: a file cannot be written.
        """
        from eclip.words.page import Sentence, words_page  # here, so that the command can check the folder first

        picture, source = words.images[image], words.sources[image]
        entries = words.entries(image)
        for number, entry in enumerate(entries):
            entry["pairs"] = pairs[number].entry(boxes) if pairs else None
        if self.manifest["provenance"] is None:
            own = None
            if pairs:
                path = {name: pairs[0].provenance[name] for name in ("image_depth", "text_depth", "points")}
                own = {**path, "boxes": [[float(side) for side in box] for box in boxes]}
            self.manifest |= {"signed": words.signed, "provenance": {**words.provenance, "pairs": own, "command": None}}
        stem, files = self._image(source, lambda: picture)
        sentences = [
            Sentence(
                float(words.scores[image, text]),
                words.words[text],
                words.values[text][image],
                pairs[text].values if pairs else None,
            )
            for text in range(len(words.texts))
        ]
        made_on = f"{words.provenance['method']} on {words.provenance['model']}"
        note = (
            f"Colors: relevance, what each word alone does to the score, by {made_on}; amber raises it, blue lowers it."
        )
        if pairs:
            note += " Highlights: pairs, what a word and a patch add to the score together. The two need not agree."
            files["pictures"] = [
                self._put(f"{stem}.{number}-{slug(one.text)}".rstrip("-") + ".pairs.png", png(one.picture(boxes)))
                for number, one in enumerate(pairs)
            ]
            files["npz"] = self._arrays(stem, {str(number): one.values for number, one in enumerate(pairs)})
        page = words_page(Path(source).name, picture, sentences, note).encode(errors="replace")
        files["page"] = self._put(f"{stem}.words.html", page)
        width, height = picture.size
        made = {"source": source, "width": width, "height": height, "texts": entries, "files": files}
        self.manifest["images"].append(made)
        return made
