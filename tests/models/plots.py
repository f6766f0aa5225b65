"""What can happen in a tale: each plot tells its trouble, a try that fails, and how it was put right.

Knows nothing of prompts, tokens or training. Slots in braces: `n` the hero inside a sentence, `N` at
its start; `they them their They Their themself` the hero's pronoun; `friend` ("a wise owl"), `f` ("the owl"),
`F` ("The owl"); `x` what fills the plot (a thing, a skill, a food), `ax` the same with its article.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.models import words


@dataclass(frozen=True)
class Plot:
    """One kind of trouble. `did` continues "a fox that ..."; `theme` can stand alone after "about"."""

    key: str
    did: str
    theme: str
    trouble: tuple[str, ...]
    attempt: tuple[str, ...]
    mending: tuple[str, ...]
    filling: tuple[str, ...] = ()  # what `{x}` may be; empty when the plot has no such slot


PLOTS: tuple[Plot, ...] = (
    Plot(
        "lost",
        "lost {ax}",
        "a lost {x}",
        (
            "One morning {n} lost {ax}.",
            "One windy day {ax} was gone, and {n} felt sad.",
            "{N} had {ax}, but one evening it was nowhere to be found.",
        ),
        (
            "{They} looked under every stone, yet there was nothing.",
            "First {they} searched the long grass until dark.",
            "All day {they} asked everyone and found only dust.",
        ),
        (
            "{F} had seen the {x} in a tree and climbed up to fetch it.",
            "Together they followed small tracks and found the {x} in a nest.",
            "Then {f} pointed at a ditch, and there lay the {x}, wet but whole.",
        ),
        tuple(words.THINGS),
    ),
    Plot(
        "found",
        "found {ax}",
        "a found {x}",
        (
            "On the way home {n} found {ax}.",
            "One day {n} saw {ax} lying in the mud.",
            "After the rain {n} picked up {ax}.",
        ),
        (
            "{They} wanted to keep it, but it did not feel right.",
            "{They} asked at three doors, and nobody knew whose it was.",
            "{They} hung a note on the wall and waited all week.",
        ),
        (
            "At last {f} cried out with joy, for the {x} was a gift from long ago.",
            "It turned out that {f} had missed the {x} since spring, and {n} gave it back.",
            "{F} knew the owner, and they carried the {x} to the right house.",
        ),
        tuple(words.THINGS),
    ),
    Plot(
        "skill",
        "wanted to learn to {x}",
        "learning to {x}",
        (
            "More than anything {n} wanted to {x}.",
            "Every night {n} dreamed that {they} could {x}.",
            "Everyone could {x} except {n}.",
        ),
        (
            "The first try went wrong, and {they} fell over {their} own feet.",
            "{They} tried alone in secret, but nothing came of it.",
            "{They} practised for a whole week and only got tired.",
        ),
        (
            "{F} showed how to go slowly, one small step after another, until {n} could {x}.",
            "With {f} beside {them}, {they} began to {x} without fear.",
            "Each morning {f} gave one lesson, and by summer {n} could {x} very well.",
        ),
        tuple(words.SKILLS),
    ),
    Plot(
        "dark",
        "was afraid of the dark",
        "fear of the dark",
        (
            "But {n} was afraid of the dark.",
            "When the sun went down, {n} began to tremble.",
            "Each night {n} hid from the shadows.",
        ),
        (
            "{They} lit seven candles, and the wind blew them all out.",
            "{They} tried to stay awake until morning and could not.",
            "Counting to a hundred did not help at all.",
        ),
        (
            "{F} taught {them} to look up, and the sky was full of stars.",
            "Then {f} told {them} the name of every sound, and the night grew friendly.",
            "Hand in hand with {f}, {they} walked through the night and met only fireflies.",
        ),
    ),
    Plot(
        "storm",
        "was caught in a storm",
        "a great storm",
        (
            "One night a great storm came.",
            "Suddenly the sky turned black and thunder rolled.",
            "In autumn a wild storm shook everything.",
        ),
        (
            "{N} ran for shelter, but the rain was faster.",
            "{They} held on tight while the wind howled.",
            "{They} called for help, and no one could hear.",
        ),
        (
            "{F} opened a door and let {them} dry by the fire.",
            "Then {f} came with a rope and pulled {them} to safety.",
            "Side by side with {f}, {they} waited until the last cloud was gone.",
        ),
    ),
    Plot(
        "friend",
        "wanted a friend",
        "a new friend",
        (
            "{N} had everything but a friend.",
            "Every evening {n} ate supper alone.",
            "Nobody ever came to visit {n}.",
        ),
        (
            "{They} waved at the birds, and they flew away.",
            "{They} wrote a letter and had nobody to send it to.",
            "{They} knocked on a door, then ran off out of shyness.",
        ),
        (
            "One day {f} asked a simple question: shall we play?",
            "{F} was lonely too, so they shared a bench and talked till sunset.",
            "It was {f} who sat down next to {them} and smiled.",
        ),
    ),
    Plot(
        "way",
        "lost the way home",
        "the way home",
        (
            "One foggy afternoon {n} lost the way home.",
            "{N} walked too far and did not know the way back.",
            "When the fog came, every path looked the same to {n}.",
        ),
        (
            "{They} turned left, then right, and came back to the same rock.",
            "{They} climbed a wall to look around but saw only white mist.",
            "Following the wind led {them} into a swamp.",
        ),
        (
            "{F} knew each path and walked ahead with a light.",
            "{F} told {them} to listen, and far away a bell was ringing at home.",
            "They followed the stream with {f}, and soon a known roof came into view.",
        ),
    ),
    Plot(
        "mend",
        "had to mend a broken {x}",
        "a broken {x}",
        (
            "One day the old {x} broke.",
            "After the winter the {x} was in pieces.",
            "Everybody needed the {x}, but it had fallen apart.",
        ),
        (
            "{N} used string, and it snapped at once.",
            "{N} hammered all morning and bent every nail.",
            "{N} tried glue, which only made a sticky mess.",
        ),
        (
            "{F} brought strong wood, and by night the {x} stood again.",
            "Then {f} held one end while {they} tied the other, and the {x} was as good as new.",
            "With a plan from {f}, they built a better {x} than before.",
        ),
        tuple(words.BROKEN),
    ),
    Plot(
        "party",
        "planned a surprise party",
        "a surprise party",
        (
            "In spring {n} planned a surprise party.",
            "{N} wanted to give a party that no one would forget.",
            "There was a birthday coming, and {n} had a secret plan.",
        ),
        (
            "The cake burned, and the lamps would not glow.",
            "{They} baked a cake so flat that it looked like a plate.",
            "The guests nearly heard the secret twice.",
        ),
        (
            "{F} came early with flowers and a fresh cake.",
            "Luckily {f} could play the fiddle, and soon all were dancing.",
            "{F} hung paper stars everywhere, and the room shone.",
        ),
    ),
    Plot(
        "share",
        "had only one {x} left",
        "sharing a {x}",
        (
            "One cold winter {n} had only one {x} left.",
            "There was nothing in the cupboard but one {x}.",
            "{N} saved one last {x} for a hard day.",
        ),
        (
            "{They} hid it behind a brick and could not stop thinking of it.",
            "{They} took one small bite and put it away again.",
            "{They} meant to eat it alone, but {their} heart felt heavy.",
        ),
        (
            "Then {f} came by, thin and cold, and {n} cut the {x} in two.",
            "{They} shared the {x} with {f}, and it tasted twice as good.",
            "So {they} invited {f} to the table, and the {x} was enough for both.",
        ),
        tuple(words.FOODS),
    ),
    Plot(
        "sleep",
        "could not sleep",
        "a sleepless night",
        (
            "One night {n} could not sleep.",
            "The moon was bright, and {n} lay awake.",
            "{N} turned from side to side and found no sleep.",
        ),
        (
            "{They} counted sheep, but the sheep kept laughing.",
            "{They} drank warm milk and was still awake.",
            "A softer pillow made no difference.",
        ),
        (
            "{F} hummed a low tune until {their} eyes closed.",
            "Then {f} told a very long tale about nothing, and it worked.",
            "{F} said that the moon was awake as well, and that was a comfort.",
        ),
    ),
    Plot(
        "race",
        "entered a race",
        "a big race",
        (
            "One summer {n} entered a race.",
            "There was to be a race, and {n} wrote {their} name on the list.",
            "All the fast ones laughed when {n} came to the race.",
        ),
        (
            "At the start {they} slipped and was last.",
            "Halfway there {their} legs were tired and slow.",
            "A wrong turn cost {them} a lot of time.",
        ),
        (
            "Near the end {f} was hurt, so {they} stopped to help, and the crowd cheered.",
            "{F} shouted kind words, and {n} ran on to the finish.",
            "{They} crossed the line together with {f}, and both got a ribbon.",
        ),
    ),
    Plot(
        "door",
        "found a secret door",
        "a secret door",
        (
            "One rainy day {n} found a secret door.",
            "Behind a curtain of leaves {n} saw a tiny door.",
            "A door that had never been there stood before {n}.",
        ),
        (
            "It was locked, and no key would fit.",
            "{They} pushed with all {their} strength, and it did not move.",
            "{They} knocked three times and heard only an echo.",
        ),
        (
            "{F} whispered an old rhyme, and it swung open to a garden of light.",
            "Then {f} said please, and the door opened by itself.",
            "{F} found the handle on the other side, and inside there was music.",
        ),
    ),
    Plot(
        "lie",
        "told a lie",
        "telling the truth",
        (
            "One day {n} told a lie.",
            "{N} broke a window and said it was the wind.",
            "To look grand, {n} made up a story about a treasure.",
        ),
        (
            "Soon one lie needed another, and {they} felt sick.",
            "{They} could not look anyone in the eye.",
            "All that night the lie sat on {their} chest like a stone.",
        ),
        (
            "{F} listened quietly, and {n} told the whole truth.",
            "With {f} at {their} side {they} went and said sorry.",
            "{F} had known it all along and forgave {them}.",
        ),
    ),
    Plot(
        "seed",
        "planted a seed",
        "a tiny seed",
        (
            "In April {n} planted a seed.",
            "{N} got a single seed as a present.",
            "There was one seed left, and {n} put it in the ground.",
        ),
        (
            "{They} watered it ten times a day, and nothing grew.",
            "{They} dug it up each morning to see if it was alive.",
            "Weeks went by, and the earth stayed bare.",
        ),
        (
            "{F} told {them} to wait for the sun, and one day a leaf came out.",
            "{F} moved it to a warmer spot, and soon there was a flower.",
            "Then {f} sang to it, and a green stem rose as high as the fence.",
        ),
    ),
    Plot(
        "star",
        "met a fallen star",
        "a fallen star",
        (
            "One night a star fell right before {n}.",
            "{N} heard a soft crash and found a small star.",
            "Something bright lay in the grass, and {n} saw that it was a star.",
        ),
        (
            "{They} threw it up as high as {they} could, and it came down again.",
            "{They} built a ladder of boxes, but it was too short.",
            "The star grew pale, and {n} did not know what to do.",
        ),
        (
            "{F} carried it above the clouds and set it free.",
            "They asked {f}, who knew that stars go home on wishes, so they wished.",
            "{F} tied it to the wind with a thread, and up it went.",
        ),
    ),
    Plot(
        "snow",
        "got stuck in the snow",
        "a snowy day",
        (
            "That winter {n} got stuck in the snow.",
            "The snow was so deep that {n} could not move.",
            "Overnight the snow had covered everything, even {n}.",
        ),
        (
            "{They} dug with a spoon and got nowhere.",
            "{They} shouted until {their} voice was thin.",
            "The more {they} pushed, the deeper {they} sank.",
        ),
        (
            "{F} came with a sledge and pulled {them} out.",
            "At noon {f} cleared a path and brought hot tea.",
            "{F} stamped the snow flat, step by step, until {n} was free.",
        ),
    ),
    Plot(
        "quarrel",
        "quarrelled with a friend",
        "a quarrel",
        (
            "One day {n} quarrelled with {friend}.",
            "A silly quarrel began between {n} and {friend}.",
            "{N} shouted at {friend} about a very small thing.",
        ),
        (
            "For a week they did not speak a word.",
            "{They} told {themself} that it did not matter, but it did.",
            "Playing alone was no fun at all.",
        ),
        (
            "In the end {n} brought a cake and said sorry to {f}.",
            "Then {f} laughed first, and the quarrel melted like ice.",
            "They met on the path, and {f} hugged {them} without a word.",
        ),
    ),
    Plot(
        "journey",
        "wanted to see {x}",
        "a journey to {x}",
        (
            "All {their} life {n} had wanted to see {x}.",
            "One day {n} packed a bag to see {x}.",
            "{N} had heard so much about {x} that {they} had to go.",
        ),
        (
            "The road was long, and the first night was cold.",
            "{They} walked until {their} shoes had holes.",
            "A wide river stopped {them} for three days.",
        ),
        (
            "{F} offered a ride, and in the morning they saw {x}.",
            "With {f} as a guide the way was short, and {x} was even finer than in dreams.",
            "{F} shared bread and a map, and so {n} reached {x} at last.",
        ),
        tuple(words.GOALS),
    ),
    Plot(
        "small",
        "wished to be bigger",
        "being small",
        (
            "{N} wished to be bigger.",
            "Every day {n} stood on tiptoe and felt too small.",
            "The others never noticed {n}, and it hurt.",
        ),
        (
            "{They} ate three dinners and only got a stomach ache.",
            "{They} wore a tall hat, and it fell over {their} eyes.",
            "Stretching in the sun did not add an inch.",
        ),
        (
            "Then {f} was trapped in a narrow pipe, and only {n} fitted inside to help.",
            "{F} needed someone to crawl through a crack, and {n} was just right.",
            "{F} said that a small spark can light a big lamp.",
        ),
    ),
    Plot(
        "late",
        "was always late",
        "being late",
        (
            "{N} was always late.",
            "No matter what, {n} came too late for everything.",
            "The bus, the bell and breakfast: {n} missed them all.",
        ),
        (
            "{They} set two alarms and slept through both.",
            "{They} ran so fast that {they} forgot {their} bag.",
            "{They} wrote a plan and then lost the paper.",
        ),
        (
            "{F} began to knock each morning with a cheerful song.",
            "{F} gave {them} a trick: get ready the evening before.",
            "One day {f} waited for {them}, and {they} did not want to be late again.",
        ),
    ),
    Plot(
        "letter",
        "got a strange letter",
        "a strange letter",
        (
            "One Monday {n} got a strange letter.",
            "A letter without a stamp lay at the door of {n}.",
            "The wind brought {n} a letter written in silver ink.",
        ),
        (
            "{They} read it twice and understood nothing.",
            "{They} held it to the lamp, and the words ran away.",
            "{They} turned it upside down, which made it worse.",
        ),
        (
            "{F} read it backwards, and it was an invitation to a feast.",
            "Only {f} could read it, and it said: you are loved.",
            "With a mirror from {f} the message was clear: come and play.",
        ),
    ),
)

PLOT_BY_KEY = {plot.key: plot for plot in PLOTS}
