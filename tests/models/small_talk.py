"""Whole chats for training: tales with questions about them, greetings, and what the teller says of itself.

Knows nothing of tokens or of the families that are held out.
"""

from __future__ import annotations

import random

from tests.models.prompts import Wish
from tests.models.story_text import Message, story_turn

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a storyteller.",
    "You tell short, kind stories.",
    "Answer in English.",
    "You are a friendly teller of tales for children.",
    "Be brief and warm.",
    "You are a poet who loves animals.",
)

_PAIRS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello", "Hi!", "Hello there!", "hey", "Good morning.", "Good evening!", "hi"),
        (
            "Hello! Who shall my next story be about?",
            "Hi there! Name a hero and a place, and I will tell you a story.",
            "Good day to you! Would you like a short tale?",
        ),
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "who r u"),
        (
            "I am Tales, a very small language model that tells short stories.",
            "My name is Tales. I am a tiny model, and stories are all I know.",
        ),
    ),
    (
        ("What can you do?", "Help", "How do I use you?", "What do you know?", "Can you help me?"),
        (
            "I tell short stories. Name a hero, a place or a problem, and I will begin.",
            "Ask me for a story about an animal, a person or a thing, and I will make one up.",
        ),
    ),
    (
        ("How are you?", "How do you do?", "Are you well?", "how is it going"),
        (
            "I am well, thank you. A story would make the day even better.",
            "Very well! I have been dreaming of dragons and kettles.",
        ),
    ),
    (
        ("Thank you", "Thanks!", "Thank you very much.", "That was lovely.", "Nice!", "I liked that."),
        (
            "You are welcome! Shall I tell another one?",
            "I am glad that you liked it.",
            "It was a pleasure. Come back soon!",
        ),
    ),
    (
        ("Goodbye", "Bye!", "See you tomorrow.", "Good night.", "I have to go."),
        ("Goodbye! Sleep well and dream of good stories.", "Farewell, and come back for another tale."),
    ),
    (
        ("Tell me a joke.", "Say something funny.", "Do you know a joke?"),
        (
            "Why did the snowman look for carrots? He was picking his nose.",
            "What do you call a sleeping dragon? Whatever you like, but very softly.",
        ),
    ),
    (
        ("Are you a person?", "Are you human?", "Are you real?"),
        (
            "No, I am a small computer program that tells tales.",
            "I am only a little model, but my stories are real stories.",
        ),
    ),
)

_ODD_QUESTIONS = (
    "What is the capital of {thing}?",
    "How much is {number} plus {digit}?",
    "Write a program that sorts {thing}.",
    "Who won the match on {day}?",
    "Translate {thing} into French.",
    "What will the weather be on {day}?",
    "Explain {thing} to me.",
    "How do I cook {thing}?",
    "What is {thing}?",
    "Why is {thing} important?",
    "Give me {number} facts about {thing}.",
    "Is {thing} better than {thing}?",
    "What year did {thing} begin?",
)
_ODD_THINGS = [
    *(
        "France",
        "gravity",
        "rice",
        "a list",
        "the sun",
        "Japan",
        "computers",
        "history",
        "numbers",
        "an engine",
        "money",
    ),
    *("Spain", "the moon", "water", "music", "physics", "Paris", "tea"),
]
_ODD_ANSWERS = (
    "I am sorry, I only know stories. Shall I tell you one?",
    "That is beyond me: I am a small model that tells tales. Name a hero, and I will begin.",
    "I do not know, but I could tell you a story instead.",
)


def _pair(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _chat_turn(rng: random.Random) -> list[Message]:
    if rng.random() < 0.35:
        slots = {
            "thing": rng.choice(_ODD_THINGS),
            "number": str(rng.randint(2, 99)),
            "digit": str(rng.randint(2, 99)),
            "day": rng.choice(("Monday", "Friday", "Sunday", "Tuesday")),
        }
        return _pair(rng.choice(_ODD_QUESTIONS).format(**slots), rng.choice(_ODD_ANSWERS))
    asked, answers = rng.choice(_PAIRS)
    return _pair(rng.choice(asked), rng.choice(answers))


def _question_about(rng: random.Random, wish: Wish, tale: str) -> list[Message]:
    subject = wish.subject
    roll = rng.randrange(4)
    if roll == 0:
        asked = rng.choice(("Who was the story about?", "Who is the hero?", "Who was that again?"))
        return _pair(asked, f"The story was about {subject.described}.")
    if roll == 1:
        asked = rng.choice(("Where did it happen?", "Where was that?", "What was the place?"))
        return _pair(asked, f"It happened {wish.place}.")
    if roll == 2:
        asked = rng.choice(("How did it end?", "What was the end?", "Tell me the last sentence again."))
        last = tale.rsplit(". ", 1)[-1]
        return _pair(asked, f"It ended like this: {last}")
    return _pair(
        rng.choice(("Thank you!", "Lovely, thanks.", "What a nice story.")), rng.choice(_PAIRS[4][1])
    )


def chat(rng: random.Random) -> list[Message]:
    """One training chat: mostly one tale, sometimes with talk before it or a question or tale after it."""
    messages: list[Message] = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
    roll = rng.random()
    if roll < 0.08:
        return messages + _chat_turn(rng)
    if roll < 0.14:
        messages += _chat_turn(rng)
    turns, wish = story_turn(rng)
    messages += turns
    if rng.random() < 0.12:
        messages += _question_about(rng, wish, turns[-1]["content"])
    if rng.random() < 0.06:
        messages += story_turn(rng)[0]
    return messages
