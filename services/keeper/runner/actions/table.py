"""Every action type a node may have, in one table. Conditions and loops are the execution's own business."""

from collections.abc import Mapping

from services.keeper.runner.actions.coalition import cast_vote, open_ballot, require_consensus, tally
from services.keeper.runner.actions.http_request import http_request
from services.keeper.runner.actions.state import state_get, state_set
from services.keeper.runner.actions.step import Action
from services.keeper.runner.actions.superfluid import SENDING, SUPERFLUID
from services.keeper.runner.actions.web3_read import (
    check_balance,
    get_transaction,
    query_events,
    read_contract,
)
from services.keeper.runner.actions.web3_write import transfer_funds, write_contract
from services.keeper.workflow_format import COLLECT, CONDITION, FOR_EACH

ACTIONS: Mapping[str, Action] = {
    "HTTP Request": http_request,
    "State Get": state_get,
    "State Set": state_set,
    "web3/check-balance": check_balance,
    "web3/get-transaction": get_transaction,
    "web3/query-events": query_events,
    "web3/read-contract": read_contract,
    "web3/transfer-funds": transfer_funds,
    "web3/write-contract": write_contract,
    "coalition/cast-vote": cast_vote,
    "coalition/open-ballot": open_ballot,
    "coalition/require-consensus": require_consensus,
    "coalition/tally": tally,
    **SUPERFLUID,
}
KNOWN = tuple(sorted((*ACTIONS, CONDITION, FOR_EACH, COLLECT)))
SENDS = SENDING | {
    "coalition/cast-vote",
    "coalition/open-ballot",
    "web3/transfer-funds",
    "web3/write-contract",
}
"""Actions whose unforeseen errors must never end a step: what they sent may have happened."""
