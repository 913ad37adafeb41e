"""The numbers of results: short titles, meanings, directions and units."""

from __future__ import annotations

BOUND = "bound"
"""A ceiling, not a baseline to beat: the true mask on the patch grid."""

FEW = 10
"""With fewer groups of images, intervals are rough guesses."""
MINUS = "\N{MINUS SIGN}"
SIGNED = ("nonsense", "other_class", "random_weights")
"""Rank correlations: nearer to zero is better for one pair, but in a mean over pairs opposite signs cancel."""
SIZES = tuple(f"{key}_size" for key in SIGNED)
_LOWER = ("deletion", "word_deletion", "kl", "alignment", "uniformity", "pair_fpr95", "image_fpr95", "aurc", *SIZES)
_NO_DIRECTION = ("flipped_miou", "modality_gap", *SIGNED)
PAIRED = ("miou", "pointing", "point_auroc", "shuffled_auc", "word_gap", "found")
"""Numbers of which `over_control` is the difference from the best baseline."""
_DECIMAL = (*SIGNED, *SIZES, "nss", "cc", "kl", "modality_gap", "alignment", "uniformity")

COLUMNS: dict[str, tuple[str, str]] = {
    "miou": (
        "mIoU",
        "Intersection over union of the thresholded map and the true mask, averaged over pairs, at the single "
        "threshold that is best for all pairs (Li et al. 2023, CLIP Surgery).",
    ),
    "msc": (
        "mSC",
        "Mean of the map on the object minus its mean elsewhere, averaged over pairs (Li et al. 2022, ECLIP); below "
        "zero, the map is higher elsewhere than on the object.",
    ),
    "miou_held_out": (
        "held out",
        "mIoU if each half of the images (or of their groups, such as videos) uses the threshold that is best on the "
        "other half; the difference from mIoU is the gain from choosing the threshold on the scored images.",
    ),
    "over_control": (
        "over control",
        "mIoU, or the first number of another task, minus that of the best baseline on the same images, so that its "
        "interval is narrower than theirs: if all of it is above zero, the method is better than every baseline.",
    ),
    "flipped_miou": (
        "flipped",
        "mIoU of the same map upside down. If it exceeds mIoU, the map marks everything but the object.",
    ),
    "class_miou": ("class mIoU", "Intersection over union, summed for each class, averaged over classes."),
    "class_msc": ("class mSC", "mSC of each class, averaged over classes, so that rare classes count equally."),
    "average_precision": ("AP", "Average precision of the map as a pixel classifier (Zhu 2004); needs no threshold."),
    "auroc": (
        "AUROC",
        "Probability that the map is higher on a pixel of the object than on another (Hanley and McNeil 1982); 50 is "
        "chance.",
    ),
    "pointing_game": ("pointing", "How often the maximum of the map lies on the object (Zhang et al. 2018)."),
    "energy": ("energy", "The share of the map's sum that lies on the object (Wang et al. 2020, Score-CAM)."),
    "box_iou": (
        "box IoU",
        "IoU of the box around the largest region above the threshold and the best box of the object, at the single "
        "threshold that is best for all pairs (after Choe et al. 2020).",
    ),
    "pointing": ("pointing", "How often the maximum of a phrase's map lies in one of the phrase's boxes."),
    "box_recall": (
        "box recall",
        "How often the box around the largest region above Otsu's threshold overlaps a box of the phrase by at least "
        "the protocol's IoU.",
    ),
    "p_miou": (
        "p-mIoU",
        "Of the points that are on the label or that the thresholded map contains, the share that are both, averaged "
        "over pairs of an image and a label (after Bousselham et al. 2024, LeGrad).",
    ),
    "point_auroc": (
        "point AUROC",
        "Probability that the map is higher at a point on the label than at a point of the image that is off it, "
        "averaged over pairs that have both; 50 is chance, and no threshold is needed.",
    ),
    "shuffled_auc": (
        "sAUC",
        "Probability that a fixation has more heat than a fixation of another image at its place here (Zhang et al. "
        "2008); 50 is chance, and a map of the center gains nothing.",
    ),
    "nss": ("NSS", "Mean of the standardized map at fixations; 0 is chance (Peters et al. 2005)."),
    "cc": ("CC", "Correlation of the map with the density of fixations."),
    "sim": ("SIM", "Intersection of the map with the density of fixations, if each sums to 1 (Judd et al. 2012)."),
    "kl": ("KL", "Divergence of the map from the density of fixations; low is good."),
    "auc_judd": ("AUC", "Probability that a fixation has more heat than a pixel without one (Judd et al. 2009)."),
    "pair_auroc": ("AUROC", "Probability that a name in the image has more confidence than one that is not in it."),
    "pair_fpr95": ("FPR95", "Share of absent names accepted where 95 % of the present ones are; low is good."),
    "image_auroc": ("image AUROC", "The same for images with all names and images without those they show."),
    "image_fpr95": ("image FPR95", "FPR95 of these images; low is good."),
    "aurc": ("AURC", "Mean share of wrong best names among the most confident images; low is good."),
    "modality_gap": (
        "gap",
        "Distance between the mean feature of images and that of texts, all of length 1 (Liang et al. 2022).",
    ),
    "alignment": ("alignment", "Mean squared distance of an image and its text (Wang and Isola 2020); low is good."),
    "uniformity": (
        "uniformity",
        "Logarithm of the mean of exp(-2 d²) over pairs of images at distance d (Wang and Isola 2020); low is even.",
    ),
    "class_p_miou": ("class p-mIoU", "The same share, with points summed for each label, averaged over labels."),
    "word_gap": (
        "gap",
        "Insertion minus deletion: how far the score depends on the words that come first rather than last.",
    ),
    "word_insertion": (
        "insertion",
        "Mean cosine of image and text (times 100) while words are inserted, the most relevant first.",
    ),
    "word_deletion": (
        "deletion",
        "Mean cosine of image and text (times 100) while words are deleted, the most relevant first; low is good.",
    ),
    "found": (
        "found",
        "How often the relevance of words changes most at a word that only one of the two captions has.",
    ),
    "accuracy": ("accuracy", "How often the caption has a higher score than the wrong one (Hsieh et al. 2023)."),
    "segmentation_miou": (
        "mIoU",
        "Intersection over union of predicted and true pixels of each class over all images, averaged over classes.",
    ),
    "pixel_accuracy": ("pixels", "The share of correctly labeled pixels (Long et al. 2015)."),
    "nonsense_size": (
        "|nonsense|",
        "Absolute rank correlation of the map with that of a meaningless text, averaged over pairs; low is good.",
    ),
    "other_class_size": (
        "|other class|",
        "Absolute rank correlation with the map of a class that the image does not show; low is good.",
    ),
    "random_weights_size": (
        "|random weights|",
        "Absolute rank correlation with the map of a model with shuffled weights (Adebayo et al. 2018); low is good.",
    ),
    "nonsense": (
        "nonsense",
        "Signed rank correlation, averaged over pairs: equal and inverted maps cancel, so 0 alone is not good.",
    ),
    "other_class": ("other class", "Signed rank correlation, for a class that the image does not show."),
    "random_weights": ("random weights", "Signed rank correlation, for a model with shuffled weights."),
}
WAYS = {"deletion": "deleted", "insertion": "inserted"}
_SCORES = {"score": "the cosine of image and name", "accuracy": "whether the name ranks first"}
_RANKED = {
    "accuracy_at": ("top-{}", "The share of images whose name is among the {} most similar."),
    "image_recall_at": ("image R@{}", "The share of captions whose image is among the {} most similar."),
    "text_recall_at": ("text R@{}", "The share of images with one of their captions among the {} most similar."),
}


def column(key: str) -> tuple[str, str]:
    """The short title of a number, and its meaning."""
    if key in COLUMNS:
        return COLUMNS[key]
    way, _, rest = key.partition("_")
    fill, _, score = rest.rpartition("_")
    if way in WAYS and score in _SCORES:
        good = "low" if way == "deletion" else "high"
        return (
            f"{way} {fill}{'' if score == 'score' else ' top-1'}",
            f"Area under the curve of {_SCORES[score]} as pixels are {WAYS[way]}, highest first, with {fill} as fill; "
            f"{good} is good (Petsiuk et al. 2018, RISE).",
        )
    if key.startswith("pointing_"):
        kind = key.removeprefix("pointing_").replace("_", " ")
        return kind, f"Pointing for the phrases of the type {kind} alone."
    name, _, rank = key.rpartition("_")
    if name in _RANKED:
        title, meaning = _RANKED[name]
        return title.format(rank), meaning.format(rank)
    return key.replace("_", " "), ""


def sign(key: str) -> int:
    """1 if higher is better, -1 if lower is better, 0 if neither."""
    return 0 if key in _NO_DIRECTION else -1 if key.startswith(_LOWER) else 1


def shown(key: str, value: float | None) -> str:
    """A number as in the table: percent, or three digits for a correlation or cosine."""
    if value is None:
        return "-"
    text = f"{100 * value:.1f}" if unit(key) else f"{value:.3f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def merit(key: str, value: float) -> float:
    """The value, transformed so that higher is better."""
    return -abs(value) if key in SIGNED else (sign(key) or 1) * value


def unit(key: str) -> str:
    """The unit in which the numbers of a key are shown."""
    return "" if key in _DECIMAL or key.endswith("_score") else "%"
