"""The ways in which somebody may ask for a tale: families of wording, some of them never shown in training.

Knows nothing of how a tale is told, nor of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.models import words
from tests.models.plots import Plot
from tests.models.words import Subject


@dataclass(frozen=True)
class Wish:
    """What a tale is to be about. `place` is a phrase ("by the sea"); `filling` fills the plot's slot."""

    subject: Subject
    place: str
    plot: Plot
    filling: str

    @property
    def did(self) -> str:
        return self.plot.did.format(x=self.filling, ax=words.with_article(self.filling or "thing"))

    @property
    def theme(self) -> str:
        return self.plot.theme.format(x=self.filling)

    @property
    def clause(self) -> str:
        """The trouble as a relative clause: "who lost a red kite"."""
        return ("who " if self.subject.group == "people" else "that ") + self.did


@dataclass(frozen=True)
class Told:
    """A prompt, and which parts of the wish it gave away (the teller chooses the others freely)."""

    text: str
    place: bool
    plot: bool
    name: bool


Family = Callable[[random.Random, Wish], Told]


def _family(*patterns: str) -> Family:
    """One family from its patterns. A slot that a pattern does not use is not known to the teller.

    Slots: `a` "a shy otter" (with its name where it has one), `A` the same at a sentence's start, `adj`,
    `noun`, `a_noun`, `name`, `place`, `Place`, `clause`, `did`, `theme`, `Theme`. A part in square brackets
    is left out half the time.
    """

    def ask(rng: random.Random, wish: Wish) -> Told:
        pattern = rng.choice(patterns)
        while "[" in pattern:
            head, _, rest = pattern.partition("[")
            part, _, tail = rest.partition("]")
            pattern = head + (part if rng.random() < 0.5 else "") + tail
        subject = wish.subject
        named = bool(subject.name) and "{a}" in pattern.replace("{A}", "{a}")
        join = rng.choice((" named ", " called "))
        hero = subject.described + (join + subject.name if named else "")
        text = pattern.format(
            a=hero,
            A=capital(hero),
            adj=subject.adjective,
            noun=subject.noun,
            name=subject.name,
            a_noun=words.with_article(subject.noun),
            place=wish.place,
            Place=capital(wish.place),
            clause=wish.clause,
            did=wish.did,
            theme=wish.theme,
            Theme=capital(wish.theme),
        )
        plot = any(slot in pattern for slot in ("{clause}", "{did}", "{theme}", "{Theme}"))
        return Told(text, "{place}" in pattern or "{Place}" in pattern, plot, named or "{name}" in pattern)

    return ask


def capital(text: str) -> str:
    """Raise the first letter only."""
    return text[:1].upper() + text[1:]


TRAINING: dict[str, Family] = {
    "tell": _family(
        "Tell me a story about {a}[ {clause}].",
        "Tell me a [short ]story about {a}[ {place}]",
        "tell me a story about {a}",
    ),
    "write": _family(
        "Write a [short ]story about {a}.",
        "Write a [small ]tale about {a} and {theme}.",
        "Write about {a} {place}[, please].",
    ),
    "could": _family(
        "Could you please tell me a tale about {a}[ {clause}]?",
        "Can you tell [me ]a story of {a}[ {place}]?",
        "Would you make up a story about {a}?",
    ),
    "form": _family(
        "Hero: {a}\nPlace: {place}\nTheme: {theme}",
        "Story request. Hero: {a}. Place: {place}.",
        "Theme: {theme}. Main character: {a}.",
        "who: {a}, where: {place}",
    ),
    "child": _family(
        "My son likes {a}. Please tell him a story.",
        "My little sister asks for a story about {a}[ {clause}].",
        "The children want to hear about {a} {place}.",
    ),
    "bedtime": _family(
        "It is bedtime. I would like to hear about {a}[ {place}].",
        "A bedtime story with {a}, please.",
        "Before I sleep, tell me of {a}[ {clause}].",
    ),
    "happened": _family(
        "What happened when {a} {did}?", "What did {a} do {place}?", "How did it end for {a} {clause}?"
    ),
    "begin": _family(
        "Begin like this: there was {a} {place}. Then go on.",
        "Go on with this: {a} {did}.",
        "Continue: {A} lived {place}",
    ),
    "keywords": _family(
        "Use these words: {adj}, {noun}, {theme}.",
        "{adj}, {noun}, {theme}. Make a story.",
        "Three words for you: {noun}, {adj}, {theme}",
    ),
    "subject_first": _family(
        "{A} {place}. Tell me more.", "{A} {clause}. Go!", "{A}. What is the story?", "{A}"
    ),
    "imagine": _family(
        "Imagine {a} {place}. What comes next?",
        "Imagine that {a} {did}[ {place}].",
        "Picture {a}. Now tell what you see.",
    ),
    "school": _family(
        "I need a story for my class. It should be about {a} and {theme}.",
        "For school we need a text about {a}[ {place}].",
        "Our homework: a story with {a}.",
    ),
    "saw": _family(
        "I saw {a} {place} today. Invent a story about that.",
        "This morning I met {a}. Make a story of it.",
        "Yesterday I drew {a}. What could happen to it?",
    ),
    "terse": _family(
        "story: {adj} {noun}",
        "{adj} {noun} story please",
        "{noun}, {adj}, {place}",
        "{noun} story[ with {theme}]",
    ),
    "know": _family(
        "Do you know the story of {a} {clause}?",
        "Do you know any tale with {a}[ in it]?",
        "Have you heard about {a} {place}?",
    ),
    "lesson": _family(
        "Teach me something about {theme} with a story whose hero is {a}.",
        "What can {a} teach us about {theme}?",
    ),
    "named": _family(
        "Tell me about {name} the {adj} {noun}.",
        "Who is {name} the {noun}? Tell [me ]a story.",
        "{name} the {adj} {noun} {did}. What then?",
    ),
    "give": _family(
        "Give me a tale with {a} in it. Set it {place}.",
        "Give us {a} and {theme}[, not too long].",
        "I want {a}, and I want it {place}.",
    ),
    "place_first": _family(
        "{Place}, {theme}, and {a}: write me a story.",
        "{Place} there is {a}. What is going on?",
        "{Theme}. {A}. Make it nice.",
    ),
    "fireside": _family(
        "We sit by the fire and ask for {a}[ {clause}].",
        "Storyteller, sing of {a}[ {place}]!",
        "Speak, teller of tales: what of {a}?",
    ),
    "book": _family(
        "Open the big book at the page with {a}.",
        "Read to me from the chapter where {a} {did}.",
        "The title is: {A}, {place}.",
    ),
    "friend_says": _family(
        "My friend says that {a} once {did}. Is that true?", "Somebody told me of {a} {place}. Who was that?"
    ),
    "plain": _family(
        "Tell me a story about {a_noun}.",
        "A story about {a_noun} {place}, please.",
        "I like a good {noun} story.",
        "Write a story about the {noun}[ and {theme}].",
    ),
}

# Never shown in training. `stage` may guide choices while training; the others are only for the test.
DEVELOPMENT: dict[str, Family] = {
    "stage": _family("The curtain opens {place}. On the stage stands {a}. Narrate the play for us."),
}
HELD_OUT: dict[str, Family] = {
    "letter": _family(
        "Dear narrator, our reading circle meets tonight, and we have chosen {a} as the hero. "
        "We would be glad if everything took place {place}."
    ),
    "wager": _family("I bet ten coins you can't come up with an adventure in which {a} {did}!"),
    "headline": _family("Breaking news: {A} {did} {place}! Report the full events."),
}

# What people say around a wish. None of it was put here for the held-out wordings.
_OPENERS = (
    "Hello!",
    "Hi.",
    "Good evening.",
    "Hey there,",
    "Okay,",
    "Thanks for being here.",
    "I am bored.",
    "It is raining outside.",
    "Our bus is late again.",
    "Yesterday was my birthday!",
    "Here is my wish:",
    "Quick,",
    "Now then.",
    "Listen.",
    "I just had lunch.",
    "My sister wrote this.",
    "Now for something else.",
    "The washing machine is broken.",
    "I have a question.",
    "Grandpa is snoring.",
)
_CLOSERS = (
    "Thank you!",
    "Please.",
    "Make it short.",
    "Make it fun.",
    "I love your stories.",
    "Not too scary, please.",
    "We are all ears.",
    "Take your time.",
    "Surprise us.",
    "Be kind to the hero.",
    "Thanks a lot in advance.",
    "The whole family is listening.",
    "Do it well!",
    "I can't wait.",
    "We would be so happy.",
    "That's all.",
    "Everything else is up to you.",
)
_CHATTER = words.listed(
    "coffee ticket window answer number paper music colour winter money uncle dinner street question "
    "minute moment always never maybe because should might really almost together tomorrow without "
    "between another every bottle keyboard football holiday pocket summer carpet ladder soup thirty seven "
    "borrow carry choose decide explain forget gather improve join measure notice order prefer remember "
    "repeat select suggest travel visit wonder against around behind during inside toward whether "
    "although however indeed perhaps quite"
)


def with_noise(rng: random.Random, text: str) -> str:
    """Sometimes surround a prompt with small talk or loose words, so that strange words do not distract."""
    roll = rng.random()
    if roll < 0.6:
        return text
    before = rng.choice(_OPENERS) if rng.random() < 0.6 else ""
    after = rng.choice(_CLOSERS) if rng.random() < 0.5 else ""
    if roll > 0.8:
        loose = " ".join(rng.sample(_CHATTER, rng.randint(3, 9)))
        loose = capital(loose) + rng.choice((".", ",", ":", "!", "?"))
        if rng.random() < 0.65:
            before = f"{before} {loose}".strip()
        else:
            after = f"{loose} {after}".strip()
    return f"{before} {text} {after}".strip()
