import type { ActionConfigField, ActionConfigFieldBase, IntegrationPlugin, OutputField } from "@/plugins/registry";
import { registerIntegration } from "@/plugins/registry-core";
import { CoalitionIcon } from "./icon";

// No deployment is listed: the contracts stand where their users put them, so every action takes the address.

function field(key: string, label: string, more: Partial<ActionConfigFieldBase> = {}): ActionConfigFieldBase {
  return { key, label, type: "template-input", required: true, ...more };
}

function at(key: string, label: string, helpTip: string): ActionConfigFieldBase {
  return field(key, label, { placeholder: "0x...", isAddressField: true, helpTip });
}

function json(key: string, label: string, placeholder: string, helpTip: string): ActionConfigFieldBase {
  return field(key, label, { type: "template-textarea", rows: 4, placeholder, helpTip });
}

const NETWORK: ActionConfigFieldBase = {
  key: "network",
  label: "Network",
  type: "chain-select",
  chainTypeFilter: "evm",
  placeholder: "Select network",
  required: true,
};

function advanced(actionSlug: string): ActionConfigField {
  return {
    type: "group",
    label: "Advanced",
    defaultExpanded: false,
    fields: [
      { key: "gasLimitMultiplier", label: "Gas Limit", type: "gas-limit-multiplier", networkField: "network", actionSlug },
      {
        key: "web3Connection",
        label: "Web3 Connection",
        type: "text",
        helpTip: "Which of the organisation's wallets or Safes calls. Voters need one each.",
      },
    ],
  };
}

function outputs(described: Record<string, string>): OutputField[] {
  return Object.entries(described).map(([name, description]) => ({ field: name, description }));
}

const SUCCESS = { success: "Whether it is so now", error: "Why not, if not" };
const SENT = {
  transactionHash: "Transaction hash; absent when it was so already",
  transactionLink: "Block explorer link",
  gasUsed: "Gas cost in wei",
  sponsored: "Whether the gas was sponsored",
};
const TALLY = {
  reached: "Whether a quorum voted for one result; final",
  winningHash: "That result's hash; zeros unless reached",
  votes: "Votes for the winning or leading result",
  given: "Votes given altogether",
  quorum: "Votes needed",
  deadlineUnix: "Last second for votes",
};

const BALLOT_BOX = at("ballotBox", "Ballot Box", "The BallotBox contract that holds the votes.");
const BALLOT_ID = field("ballotId", "Ballot ID", { placeholder: "{{Open Ballot.ballotId}}" });
const RESULT = json(
  "result",
  "Result",
  '{"price":"12.5"} or 0x...',
  "What this run found. JSON is hashed with its keys sorted, other text as it is; 0x and 64 hex digits are taken as the hash."
);
const COALITION = at("coalition", "Coalition", "The Coalition contract.");

const coalitionPlugin: IntegrationPlugin = {
  type: "coalition",
  label: "Coalition",
  description:
    "Agreements on a chain between parties that do not trust each other: votes of several workflow runs before one acts, and commitments with bonds that a breach costs.",
  egress: "none",
  icon: CoalitionIcon,
  requiresCredentials: false,
  singleConnection: true,
  formFields: [],
  testConfig: {
    getTestFunction: async () => {
      const { testCoalition } = await import("./test");
      return testCoalition;
    },
  },
  actions: [
    {
      slug: "open-ballot",
      label: "Open Ballot",
      description:
        "Name the voters, the quorum and the deadline of a question that several workflows answer. The same terms are the same ballot, so every workflow may open it.",
      category: "Coalition",
      stepFunction: "openBallotStep",
      stepImportPath: "open-ballot",
      requiresCredentials: true,
      credentialIntegrationType: "web3",
      configFields: [
        NETWORK,
        BALLOT_BOX,
        field("topic", "Topic", { placeholder: "session 7: open", helpTip: "What is voted on; must be new for each question." }),
        json("voters", "Voters", '["0x...", "0x...", "0x..."]', "1 to 64 wallets, one vote each."),
        field("quorum", "Quorum", { placeholder: "2", helpTip: "Equal results needed: more than half of the voters." }),
        field("deadlineUnix", "Deadline (Unix seconds)", { placeholder: "1800000000" }),
        advanced("open-ballot"),
      ],
      outputFields: outputs({
        ...SUCCESS,
        ballotId: "The ballot; follows from its terms",
        voters: "In the order of the ballot",
        alreadyOpen: "Whether somebody had opened it",
        ...SENT,
      }),
    },
    {
      slug: "cast-vote",
      label: "Cast Vote",
      description: "Vote with the hash of what this run found. The first vote of a wallet stands.",
      category: "Coalition",
      stepFunction: "castVoteStep",
      stepImportPath: "cast-vote",
      requiresCredentials: true,
      credentialIntegrationType: "web3",
      configFields: [NETWORK, BALLOT_BOX, BALLOT_ID, RESULT, advanced("cast-vote")],
      outputFields: outputs({
        ...SUCCESS,
        resultHash: "What was voted for",
        voter: "The wallet that voted",
        alreadyVoted: "Whether it had voted the same before",
        ...TALLY,
        ...SENT,
      }),
    },
    {
      slug: "tally",
      label: "Tally Ballot",
      description: "How the votes stand. Reads only; for polling and reports.",
      category: "Coalition",
      stepFunction: "tallyStep",
      stepImportPath: "tally",
      configFields: [NETWORK, BALLOT_BOX, BALLOT_ID],
      outputFields: outputs({
        ...SUCCESS,
        ...TALLY,
        expired: "Whether the deadline is over",
        missing: "Voters without a vote",
        dissent: "Voters who voted for another result than the winner",
      }),
    },
    {
      slug: "require-consensus",
      label: "Require Consensus",
      description:
        "Go on only when a quorum voted for exactly this result. Anything else, also an unreadable chain, fails the run.",
      category: "Coalition",
      stepFunction: "requireConsensusStep",
      stepImportPath: "require-consensus",
      configFields: [NETWORK, BALLOT_BOX, BALLOT_ID, RESULT],
      outputFields: outputs({ ...SUCCESS, resultHash: "The result that was agreed on", ...TALLY }),
    },
    {
      slug: "propose",
      label: "Propose Coalition",
      description: "Put up a coalition at the address that its code and terms determine.",
      category: "Coalition",
      stepFunction: "proposeStep",
      stepImportPath: "propose",
      requiresCredentials: true,
      credentialIntegrationType: "web3",
      configFields: [
        NETWORK,
        at("factory", "Factory", "The CoalitionFactory contract."),
        field("salt", "Salt", { placeholder: "0x... (32 bytes)" }),
        json("initCode", "Init Code", "0x...", "A Coalition's creation code with its configuration encoded behind it."),
        advanced("propose"),
      ],
      outputFields: outputs({
        ...SUCCESS,
        coalition: "Its address",
        alreadyProposed: "Whether it stood there already",
        ...SENT,
      }),
    },
    {
      slug: "sign",
      label: "Sign Coalition Seat",
      description: "This wallet's consent to a seat in the next epoch, as a signature. Sends nothing.",
      category: "Coalition",
      stepFunction: "signStep",
      stepImportPath: "sign",
      requiresCredentials: true,
      credentialIntegrationType: "web3",
      configFields: [
        NETWORK,
        COALITION,
        field("units", "Units", { placeholder: "5000", helpTip: "Share of 10000." }),
        field("node", "Node ID", { placeholder: "0x... (32 bytes)" }),
        at("receiptKey", "Receipt Key", "The address that signs the node's receipts."),
      ],
      outputFields: outputs({
        ...SUCCESS,
        consent: "The signature, for Activate Coalition",
        operator: "Who signed",
        epoch: "The epoch it is for",
      }),
    },
    {
      slug: "check-status",
      label: "Check Coalition Status",
      description: "The current epoch, its members, their bonds, and who is evicted. Reads only.",
      category: "Coalition",
      stepFunction: "checkStatusStep",
      stepImportPath: "check-status",
      configFields: [NETWORK, COALITION],
      outputFields: outputs({
        ...SUCCESS,
        epoch: "Counts from 1; 0: none was opened yet",
        active: "Whether it can be paid now",
        gdaPool: "The Superfluid pool of the epoch",
        bondNeeded: "What a seat needs, in the token's smallest unit",
        seats: "Array of operator, units, node, receiptKey, bond, locked, evicted",
      }),
    },
    {
      slug: "activate",
      label: "Activate Coalition",
      description: "Open an epoch with these members and their consents; makes its Superfluid pool.",
      category: "Coalition",
      stepFunction: "activateStep",
      stepImportPath: "activate",
      requiresCredentials: true,
      credentialIntegrationType: "web3",
      configFields: [
        NETWORK,
        COALITION,
        json("seats", "Seats", '[{"operator":"0x...","units":"10000","node":"0x...","receiptKey":"0x..."}]', "Units add up to 10000."),
        json("consents", "Consents", '["0x..."]', "One of each seat's operator, in the order of the seats."),
        advanced("activate"),
      ],
      outputFields: outputs({
        ...SUCCESS,
        epoch: "The epoch",
        gdaPool: "Its Superfluid pool",
        alreadyActive: "Whether exactly these members were active",
        ...SENT,
      }),
    },
    {
      slug: "breach",
      label: "Claim Breach",
      description:
        "Bring a breach that a quorum of attestors signed. The contract stops the money stream, evicts the operator and locks the amount until the dispute window is over.",
      category: "Coalition",
      stepFunction: "breachStep",
      stepImportPath: "breach",
      requiresCredentials: true,
      credentialIntegrationType: "web3",
      configFields: [
        NETWORK,
        COALITION,
        json("breach", "Breach", '{"session":"0x...","operator":"0x...","kind":"STALL", ...}', "As the attestors signed it; an object or an array in the contract's order."),
        json("votes", "Votes", '["0x...", "0x..."]', "Their signatures; sorted here as the contract wants them."),
        advanced("breach"),
      ],
      outputFields: outputs({
        ...SUCCESS,
        claimId: "The claim",
        executableAtUnix: "From this second it can be executed",
        amount: "Locked, in the token's smallest unit",
        alreadyOpened: "Whether the same claim was open",
        ...SENT,
      }),
    },
    {
      slug: "slash",
      label: "Slash",
      description: "Carry out a claim that nobody disputed in time: the payer is paid from the bond first.",
      category: "Coalition",
      stepFunction: "slashStep",
      stepImportPath: "slash",
      requiresCredentials: true,
      credentialIntegrationType: "web3",
      configFields: [NETWORK, COALITION, field("claimId", "Claim ID", { placeholder: "{{Claim Breach.claimId}}" }), advanced("slash")],
      outputFields: outputs({
        ...SUCCESS,
        state: "EXECUTED",
        alreadySlashed: "Whether it was executed before",
        toPayer: "Paid to the session's payer",
        toTreasury: "The rest",
        ...SENT,
      }),
    },
  ],
};

registerIntegration(coalitionPlugin);

export default coalitionPlugin;
