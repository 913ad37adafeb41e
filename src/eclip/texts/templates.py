"""Prompt templates: the sentences into which a name is inserted before the text tower encodes it.

`imagenet80` is the list of Radford et al. 2021 (https://arxiv.org/abs/2103.00020), as in open_clip.
`surgery85` is those eighty and the five scene sentences of MaskCLIP (Zhou et al. 2022, https://arxiv.org/abs/2112.01071)
that CLIP Surgery (Li et al. 2023, https://arxiv.org/abs/2304.05653) uses for every label and for the empty text.
"""

from __future__ import annotations

from collections.abc import Iterable

from eclip.errors import OptionError, UnknownNameError

_SCENE = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)

_IMAGENET = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    "single": ("a photo of a {}.",),
    "imagenet80": _IMAGENET,
    "surgery85": _IMAGENET + _SCENE,
}
"""All named sets; every set except the first expects a bare name ("dog"), not a sentence."""


def resolve(templates: str | Iterable[str]) -> tuple[str, ...]:
    """The prompt templates of a named set, or custom ones, checked.

    Args:
        templates: a name of `TEMPLATES`, or sentences that each hold one `{}`.

    Raises:
        UnknownNameError: no set has that name.
        OptionError: a sentence without exactly one `{}`, or none at all.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{}" in templates:
            return resolve([templates])
        own = f"A template of your own has {{}} where the text goes, such as {f'{templates} {{}}'.strip()!r};"
        raise UnknownNameError("template set", templates, TEMPLATES, f"{own} `eclip.texts.templates.TEMPLATES`")
    if not isinstance(templates, Iterable) or isinstance(templates, bytes):
        raise OptionError(
            f"templates must be a name such as 'none' or 'imagenet80', or sentences with one '{{}}' each, got "
            f"{templates!r}."
        )
    sentences = tuple(templates)
    if not sentences:
        raise OptionError("templates is an empty list: pass sentences with one '{}' each, or \"none\".")
    for sentence in sentences:
        if not isinstance(sentence, str) or sentence.count("{}") != 1:
            raise OptionError(f"a template needs exactly one '{{}}' for the text, got {sentence!r}.")
    return sentences


def kept(templates: str | Iterable[str]) -> str | tuple[str, ...]:
    """Templates as a value to store, checked as by `resolve`: a name, or a tuple, as a generator is read only once."""
    sentences = resolve(templates)
    return templates if isinstance(templates, str) else sentences


def fill(template: str, text: str) -> str:
    """The template with the text in its place; braces in the text stay as they are."""
    return template.replace("{}", text)
