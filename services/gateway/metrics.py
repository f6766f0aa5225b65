"""What Prometheus may read: one registry per application, counts and times only; knows no prompt, key or
payer.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Attributes are the metrics; docs/api.md lists them, and a test compares."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "computepool_generations",
            "Generations by outcome: a finish reason, or the error's code",
            ["model", "outcome"],
            registry=registry,
        )
        self.first_token_s = Histogram(
            "computepool_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.inter_token_s = Histogram(
            "computepool_inter_token_seconds",
            "Between two tokens of one generation, as the gateway received them",
            ["model"],
            buckets=(0.001, 0.0025, 0.005, *_SECONDS[:8]),
            registry=registry,
        )
        self.completion_tokens = Counter(
            "computepool_completion_tokens", "Tokens given to clients", ["model"], registry=registry
        )
        self.receipts = Counter(
            "computepool_receipts",
            "Nodes of paid answers' rings, by whether what they signed came and holds: kept, or missing",
            ["model", "outcome"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "computepool_requests_in_flight", "Generations that run or wait for a slot", registry=registry
        )
        self.refusals = Counter(
            "computepool_refusals", "Refused HTTP requests by code", ["code"], registry=registry
        )
        self.callbacks = Counter(
            "computepool_callbacks",
            "Callbacks of keeper runs that proved who sends them: accepted, or duplicate",
            ["outcome"],
            registry=registry,
        )
        self.callbacks_forged = Counter(
            "computepool_callbacks_forged",
            "Callbacks that proved nothing, by reason",
            ["reason"],
            registry=registry,
        )
        self.projector_lag = Gauge(
            "computepool_projector_lag_commits",
            "Commits in the log that no reader sees yet",
            registry=registry,
        )
        self.feeds = Gauge("computepool_feeds_open", "Open /feed connections", registry=registry)
        self.kv_slots_used = Gauge(
            "computepool_kv_slots_used", "KV slots in use, over all nodes' heartbeats", registry=registry
        )

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)
