"""Writes prompts with their tales, and small talk, from a seed: the same seed gives the same text.

Knows nothing of tokens, tensors or files.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence

from tests.models import words
from tests.models.plots import PLOT_BY_KEY, PLOTS
from tests.models.prompts import DEVELOPMENT, HELD_OUT, TRAINING, Told, Wish, capital, with_noise
from tests.models.words import Subject, draw_subject

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

_OPENING = (
    "Once upon a time there was {a} {place}.",
    "{Place} lived {a}.",
    "There was once {a} who lived {place}.",
    "Long ago, {place}, there lived {a}.",
    "Not so long ago {a} had a home {place}.",
    "This is the tale of {a} {place}.",
    "If you had been {place}, you would have met {a}.",
    "Far from here, {place}, lived {a}.",
    "{Place} everyone knew {a}.",
    "Let me tell you about {a}, who lived {place}.",
    "Many years ago there was {a} {place}.",
    "{A} lived {place}.",
)
_NAMING = (
    "The {noun} was called {name}.",
    "Friends called the {noun} {name}.",
    "{Its} name was {name}.",
    "Everybody said {name} to the {noun}.",
)
_HABIT = (
    "Each morning {they} greeted the sun.",
    "{They} liked the smell of rain.",
    "{They} had a laugh like a small bell.",
    "People said that no {noun} was more {adj}.",
    "{Their} best days were slow and warm.",
    "{They} kept {their} treasures in an old tin box.",
    "At noon {they} always took a short nap.",
    "It was not easy to be so {adj}.",
    "{They} knew every corner of that place.",
    "{Their} heart was bigger than a house.",
    "{They} could hum nine songs.",
    "Being {adj} suited {them} well.",
    "On Sundays {they} made pancakes.",
    "Nothing much ever happened there.",
)
_FEELING = (
    "{N} sighed and sat down.",
    "A tear rolled down, but only one.",
    "It seemed hopeless.",
    "Still, {n} did not give up.",
    "Now what?",
    "The day felt very long.",
    "Even so, a {noun} does not quit.",
    "{Their} courage was nearly gone.",
    "{They} thought hard and found no answer.",
    "The wind whispered: try again.",
)
_MEETING = (
    "Just then {friend} came by.",
    "Then {n} met {friend}.",
    "That evening {friend} passed and asked what was wrong.",
    "By luck, {friend} had watched it all.",
    "A voice said hello: it was {friend}.",
    "Around the corner came {friend}.",
    "Who should appear but {friend}?",
    "The next day {friend} offered to help.",
    "Help came from {friend}.",
    "Nearby sat {friend}, who knew what to do.",
)
_JOY = (
    "{N} jumped for joy.",
    "They laughed until the moon rose.",
    "{They} thanked {f} with all {their} heart.",
    "What a day that was!",
    "Everyone clapped.",
    "{N} felt light as a feather.",
    "There was tea and cake for all.",
    "Even the rain sounded merry.",
    "{N} could hardly believe it.",
)
_ENDING = (
    "From that day on, the {noun} was never alone.",
    "And so the {adj} {noun} lived happily ever after.",
    "Since then, {n} and {f} are the best of friends.",
    "That night the {noun} slept with a smile.",
    "And if you listen, you can still hear the {noun} sing.",
    "The {noun} never forgot that day.",
    "Now {n} tells this story to all who pass.",
    "And that is how the {noun} learned to ask for help.",
    "So ends the tale of the {adj} {noun}.",
    "To this day, the {noun} keeps a light on for others.",
    "A little kindness had changed everything for the {noun}.",
    "And the {noun} knew that home is where friends are.",
)


def _choice(key: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % count


def _lean(rng: random.Random, options: Sequence[str], key: str) -> str:
    """Mostly the option that belongs to `key`, so that a greedy learner of these texts still varies."""
    return options[_choice(key, len(options))] if rng.random() < 0.6 else rng.choice(options)


def is_held_out(noun: str, place: str, plot_key: str) -> bool:
    """Whether this combination is kept for the test: one in six of all."""
    return _choice(f"{noun}|{place}|{plot_key}", 6) == 0


def draw_wish(rng: random.Random, *, held_out: bool) -> Wish:
    """Draw who, where and what; only kept-back combinations with `held_out`, else none of them."""
    while True:
        subject = draw_subject(rng, invented=0.0 if held_out else 0.12)
        places = words.PLACES[subject.group]
        place = _lean(rng, places, subject.noun)
        if rng.random() < 0.3:
            place = rng.choice(words.PLACES[rng.choice(list(words.PLACES))])
        key = _lean(rng, tuple(PLOT_BY_KEY), f"{subject.noun} does")
        if rng.random() < 0.4:
            key = rng.choice(PLOTS).key
        plot = PLOT_BY_KEY[key]
        if is_held_out(subject.noun, place, key) == held_out:
            filling = _lean(rng, plot.filling, subject.adjective) if plot.filling else ""
            if plot.filling and rng.random() < 0.5:
                filling = rng.choice(plot.filling)
            return Wish(subject, place, plot, filling)


def worst_four_gram(text: str) -> int:
    """How often the most frequent run of four words occurs, case and punctuation aside; 0 if none."""
    tokens = re.findall(r"[a-z']+", text.lower())
    return max(Counter(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False)).values(), default=0)


def names_subject(text: str, subject: Subject) -> bool:
    """Whether the text has the subject's noun as a word, and its name too where it has one."""
    found = set(re.findall(r"[a-z]+", text.lower()))
    return subject.noun.lower() in found and (not subject.name or subject.name.lower() in found)


def tell(rng: random.Random, wish: Wish, *, name_known: bool) -> str:
    """The tale of a wish: six to nine sentences in which no run of four words comes back twice."""
    for _ in range(100):
        text = _tell_once(rng, wish, name_known=name_known)
        if worst_four_gram(text) == 1:
            return text
    raise ValueError(
        f"the plot {wish.plot.key!r} always repeats itself with {wish.filling!r}: shorten the filling"
    )


def _tell_once(rng: random.Random, wish: Wish, *, name_known: bool) -> str:
    subject, plot = wish.subject, wish.plot
    name = subject.name if name_known or rng.random() < 0.5 else ""
    friend = rng.choice([other for other in words.FRIENDS if subject.noun not in other])
    their = {"he": "his", "she": "her", "it": "its"}[subject.pronoun]
    them = {"he": "him", "she": "her", "it": "it"}[subject.pronoun]
    introduced = subject.described + (f" named {subject.name}" if name_known and subject.name else "")
    slots = {
        "a": introduced,
        "A": capital(introduced),
        "place": wish.place,
        "Place": capital(wish.place),
        "noun": subject.noun,
        "adj": subject.adjective,
        "name": name,
        "Its": capital(their),
        "they": subject.pronoun,
        "They": capital(subject.pronoun),
        "their": their,
        "Their": capital(their),
        "them": them,
        "themself": them + "self",
        "x": wish.filling,
        "ax": words.with_article(wish.filling or "thing"),
        "friend": words.with_article(friend),
        "f": "the " + friend.split()[-1],
        "F": "The " + friend.split()[-1],
    }

    def say(pattern: str) -> str:
        called = name if name and rng.random() < 0.65 else f"the {subject.noun}"
        return pattern.format(**slots, n=called, N=capital(called))

    sentences = [say(_lean(rng, _OPENING, subject.adjective))]
    if name and not name_known:
        sentences.append(say(rng.choice(_NAMING)))
    if rng.random() < 0.6 or len(sentences) == 1:
        sentences.append(say(_lean(rng, _HABIT, subject.noun + "'s ways")))
    sentences.append(say(rng.choice(plot.trouble)))
    sentences.append(say(rng.choice(plot.attempt)))
    if rng.random() < 0.45:
        sentences.append(say(rng.choice(_FEELING)))
    if plot.key != "quarrel":
        sentences.append(say(_lean(rng, _MEETING, subject.adjective + plot.key)))
    sentences.append(say(rng.choice(plot.mending)))
    if rng.random() < 0.4 and len(sentences) < 8:
        sentences.append(say(rng.choice(_JOY)))
    sentences.append(say(_lean(rng, _ENDING, subject.adjective + " at last")))
    return " ".join(sentences)


def ask(rng: random.Random, wish: Wish, family: str) -> Told:
    """The prompt of a wish in the wording of a family, one of training, development or held out."""
    return (TRAINING | DEVELOPMENT | HELD_OUT)[family](rng, wish)


def held_out_prompts(family: str, count: int, seed: int) -> list[tuple[str, Subject]]:
    """Prompts of a family over combinations kept out of training, each with the subject to be named."""
    rng = random.Random(f"{family} {seed}")
    drawn: list[tuple[str, Subject]] = []
    for _ in range(count):
        wish = draw_wish(rng, held_out=True)
        drawn.append((ask(rng, wish, family).text, wish.subject))
    return drawn


def story_turn(rng: random.Random) -> tuple[list[Message], Wish]:
    """One prompt of a training family, and its tale."""
    wish = draw_wish(rng, held_out=False)
    told = ask(
        rng, wish, rng.choice([family for family in TRAINING if wish.subject.name or family != "named"])
    )
    answer = tell(rng, wish, name_known=told.name)
    return [
        {"role": "user", "content": with_noise(rng, told.text)},
        {"role": "assistant", "content": answer},
    ], wish
