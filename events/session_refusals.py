"""Why a session refuses a command; knows nothing of when it does."""

from events.kernel import Rejected


class SessionAlreadyOpen(Rejected):
    """A session with this id is already open with other terms."""

    code = "session_already_open"
    remedy = "Use a new session id."


class SessionUnknown(Rejected):
    """No session has this id."""

    code = "session_unknown"
    remedy = "Open a session first: POST /sessions."


class SessionClosed(Rejected):
    """The session is settled or expired."""

    code = "session_closed"
    remedy = "Open a new session."


class SessionBusy(Rejected):
    """The session still has a request in flight."""

    code = "session_busy"
    remedy = "Wait until the request ends, or cancel it."


class NotThePayer(Rejected):
    """Only the payer who opened the session may use it."""

    code = "not_the_payer"
    remedy = "Use the credentials that opened the session."


class NotTheEntry(Rejected):
    """A node reported the end of a request that another node answers."""

    code = "not_the_entry"
    remedy = "Only the entry node of the request's ring may report its end."


class EndingInconsistent(Rejected):
    """The report contradicts itself or the request: its error code, or its count of tokens."""

    code = "ending_inconsistent"
    remedy = "Update the worker: error_code goes with finish_reason error; tokens are 0..max_tokens."


class RequestAlreadyEnded(Rejected):
    """This request id was already used in the session."""

    code = "request_already_ended"
    remedy = "Use a new request id."
