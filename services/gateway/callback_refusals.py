"""What the webhook refuses, each as a named fact; statuses stand in `problems.TABLE`. Knows no proof."""

from services.gateway.refusals import Problem


class CallbackForged(Problem):
    """Nothing proves that one of our runs sends this callback."""

    code = "callback_forged"
    remedy = "docs/webhooks.md says what is signed; look at the clock, the key and the path."


class CallbackMalformed(Problem):
    """A header or a field of the callback is missing or not of its form."""

    code = "callback_malformed"
    remedy = "docs/webhooks.md lists what a callback says."


class CallbackImpossible(Problem):
    """No such run was asked for, or its workflow does not tell such an event."""

    code = "callback_impossible"
    remedy = "Do not send it again: the answer stays the same."


class CallbackCrowded(Problem):
    """This run has told too many different stories about this event."""

    code = "callback_crowded"
    remedy = "Nothing: the run's outcome is read from the chain."


class CallbackStoreAway(Problem):
    """Callbacks can't be written down now."""

    code = "callback_store_away"
    remedy = "Send it again, with the same delivery id and a fresh signature."
