"""The facilitator: says whether an x402 payment holds, and settles it; knows nothing of sessions or pools."""
