import { ethers } from "ethers";

function json(...lines: string[]): string {
  return new ethers.Interface(lines).formatJson();
}

const SEAT = "(address operator, uint96 units, bytes32 node, address receiptKey)";
const BREACH =
  "(address session, address operator, uint8 kind, uint256 amount, bytes32 evidenceHash, uint32 failedProbes, uint32 probeWindow, uint256 deadline)";

export const COALITION_FACTORY_ABI = json(
  "function propose(bytes32 salt, bytes initCode) returns (address coalition)",
  "function addressOf(bytes32 salt, bytes32 initCodeHash) view returns (address)",
  "event CoalitionProposed(bytes32 indexed salt, address indexed coalition, address indexed proposer)",
  "error CreationFailed()"
);

export const COALITION_ABI = json(
  `function openEpoch(${SEAT}[] seats, bytes[] consents) returns (uint256 epoch, address gdaPool)`,
  "function epoch() view returns (uint256)",
  "function gdaPool() view returns (address)",
  `function seatsOf(uint256 epoch) view returns (${SEAT}[])`,
  "function bondNeeded() view returns (uint256)",
  "function bondOf(address operator) view returns (uint256)",
  "function lockedOf(address operator) view returns (uint256)",
  "function isEvicted(address operator) view returns (bool)",
  `function openClaim(${BREACH} breach, bytes[] votes) returns (uint256 claimId)`,
  "function execute(uint256 claimId)",
  "function claimOf(uint256 claimId) view returns (address session, address operator, address payer, uint8 kind, uint8 state, uint256 amount, uint64 executableAt, uint64 ruleBy)",
  "event EpochOpened(uint256 indexed epoch, address indexed gdaPool, uint256 seats)",
  "event ClaimOpened(uint256 indexed claimId, address indexed session, address indexed operator, uint8 kind, uint256 amount, bytes32 evidenceHash, uint64 executableAt)",
  "event Slashed(uint256 indexed claimId, address indexed operator, address indexed payer, uint256 toPayer, uint256 toTreasury)",
  "error NotSteward()",
  "error UnitsInvalid(uint256 total)",
  "error ConsentInvalid(address operator)",
  "error BondTooSmall(address operator, uint256 bond, uint256 needed)",
  "error OperatorEvicted(address operator)",
  "error NotSession(address session)",
  "error NotOperator(address operator)",
  "error QuorumMissing(uint256 signatures, uint256 needed)",
  "error SignerInvalid(address signer)",
  "error VotesExpired()",
  "error AmountInvalid()",
  "error ProbesMissing()",
  "error ClaimExists(uint256 claimId)",
  "error ClaimNotIn(uint8 wanted)",
  "error TooEarly(uint64 from)"
);

export const BALLOT_BOX_ABI = json(
  "function open(bytes32 topic, address[] voters, uint256 quorum, uint64 deadline) returns (bytes32 ballotId)",
  "function cast(bytes32 ballotId, bytes32 resultHash)",
  "function ballotIdOf(bytes32 topic, address[] voters, uint256 quorum, uint64 deadline) pure returns (bytes32)",
  "function tally(bytes32 ballotId) view returns (bool reached, bytes32 winningHash, uint256 votes, uint256 given, uint256 quorum, uint64 deadline)",
  "function votersOf(bytes32 ballotId) view returns (address[])",
  "function voteOf(bytes32 ballotId, address voter) view returns (bytes32)",
  "event BallotOpened(bytes32 indexed ballotId, bytes32 indexed topic, address[] voters, uint256 quorum, uint64 deadline)",
  "event VoteCast(bytes32 indexed ballotId, address indexed voter, bytes32 resultHash)",
  "event ConsensusReached(bytes32 indexed ballotId, bytes32 resultHash, uint256 votes)",
  "error TermsInvalid()",
  "error BallotUnknown(bytes32 ballotId)",
  "error NotVoter(address account)",
  "error AlreadyVoted(bytes32 resultHash)",
  "error ResultMissing()",
  "error TooLate(uint64 deadline)"
);

/** EIP-712 types that the coalition's signatures are made over. */
export const ACCEPT_TYPES = {
  Accept: [
    { name: "coalition", type: "address" },
    { name: "epoch", type: "uint256" },
    { name: "units", type: "uint256" },
    { name: "node", type: "bytes32" },
    { name: "receiptKey", type: "address" },
  ],
};

export const BREACH_TYPES = {
  Breach: [
    { name: "session", type: "address" },
    { name: "operator", type: "address" },
    { name: "kind", type: "uint8" },
    { name: "amount", type: "uint256" },
    { name: "evidenceHash", type: "bytes32" },
    { name: "failedProbes", type: "uint32" },
    { name: "probeWindow", type: "uint32" },
    { name: "deadline", type: "uint256" },
  ],
};

export function domainOf(chainId: number, coalition: string): ethers.TypedDataDomain {
  return { name: "ComputePool Coalition", version: "1", chainId, verifyingContract: coalition };
}

/** As the contract numbers them. */
export const KINDS = ["NO_SHOW", "STALL", "WRONG_OUTPUT", "EQUIVOCATION", "METER_FRAUD"] as const;
export const CLAIM_STATES = ["NONE", "OPEN", "DISPUTED", "EXECUTED", "CANCELLED"] as const;
