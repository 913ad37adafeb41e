"""What `eclip words` leaves on disk: a page a photo, pictures and arrays of pairs, and the one manifest over them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.files import slug
from eclip.results.command import question
from eclip.results.folder import FORMATS, Folder
from eclip.results.marks import png

if TYPE_CHECKING:
    from eclip.words.interactions import Box, Interactions
    from eclip.words.relevance import WordRelevance

WORDS_SCHEMA = "eclip.words/1"


def words_command(sources: Sequence[str], texts: Sequence[str], how: dict[str, Any]) -> str:
    """The shell command that repeats it; `how` is that of the manifest."""
    words = ["eclip", "words", *question(sources, texts), "--model", how["model"], "--method", how["method"]]
    words += ["--resize", how["resize"], "--positions", how["positions"], "--device", how["device"]]
    if how["image_size"] is not None:
        words += ["--image-size", str(how["image_size"])]
    for key, value in how["options"].items():
        words += ["--set", f"{key}={value}"]
    if how["pairs"] is not None:
        words.append("--pairs")
        for name in ("image_depth", "text_depth", "points"):
            words += [f"--{name.replace('_', '-')}", str(how["pairs"][name])]
        for box in how["pairs"]["boxes"]:
            words += ["--box", ",".join(f"{side:g}" for side in box)]
    return shlex.join(words)


class WordsWriter(Folder):
    """Writes relevances of words, and pairs of words and patches, into a folder.

    The manifest is also what `eclip words --json` prints:

        {"schema": "eclip.words/1", "signed": bool, "how": {model, method, options, pairs, versions, command},
         "photos": [{"source", "width", "height",
                     "texts": [{"text", "score", "words": [{"word", "value", "share"}, ...],
                                "pairs": {as `Interactions.entry`} or null}, ...],
                     "files": {"photo", "page", "pictures": [file, ...], "npz"}}, ...],
         "failures": [{"source", "error"}, ...]}

    "value" is raw, "share" that of all relevance of the text, signs aside. The npz file holds one array (word, row,
    col) a text, by its number.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        manifest = {"schema": WORDS_SCHEMA, "signed": None, "how": None}
        super().__init__(folder, FORMATS, manifest, overwrite=overwrite)

    def add(
        self, words: WordRelevance, image: int, pairs: Sequence[Interactions] = (), boxes: Sequence[Box] = ()
    ) -> dict[str, Any]:
        """Write the files of a photo; returns its entry in the manifest.

        Args:
            words: of some photos.
            image: which of them.
            pairs: of that photo, one a text, or none at all.
            boxes: parts of the photo whose words are wanted.

        Raises:
            OptionError: a box is not inside the photo; nothing is written then.
            ResultError: a file cannot be written.
        """
        from eclip.words.page import Sentence, words_page  # here, so that the command line can check the folder first

        photo, source = words.photos[image], words.sources[image]
        entries = words.entries(image)
        for number, entry in enumerate(entries):
            entry["pairs"] = pairs[number].entry(boxes) if pairs else None
        if self.manifest["how"] is None:
            own = None
            if pairs:
                path = {name: pairs[0].how[name] for name in ("image_depth", "text_depth", "points")}
                own = {**path, "boxes": [[float(side) for side in box] for box in boxes]}
            self.manifest |= {"signed": words.signed, "how": {**words.how, "pairs": own, "command": None}}
        stem, files = self._photo(source, lambda: photo)
        sentences = [
            Sentence(
                float(words.scores[image, text]),
                words.words[text],
                words.values[text][image],
                pairs[text].values if pairs else None,
            )
            for text in range(len(words.texts))
        ]
        note = f"Words: {words.how['method']} on {words.how['model']}; amber speaks for the score, blue against it."
        if pairs:
            note += " Under the pointer: pairs, what a word and a patch add to the score together."
            files["pictures"] = [
                self._put(f"{stem}.{number}-{slug(one.text)}".rstrip("-") + ".pairs.png", png(one.picture(boxes)))
                for number, one in enumerate(pairs)
            ]
            files["npz"] = self._arrays(stem, {str(number): one.values for number, one in enumerate(pairs)})
        page = words_page(Path(source).name, photo, sentences, note).encode(errors="replace")
        files["page"] = self._put(f"{stem}.words.html", page)
        width, height = photo.size
        made = {"source": source, "width": width, "height": height, "texts": entries, "files": files}
        self.manifest["photos"].append(made)
        return made
