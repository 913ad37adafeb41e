"""What the addresses of the API accept; everything else is refused before it reaches the library."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from eclip.texts.templates import TEMPLATES
from eclip.web.arrays import Precision
from eclip.web.settings import Limits

MOST = Limits()
ImageId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=80)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=4096)]  # it may hold the path of a folder
Text = Annotated[str, StringConstraints(min_length=1, max_length=MOST.letters)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST.texts)]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=0, le=1 << 20)]
Option = int | float | bool | str | None


class Error(BaseModel):
    """What was wrong."""

    type: str = Field(description="For programs, such as UnknownNameError.")
    message: str = Field(description="For people: what was wrong, what was given, what would be right.")
    hint: str = Field(description="The next step; empty if the message says it.")


class Problem(BaseModel):
    """The answer to every request that is refused."""

    error: Error


class Asked(BaseModel):
    """Fields that every request has."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName | None = Field(None, description="One of /api/v1/models; null = the first.")


class OfImage(Asked):
    """A request about one image."""

    image: ImageId = Field(description="From POST /api/v1/images, or of the gallery.")


class Example(BaseModel):
    """An example to look for in place of a text."""

    model_config = ConfigDict(extra="forbid")

    like: ImageId = Field(description="The image, as in `image`.")
    box: tuple[Side, Side, Side, Side] | None = Field(
        None, description="Left, top, right, bottom in its pixels, right and bottom exclusive; null = all of it."
    )
    name: Text | None = Field(
        None, pattern=r"\S", description='In the answer; null = that of its file: "like mug.jpg:0,0,64,48".'
    )


def _few(queries: list[str | Example]) -> list[str | Example]:
    examples = sum(isinstance(one, Example) for one in queries)
    if examples > MOST.images:
        raise ValueError(f"at most {MOST.images} of them may be examples, got {examples}")
    return queries


Queries = Annotated[list[Text | Example], Field(min_length=1, max_length=MOST.texts), AfterValidator(_few)]


class Query(Asked):
    """What is asked of an image: texts or examples, and a method."""

    texts: Queries
    method: Name | None = Field(None, description="One of /api/v1/methods; null = the model's default.")
    options: dict[Name, Option] = Field(default={}, max_length=16, description="Options of the method.")
    versus: Text | None = Field(None, description="A text, or the name of an example, to contrast each text with.")
    refine: Name | None = Field(None, description="A step after the method: lposs, lposs+ or pamr.")
    templates: Name = Field("none", description="A set of prompt templates.")
    health: bool = Field(True, description="Also check whether the maps can be trusted.")

    @field_validator("templates")
    @classmethod
    def _named(cls, given: str) -> str:
        if given not in TEMPLATES:
            raise ValueError(f"must be one of {', '.join(TEMPLATES)}")
        return given


class Explain(Query):
    """Maps of texts for images."""

    images: Annotated[list[ImageId], Field(min_length=1, max_length=MOST.images)]
    dtype: Precision = Field("float32", description="Of the maps.")


class Export(Query):
    """An explanation of one image as a file."""

    image: ImageId
    format: Literal["png", "npz", "json", "html"]
    text: int = Field(0, ge=0, description="Number of the text that a picture shows, from 0.")
    threshold: Share | None = Field(None, description="Of the outline; null = the method's own.")
    alpha: Share = Field(0.85, description="Opacity of the color at the peak.")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.text >= len(self.texts):
            raise ValueError(f"text must be the number of one of the {len(self.texts)} texts, from 0, got {self.text}")
        return self


class Words(OfImage):
    """How much each word of a text contributes to its score."""

    text: Text
    method: Name = "gradeclip"


class Interactions(OfImage):
    """What each pair of a word and a patch contributes to the score."""

    text: Text
    points: int = Field(10, ge=1, le=50, description="On the path of the integral.")


class Similarity(OfImage):
    """How similar the patches of an image are to each other."""

    space: Literal["tokens", "features", "values", "keys"] = "tokens"


class Layers(OfImage):
    """What each head of each layer contributes to the score of a text, by patch."""

    text: Text


class Compare(OfImage):
    """Several methods side by side."""

    texts: Queries
    methods: Annotated[list[Name], Field(min_length=1, max_length=32)] | Literal["fast"] = "fast"
    versus: Text | None = None


class Segment(OfImage):
    """A class for each pixel."""

    classes: Texts
    background: Annotated[list[Text], Field(max_length=MOST.texts)] = []
    method: Name | None = None
    refine: Name | None = None


class SegmentExport(Segment):
    """A segmentation as a file."""

    format: Literal["png", "coco", "npz"]


class Concepts(OfImage):
    """What the model sees without a text."""

    count: int = Field(8, ge=1, le=30)
