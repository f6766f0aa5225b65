"""Why a pool refuses a command; knows nothing of its state. Read as `pool.PlanInvalid` and so on."""

from events.kernel import Rejected


class PoolAlreadyProposed(Rejected):
    """A pool with this id was already proposed with other terms."""

    code = "pool_already_proposed"
    remedy = "Use a new pool id."


class PoolUnknown(Rejected):
    """No pool has this id."""

    code = "pool_unknown"
    remedy = "List the pools: computepool pools."


class PoolRetired(Rejected):
    """The pool has been retired."""

    code = "pool_retired"
    remedy = "Propose a new pool."


class PlanInvalid(Rejected):
    """The plan does not tile the model's layers, names a node twice, or its units do not add up."""

    code = "plan_invalid"
    remedy = "Every layer exactly once, each node once, units summing to 10000."


class MemberNotAccepted(Rejected):
    """The plan names a node whose operator has not accepted this pool."""

    code = "member_not_accepted"
    remedy = "Let the operator accept first: computepool worker accept."


class NodeNotUsable(Rejected):
    """A node named for the plan has not accepted, is not reachable, or has not been measured."""

    code = "node_not_usable"
    remedy = "Start its worker and let its operator accept the pool, then plan again."


class WeightsDiffer(Rejected):
    """A node loaded weights with another digest than the pool's."""

    code = "weights_differ"
    remedy = "Put the proposed revision of the model on the node."
