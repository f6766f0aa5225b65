"""The one place where configuration is read: `COMPUTEPOOL_*`, `KEEPERHUB_*`, DATABASE_URL,
NATS_URL, CHAIN_RPC_URL.

Knows nothing of how any setting is used. With one of the last three unset, `services.stack` starts its own
server and passes their addresses on to its children through the same variables.
"""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting; times in the unit of their name, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="COMPUTEPOOL_", frozen=True, populate_by_name=True)

    state_dir: Path = Path(".computepool")
    """Keys, logs, data of the embedded servers, and what runs."""
    database_url: SecretStr | None = Field(
        None, validation_alias=AliasChoices("DATABASE_URL", "database_url")
    )
    """postgresql://… of an external PostgreSQL; unset: the embedded one."""
    nats_url: str | None = Field(None, validation_alias=AliasChoices("NATS_URL", "nats_url"))
    """nats://… of an external JetStream server; unset: the embedded one."""
    nats_seeds_dir: Path | None = None
    """Directory of `<role>.nk` seed files; default: `<state_dir>/keys/nats`."""
    nats_replicas: int = 1
    """Replicas of every JetStream stream: 1 on one server, 3 in production."""
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8080
    """0 takes a free port."""
    gateway_url: str | None = None
    """Where clients reach the gateway; default: http://<gateway_host>:<gateway_port>."""
    chain_id: int = 31337
    """EIP-155 chain id that registrations and consents are bound to."""
    chain_rpc_url: str | None = Field(None, validation_alias=AliasChoices("CHAIN_RPC_URL", "chain_rpc_url"))
    """http(s)://… of an EVM chain's JSON-RPC; unset: a local anvil."""
    chain_manifest: Path | None = None
    """Which contracts stand where; default: `<state_dir>/chain/<chain id>.json`."""
    stream_start_within_s: float = 45.0
    """A paid request whose money does not flow after so long is ended; nothing was computed for it."""
    verifiers: int = Field(3, ge=1, le=7)
    """Attestors that a local stack runs and names in its coalitions' terms; more than half are a quorum."""
    local_probe_window_s: int = Field(600, ge=3)
    """On the local chain: the window of an attestor's probes; no answer in two thirds of it is a stall."""
    local_dispute_window_s: int = Field(3_600, ge=1)
    """On the local chain: how long the accused may dispute a claim before it can be executed."""
    least_voucher_micro: int = 100_000
    """The smallest payment that opens a session, in micro-USDC: more than its transactions cost in gas."""
    keeperhub_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("KEEPERHUB_API_KEY", "keeperhub_api_key")
    )
    """kh_…, an organisation's key: workflows run at KeeperHub; unset: on the embedded runner."""
    keeperhub_url: str = Field(
        "https://app.keeperhub.com", validation_alias=AliasChoices("KEEPERHUB_URL", "keeperhub_url")
    )
    """Where KeeperHub's API is, without `/api`."""
    keeperhub_transport: Literal["rest", "mcp"] = Field(
        "rest", validation_alias=AliasChoices("KEEPERHUB_TRANSPORT", "keeperhub_transport")
    )
    keeper_wallet: str | None = Field(None, pattern=r"^0x[0-9a-fA-F]{40}$")
    """The wallet that a hosted KeeperHub sends with; unset: the key of this network's own controller."""
    keeper_port: int | None = None
    """Where the keeper serves KeeperHub's paths, on 127.0.0.1; 0 takes a free port; unset: nowhere."""
    model_dirs: tuple[Path, ...] = (Path("tests/models"),)
    """Where a pool's model name is looked up (gateway: tokenizer; worker: weights)."""
    allow_hub: bool = False
    """Whether a model may be downloaded from a hub by id."""
    request_deadline_s: float = 120.0
    """A generation that is not finished after so long is ended."""
    max_requests_in_flight: int = 64
    """Beyond so many at once the gateway answers 429 with Retry-After."""
    max_body_bytes: int = 1_048_576
    log_level: str = "info"

    @property
    def access_keys(self) -> Path:
        """Hashes of the keys that open the keeper's paths."""
        return self.state_dir / "keys" / "keeper-access.json"

    @property
    def seeds_dir(self) -> Path:
        return self.nats_seeds_dir or self.state_dir / "keys" / "nats"

    def manifest_of(self, chain_id: int) -> Path:
        return self.chain_manifest or self.state_dir / "chain" / f"{chain_id}.json"

    @property
    def public_url(self) -> str:
        return self.gateway_url or f"http://{self.gateway_host}:{self.gateway_port}"
