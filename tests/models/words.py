"""The vocabulary of the tales: who can be in one, where, and with what.

Knows nothing of sentences, prompts or tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


def listed(text: str) -> list[str]:
    """Split at bars where there are any, else at spaces."""
    return text.split("|" if "|" in text else None)


WILD = listed(
    "otter fox hedgehog badger squirrel rabbit deer wolf bear mole beaver owl raccoon hare lynx moose"
)
FARM = listed("goat hen donkey pig lamb horse goose cow rooster duck pony calf sheep turkey")
HOUSE = listed("cat dog mouse parrot kitten puppy hamster canary goldfish tortoise spider")
WATER = listed("whale seal crab dolphin penguin turtle octopus frog pelican walrus salmon heron")
FAR = listed("dragon lion elephant giraffe monkey tiger camel panda unicorn griffin zebra koala")
PEOPLE_SHE = listed("girl queen grandmother princess witch seamstress nurse")
PEOPLE_HE = listed("boy king grandfather prince wizard blacksmith monk")
PEOPLE_ANY = listed(
    "baker sailor farmer painter teacher pilot miller gardener knight clockmaker astronaut fisher "
    "musician cook shepherd postman librarian doctor robot giant"
)
OBJECTS = listed(
    "kettle lamp clock boat train teapot umbrella button candle snowman scarecrow kite drum lantern "
    "bicycle chair pencil balloon tractor violin cloud lighthouse"
)

ADJECTIVES = listed(
    "shy brave little old clever lazy hungry kind curious quiet proud clumsy gentle sleepy grumpy cheerful "
    "tiny young lonely silly patient bold careful stubborn dreamy honest nervous playful polite restless "
    "round red blue green golden silver spotted striped dusty forgetful"
)

NAMES_SHE = listed("Mina Lila Rosa Nora Ida Tess Greta Wanda Pearl Juno Olive Hazel Flora Cleo Ruby Asta")
NAMES_HE = listed("Pim Otto Felix Hugo Bruno Theo Jasper Milo Oscar Rufus Gus Leo Nils Arlo Basil Finn")

FRIENDS = listed(
    "wise owl|old turtle|friendly sparrow|tall heron|busy beetle|gentle cow|quick squirrel|red robin|"
    "kind shepherd|small bat|grey donkey|merry tailor|white goose|slow snail|young fisher|brown bear|"
    "green frog|clever crow|tired traveller|soft moth"
)

THINGS = listed(
    "red kite|brass key|silver bell|warm blanket|blue scarf|paper map|wooden flute|gold ring|tin whistle|"
    "green hat|glass marble|picture book|leather boot|striped sock|little drum|pocket watch"
)

SKILLS = listed("swim dance paint read whistle cook skate juggle sing knit write climb")

FOODS = listed(
    "loaf of bread|apple pie|pot of soup|honey cake|bowl of berries|slice of cheese|basket of pears"
)

BROKEN = listed("bridge roof fence boat mill gate cart well")

GOALS = listed(
    "the wide sea|the highest mountain|the big city|the northern lights|the rainbow bridge|"
    "the great waterfall|the lantern market|the hidden valley"
)

PLACES: dict[str, list[str]] = {
    "wild": listed(
        "in the old forest|near a quiet river|on a windy hill|under the tall pines|beside a hollow oak|"
        "in a misty valley|at the edge of the woods"
    ),
    "farm": listed(
        "on a small farm|behind the red barn|in a sunny meadow|near the windmill|in the apple orchard|"
        "by the village pond"
    ),
    "house": listed(
        "in a narrow house|in a busy kitchen|under the stairs|in the attic|next to the bakery|"
        "in a little town"
    ),
    "water": listed(
        "by the sea|on a rocky island|in the harbour|near the lighthouse|at the bottom of the bay|"
        "on a frozen shore"
    ),
    "far": listed(
        "on a high mountain|in a warm jungle|in the wide desert|in a land of clouds|behind a waterfall|"
        "in a cave of crystals"
    ),
    "people": listed(
        "in a small village|in a castle of stone|at the market square|in a snowy town|near the old mill|"
        "at the end of the road"
    ),
    "object": listed(
        "in a dusty shop|on a wooden shelf|in the garden shed|at the railway station|in an empty school|"
        "on the windowsill"
    ),
}

_SYLLABLES_FIRST = listed("Bo Ka Lu Mi No Pa Ri Sa Ti Vo Zu Fe Do Ha Je Wi Qua Tro Plu Gri Sno Bra Thu Cle")
_SYLLABLES_NEXT = listed("ba dri fo ga lin mo nu pi ra so ta vin wo zel by rick nell pa sto mer dle xi")
_SYLLABLES_NOUN = listed("bl gr sn tr fl m w z kr dr p sp")
_SYLLABLES_NOUN_END = listed("oggle immer unk azzle orp ibbit umble eever onk arrow ippet usk")


@dataclass(frozen=True)
class Subject:
    """Whom a tale is about; `name` is empty when nobody named it, `group` is a key of `PLACES`."""

    noun: str
    adjective: str
    name: str
    group: str
    pronoun: str  # "he", "she" or "it"

    @property
    def described(self) -> str:
        """With its article, without a name: "an old kettle"."""
        return with_article(f"{self.adjective} {self.noun}")


def with_article(words: str) -> str:
    """Put "a" or "an" before words, by their first sound."""
    first = words[:1].lower()
    vowel = first in "aeio" or words.startswith("honest") or (first == "u" and not words.startswith("uni"))
    return f"{'an' if vowel else 'a'} {words}"


def invented_name(rng: random.Random) -> str:
    """A name nobody has heard, so that a learner has to copy it instead of remembering it."""
    return rng.choice(_SYLLABLES_FIRST) + "".join(rng.choices(_SYLLABLES_NEXT, k=rng.choice((1, 1, 2))))


def invented_noun(rng: random.Random) -> str:
    """A creature nobody has seen, for the same reason."""
    return rng.choice(_SYLLABLES_NOUN) + rng.choice(_SYLLABLES_NOUN_END)


NOUN_GROUPS: dict[str, list[str]] = {
    "wild": WILD,
    "farm": FARM,
    "house": HOUSE,
    "water": WATER,
    "far": FAR,
    "people": PEOPLE_SHE + PEOPLE_HE + PEOPLE_ANY,
    "object": OBJECTS,
}


def draw_subject(rng: random.Random, *, named: float = 0.4, invented: float = 0.12) -> Subject:
    """Draw a subject; `named` and `invented` are the chances of a name and of a made-up noun."""
    group = rng.choice(list(NOUN_GROUPS))
    noun = rng.choice(NOUN_GROUPS[group])
    if rng.random() < invented:
        group, noun = rng.choice(("wild", "far")), invented_noun(rng)
    has_name = rng.random() < named
    if noun in PEOPLE_SHE:
        pronoun = "she"
    elif noun in PEOPLE_HE:
        pronoun = "he"
    elif has_name or group == "people":
        pronoun = rng.choice(("he", "she"))
    else:
        pronoun = "it"
    name = ""
    if has_name:
        known = NAMES_SHE if pronoun == "she" else NAMES_HE
        name = rng.choice(known) if rng.random() < 0.6 else invented_name(rng)
    return Subject(noun, rng.choice(ADJECTIVES), name, group, pronoun)
