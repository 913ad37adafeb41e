"""Data sets for training and evaluation, all with one signature: `DATASETS[name].read(root, split)`.

To add one, write a function of its name in a file here, an entry below, and a row in docs/datasets.md; a file may hold
a family of layouts. The dict imports neither torch nor numpy; a file is imported when its data set is first read.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from eclip.errors import LayoutError, OptionError, UnknownNameError

if TYPE_CHECKING:
    from eclip.datasets.sets import AnySet
    from eclip.datasets.verify import Verified

ROOT = "ECLIP_DATA"
"""The environment variable that names the folder of all data sets, each in a subfolder with its usual name."""
MANY = 20_000
"""Up to this many images, reading a set checks that every file exists; in a larger set, only the first image's."""


@dataclass(frozen=True)
class Dataset:
    """A data set for evaluation.

    Attributes:
        name: lower case; also the name of its function.
        kind: "masks" for a MaskSet, "captions" for a PairSet, "names" for a PairSet with classes, "phrases" for a
            PhraseSet with boxes, "points" for a PhraseSet with points.
        file: the module of `eclip.datasets` that has its function.
        folder: its usual name below $ECLIP_DATA; empty for custom data, whose folder must be given.
        splits: the first is the default.
        counts: published number of images of each split, several if several lists are in use; empty if no number is
            published.
        layout: the files and folders that it consists of.
        summary: one line.
        prepares: what `eclip datasets prepare` writes, in one line; empty if no preparation is needed.
        needs: the extra that preparing requires; empty for none.
    """

    name: str
    kind: str
    file: str
    folder: str
    splits: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    layout: str
    summary: str
    prepares: str = ""
    needs: str = ""

    @property
    def module(self) -> ModuleType:
        """The module that implements it."""
        return importlib.import_module(f"{__name__}.{self.file}")

    @property
    def function(self) -> Callable[[Path, str], AnySet]:
        """The function that lists its images without checking that their files exist."""
        return getattr(self.module, self.name)

    def read(self, root: str | Path | None = None, split: str | None = None) -> AnySet:
        """List its images; each is opened later, when it is needed.

        Args:
            root: its folder; None = its usual folder below $ECLIP_DATA.
            split: one of `splits`; None = the first.

        Returns:
            A MaskSet, PairSet or PhraseSet, depending on `kind`.

        Raises:
            LayoutError: a file or folder is missing; the message names the first such path and the expected layout.
            DataError: a file is malformed.
            OptionError: there is no such split, or no root is known.

        Warns:
            DataWarning: files are skipped, or the values of masks are not interpreted as class numbers.
        """
        from eclip.datasets.masks import MaskSet
        from eclip.datasets.pair import PairSet

        found = self.listed(root, split)
        if isinstance(found, PairSet):
            return found
        look = found.items if len(found.items) <= MANY else found.items[:1]
        for item in look:
            if why := item.missing():
                raise LayoutError(f"{why} `eclip datasets verify {self.name}` lists all missing files.")
        if isinstance(found, MaskSet):
            found.warn_of_notes()
        return found

    def listed(self, root: str | Path | None, split: str | None) -> AnySet:
        """Like `read`, but without checking that the files of images exist."""
        split = self.checked(split)
        where = self.root(root)
        try:
            found = self.function(where, split)
            if not found.items:
                why = "".join(f" {key}: {reason}" for key, reason in getattr(found, "bad", [])[:1])
                raise LayoutError(f"{where} has no image of {self.name}, split {split!r}.{why}")
        except LayoutError as error:
            raise LayoutError(f"{error} {self._expected()}") from None
        if not self.folder:
            return found
        return replace(found, name=self.name if split == "all" else f"{self.name} {split}")

    def verify(
        self,
        root: str | Path | None = None,
        split: str | None = None,
        *,
        every: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verified:
        """Check that all files exist, and decode 20 images and masks, or `every` one; see `read` and `prepare`.

        Raises:
            OptionError: there is no such split, or no root is known.
        """
        from eclip.datasets.verify import verify

        return verify(self, root, split, every, progress)

    def prepare(
        self,
        root: str | Path | None = None,
        split: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Write the files that make it readable or faster to read, and return their folder; existing files are kept.

        `progress` is called with the number of files done and the total; `root` and `split` are as in `read`.

        Raises:
            OptionError: there is nothing to prepare.
            DataError: a source file is missing or broken.
            MissingExtraError: a required package is not installed.

        Warns:
            DataWarning: some annotations are unusable and left out.
        """
        if not self.prepares:
            raise OptionError(f"{self.name} needs no preparation.")
        split, where = self.checked(split), self.root(root)
        try:
            return self.module.prepare(where, split, progress or (lambda done, count: None))
        except LayoutError as error:
            raise LayoutError(f"{error} {self._expected()}") from None

    def checked(self, split: str | None) -> str:
        """The split, or the first one for None.

        Raises:
            OptionError: there is no such split.
        """
        if split is None:
            return self.splits[0]
        if split not in self.splits:
            raise OptionError(f"{self.name} has the splits {', '.join(self.splits)}; got {split!r}.")
        return split

    def root(self, root: str | Path | None) -> Path:
        """The given folder, or the usual one for None.

        Raises:
            OptionError: no folder is given, and there is no usual one.
            LayoutError: the folder does not exist.
        """
        if root is None:
            if not self.folder:
                raise OptionError(f"{self.name} is for your own data: give its location (--root PATH).")
            if not os.environ.get(ROOT):
                raise OptionError(
                    f"the location of {self.name} is unknown: give its folder (--root DIR), or set ${ROOT} to the "
                    f"folder that contains {self.folder}/."
                )
            root = Path(os.environ[ROOT]) / self.folder
        root = Path(root).expanduser()
        if not root.exists():
            raise LayoutError(f"{root}: no such folder. {self._expected()}")
        return root

    def _expected(self) -> str:
        return f"Expected layout of {self.name}: {self.layout}."


def dataset(name: str) -> Dataset:
    """The data set of a name.

    Raises:
        UnknownNameError: there is none.
        OptionError: the name is that of a folder.
    """
    own = "for your own images with masks, use the data set 'folder' with --root"
    if (found := DATASETS.get(name, PACKS.get(name))) is not None:
        return found
    if os.path.isdir(name):
        given = shlex.quote(name)
        raise OptionError(
            f"{name!r} is a folder, not the name of a data set: {own} {given}, as in `eclip eval folder --root "
            f'{given}` (Python: "folder", root={name!r}); `eclip datasets ls --json` has the layout.'
        )
    raise UnknownNameError("data set", name, DATASETS, f"{own.capitalize()} DIR; `eclip datasets ls`")


CREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
"""The kinds of SugarCrepe's captions."""
_PLAIN = "images/NAME.jpg (.png, .tif ...), masks/NAME.png, classes.txt and, optionally, index.tsv"
_REFER = "{}/{{refs({}).p, instances.json}} and images/mscoco/images/train2014/*.jpg (or images/train2014/)"
_TARS = "SPLIT-000.tar and so on, with KEY.jpg and KEY.txt"
# fmt: off
DATASETS: dict[str, Dataset] = {one.name: one for one in (
    Dataset("voc2012", "masks", "voc2012", "VOCdevkit", ("val", "train", "trainval", "trainaug"),
            {"val": (1449,), "train": (1464,), "trainval": (2913,), "trainaug": (10582,)},
            "VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets/Segmentation/SPLIT.txt}; "
            "SegmentationClassAug for trainaug",
            "PASCAL VOC 2012, 20 classes and background."),
    Dataset("pascal_context", "masks", "pascal_context", "VOCdevkit", ("val", "train", "trainval"),
            {"val": (5105, 5104), "train": (4998,), "trainval": (10103,)},
            "VOCdevkit/VOC2010/{JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext/SPLIT.txt or "
            "ImageSets/Main/SPLIT.txt}; `eclip datasets prepare` makes SegmentationClassContext from trainval/*.mat",
            "PASCAL Context, 59 classes and background.",
            prepares="SegmentationClassContext/*.png from trainval/*.mat, 459 ids mapped to 59 classes"),
    Dataset("coco2017", "masks", "coco2017", "coco", ("val2017", "train2017"),
            {"val2017": (5000,), "train2017": (118287,)},
            "val2017/ or images/val2017/, and eclip_masks/val2017/, which `eclip datasets prepare coco2017` makes from "
            "annotations/instances_val2017.json",
            "COCO 2017, 80 object classes and background.",
            prepares="eclip_masks/SPLIT/*.png from the outlines in annotations/instances_SPLIT.json", needs="data"),
    Dataset("coco2017_stuff", "masks", "coco2017_stuff", "coco", ("val2017", "train2017"),
            {"val2017": (5000,), "train2017": (118287,)},
            "val2017/ or images/val2017/, and annotations/val2017/*_labelTrainIds.png, or eclip_masks/stuff_val2017/, "
            "which `eclip datasets prepare coco2017_stuff` makes from stuff_val2017_pixelmaps/*.png and "
            "annotations/instances_val2017.json",
            "COCO-Stuff 164k, 80 thing classes and 91 stuff classes, no background.",
            prepares="eclip_masks/stuff_SPLIT/*.png from stuff_SPLIT_pixelmaps/*.png, with the objects painted over",
            needs="data"),
    Dataset("ade20k", "masks", "ade20k", "ADEChallengeData2016", ("validation", "training"),
            {"validation": (2000,), "training": (20210,)},
            "ADEChallengeData2016/{images/validation, annotations/validation, objectInfo150.txt}",
            "ADE20K, 150 thing and stuff classes, no background."),
    Dataset("imagenet_s50", "masks", "imagenet_s", "ImageNetS50", ("validation", "train-semi"),
            {"validation": (752,), "train-semi": (500,)},
            "ImageNetS50/{validation/WNID/*.JPEG, validation-segmentation/WNID/*.png}",
            "ImageNet-S with 50 classes."),
    Dataset("imagenet_s300", "masks", "imagenet_s", "ImageNetS300", ("validation", "train-semi"),
            {"validation": (4097,), "train-semi": (3000,)},
            "ImageNetS300/{validation/WNID/*.JPEG, validation-segmentation/WNID/*.png}",
            "ImageNet-S with 300 classes."),
    Dataset("imagenet_s919", "masks", "imagenet_s", "ImageNetS919", ("validation", "train-semi"),
            {"validation": (12419,), "train-semi": (9190,)},
            "ImageNetS919/{validation/WNID/*.JPEG, validation-segmentation/WNID/*.png}",
            "ImageNet-S with 919 classes, five of them merged from two."),
    Dataset("folder", "masks", "masks", "", ("all",), {}, _PLAIN,
            "Your own images and masks, in one folder."),
    Dataset("table", "masks", "table", "", ("all",), {},
            "a .csv, .tsv or .jsonl with the columns image, text and, optionally, mask",
            "Your own images, one text and mask per row; without masks, images with texts."),
    Dataset("shards", "masks", "shards", "", ("all",), {},
            "*.tar with KEY.jpg and KEY.seg.png, and classes.txt beside the tars or KEY.json inside them",
            "Your own images and masks in WebDataset tars."),
    Dataset("flickr8k", "captions", "flickr", "flickr8k", ("test", "val", "train"),
            {"test": (1000,), "val": (1000,), "train": (6000, 6091)},
            "Flickr8k_text/{Flickr8k.token.txt, Flickr_8k.testImages.txt, ...} and Flicker8k_Dataset/*.jpg, or "
            + _TARS,
            "Five captions per image, official split (Hodosh et al. 2013)."),
    Dataset("flickr30k", "captions", "flickr", "flickr30k", ("test", "val", "train", "all"),
            {"test": (1000,), "val": (1014,), "train": (29000,), "all": (31783, 31014)},
            "flickr30k_images/*.jpg and dataset_flickr30k.json, or results.csv for the split all",
            "Five captions per image (Young et al. 2014), Karpathy's split."),
    Dataset("coco_karpathy", "captions", "karpathy", "coco", ("test", "val", "restval", "train"),
            {"test": (5000,), "val": (5000,), "restval": (30504,), "train": (82783,)},
            "dataset_coco.json and train2014/, val2014/ (or images/val2014/)",
            "COCO 2014, Karpathy's split; the first five captions of each image."),
    Dataset("flickr30k_entities", "phrases", "flickr30k_entities", "flickr30k", ("test", "val", "train"),
            {"test": (1000,), "val": (1000,), "train": (29783,)},
            "flickr30k_entities/{Sentences/*.txt, Annotations/*.xml, SPLIT.txt} and flickr30k-images/*.jpg or "
            "flickr30k_images/*.jpg",
            "The phrases of Flickr30k's captions with boxes, in eight types (Plummer et al. 2015)."),
    Dataset("refcoco", "phrases", "refcoco", "refer", ("val", "testA", "testB", "train"),
            {"val": (1500,), "testA": (750,), "testB": (750,)}, _REFER.format("refcoco", "unc"),
            "Expressions for one object of an image, UNC's split (Yu et al. 2016)."),
    Dataset("refcoco_plus", "phrases", "refcoco", "refer", ("val", "testA", "testB", "train"),
            {"val": (1500,), "testA": (750,), "testB": (750,)}, _REFER.format("refcoco+", "unc"),
            "The same without words for places, UNC's split (Yu et al. 2016)."),
    Dataset("refcocog", "phrases", "refcoco", "refer", ("val", "test", "train", "google-val", "google-train"),
            {"val": (1300,), "test": (2600,)}, _REFER.format("refcocog", "umd") + " or refs(google).p",
            "Longer expressions, UMD's split or Google's (Mao et al. 2016)."),
    Dataset("openimages_points", "points", "openimages_points", "openimages", ("validation", "test"), {},
            "oidv7-val-annotations-point-labels.csv (split test: oidv7-test-...), oidv7-class-descriptions.csv and "
            "SPLIT/*.jpg (or images/SPLIT/); or FiftyOne's SPLIT/{data/*.jpg, labels/points.csv, "
            "metadata/point_classes.csv}",
            "Open Images V7: labels with points on and off what they name (Benenson and Ferrari 2022)."),
    Dataset("sugar_crepe", "captions", "sugar_crepe", "sugar-crepe", ("all", *CREPE), {"all": (7511,)},
            "data/{add_att, add_obj, replace_att, ...}.json, and val2017/ of COCO in the same folder or beside it",
            "Captions of COCO val2017 and captions that are wrong in a word, seven kinds (Hsieh et al. 2023)."),
)}
PACKS: dict[str, Dataset] = {one.name: one for one in (
    Dataset("voc2012seg", "masks", "packs", "voc2012seg", ("all", "voc2012_train", "voc2012_val", "sbd_aug"),
            {"all": (897,), "voc2012_train": (328,), "voc2012_val": (318,), "sbd_aug": (251,)}, _PLAIN,
            "A subset of PASCAL VOC 2012, 20 classes, rich in animals and people."),
    Dataset("coco80seg", "masks", "packs", "coco80seg", ("all",), {"all": (358,)}, _PLAIN,
            "A subset of COCO 2017, 80 object classes."),
    Dataset("camvid", "masks", "packs", "camvid", ("all",), {"all": (84,)}, _PLAIN,
            "Street scenes of CamVid, 11 classes, including sky and road."),
    Dataset("davis2016val", "masks", "packs", "davis2016val", ("all",), {"all": (75,)}, _PLAIN,
            "Video frames of DAVIS 2016 with one described object each."),
    Dataset("coco_captions", "captions", "packs", "coco-captions", ("test", "val", "train"),
            {"test": (114,), "val": (114,), "train": (911,)}, _TARS,
            "A subset of COCO val2017 with all captions."),
    Dataset("caltech101", "names", "packs", "caltech101", ("test", "val", "train"),
            {"test": (523,), "val": (523,), "train": (1400,)}, _TARS + ", classes.txt",
            "A subset of Caltech-101, 100 object names."),
    Dataset("imagenet1k_one_each", "names", "packs", "imagenet1k-one-each", ("all",), {"all": (1000,)},
            _TARS + ", index.tsv",
            "One image of each ImageNet class, 998 different names."),
    Dataset("flickr8k_entities", "phrases", "packs", "flickr8k-entities", ("test", "val", "train"),
            {"test": (500,), "val": (1000,), "train": (6091,)}, "SPLIT.jsonl.gz, and the images in ../flickr8k",
            "Flickr30k Entities' phrases for images of Flickr8k; half of its test images."),
    Dataset("sugar_crepe_pack", "captions", "packs", "sugar-crepe", ("all", *CREPE),
            {"all": (1992,), "add_att": (177,), "add_obj": (557,), "replace_att": (208,), "replace_obj": (449,),
             "replace_rel": (383,), "swap_att": (157,), "swap_obj": (61,)},
            "pairs.tsv, and the images in ../coco-captions and ../coco80seg",
            "The captions of SugarCrepe for images of two packs."),
    Dataset("osie", "gaze", "packs", "osie", ("all",), {"all": (100,)}, "images/*.jpg and fixations.jsonl",
            "A subset of OSIE: where fifteen people look (Xu et al. 2014)."),
)}
"""Small subsets, made for developing this package; its own numbers are measured on them.

They are found by name like the others, but are not listed, because nobody else has them.
"""
# fmt: on
