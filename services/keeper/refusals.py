"""What a contract's refusal is called in the log, and which refusals another attempt would meet again."""

import re

START_REFUSED = "start_refused"
FINAL = frozenset(
    {
        "nothing_left", "opened_too_late", "terms_invalid", "voucher_invalid", "voucher_not_funded",
        "signature_invalid", "transfer_refused", "too_many_active", "rate_not_exact", "not_opener",
        "not_controller", "not_session", "not_operator", "quorum_missing", "signer_invalid", "amount_invalid",
        "probes_missing", "votes_expired",
    }
)  # fmt: skip
_ERROR = re.compile(r"\b([A-Z][A-Za-z0-9]*)\(")


def code_of(said: str) -> str:
    """The first error named in a text, as a code: `NothingLeft(...)` -> nothing_left."""
    found = _ERROR.search(said)
    if found is None or found[1] in ("Error", "Panic"):
        return START_REFUSED
    return re.sub(r"(?<!^)(?=[A-Z])", "_", found[1]).lower()


def is_final(code: str) -> bool:
    return code in FINAL
