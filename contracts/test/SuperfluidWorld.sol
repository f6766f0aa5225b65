// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IGdaForwarder, ISuperToken} from "../src/interfaces/ISuperfluid.sol";
import {MockUSDC} from "../src/MockUSDC.sol";
import {Checks} from "./Checks.sol";

interface Host {
    function initialize(address governance) external;
    function getAgreementClass(bytes32 kind) external view returns (address);
    function getSuperTokenFactory() external view returns (address);
}

interface Governance {
    function initialize(
        address host,
        address reward,
        uint256 liquidation,
        uint256 patrician,
        address[] calldata
    ) external;
    function registerAgreementClass(address host, address class) external;
    function enableTrustedForwarder(address host, address token, address forwarder) external;
    function updateContracts(
        address host,
        address hostLogic,
        address[] calldata classes,
        address factoryLogic,
        address beaconLogic
    ) external;
}

interface Agreement {
    function agreementType() external view returns (bytes32);
    function ACL_POOL_CONNECT_EXCLUSIVE_ROLE() external view returns (bytes32);
}

interface Beacon {
    function upgradeTo(address logic) external;
    function transferOwnership(address owner) external;
}

interface Castrated {
    function castrate() external;
}

interface Acl {
    function setRoleAdmin(bytes32 role, bytes32 adminRole) external;
    function grantRole(bytes32 role, address account) external;
}

interface Proxy {
    function initializeProxy(address logic) external;
    function initialize(string calldata name, string calldata symbol) external;
}

interface TokenFactory {
    function createERC20Wrapper(
        address token,
        uint8 upgradability,
        string calldata name,
        string calldata symbol
    ) external returns (ISuperToken);
}

interface GdaViews {
    function isMemberConnected(address pool, address member) external view returns (bool);
}

/// @title The real Superfluid, from its package's artifacts, in a test's own chain. Liquidation 600 s, patrician 120 s.
abstract contract SuperfluidWorld is Checks {
    uint256 internal constant LIQUIDATION_SECONDS = 600;
    uint256 internal constant PATRICIAN_SECONDS = 120;
    uint256 internal constant START = 1_790_000_000;
    address internal constant REWARD = address(0x9E3A9D);
    address private constant ERC1820 = 0x1820a4B7618BdE71Dce8cdc73aAB6C95905faD24;
    string private constant PLACE = "vendor/superfluid/";

    MockUSDC internal usdc;
    ISuperToken internal usdcx;
    IGdaForwarder internal gda;
    address internal gdaAgreement;

    function deploySuperfluid() internal {
        vm.warp(START);
        vm.etch(ERC1820, create(vm.parseBytes(read("ERC1820Registry", ".bin"))).code);
        address slots = make("SlotsBitmapLibrary", "");
        address poolDeployer = make("SuperfluidPoolDeployerLibrary", "");
        Governance governance = Governance(make("TestGovernance", ""));
        address simple = make("SimpleForwarder", "");
        address erc2771 = make("ERC2771Forwarder", "");
        address acl = make("SimpleACL", "");
        Host host =
            Host(make("Superfluid", abi.encode(false, false, uint64(3_000_000), simple, erc2771, acl)));
        Beacon(simple).transferOwnership(address(host));
        Beacon(erc2771).transferOwnership(address(host));
        host.initialize(address(governance));
        governance.initialize(address(host), REWARD, LIQUIDATION_SECONDS, PATRICIAN_SECONDS, new address[](0));
        register(host, governance, make("ConstantFlowAgreementV1", abi.encode(host)));
        Beacon beacon = Beacon(
            make("SuperfluidUpgradeableBeacon", abi.encode(make("SuperfluidPool", abi.encode(address(0)))))
        );
        gdaAgreement = register(host, governance, makeGda(host, beacon, slots, poolDeployer));
        address pool = make("SuperfluidPool", abi.encode(gdaAgreement));
        Castrated(pool).castrate();
        beacon.upgradeTo(pool);
        beacon.transferOwnership(address(host));
        letConnect(Acl(acl));
        deployTokens(host, governance);
    }

    function register(Host host, Governance governance, address logic) private returns (address canonical) {
        governance.registerAgreementClass(address(host), logic);
        return host.getAgreementClass(Agreement(logic).agreementType());
    }

    function makeGda(Host host, Beacon beacon, address slots, address poolDeployer)
        private
        returns (address)
    {
        string memory code = read("GeneralDistributionAgreementV1", ".bytecode");
        code = linked(code, "contracts/libs/SlotsBitmapLibrary.sol:SlotsBitmapLibrary", slots);
        string memory named =
            "contracts/agreements/gdav1/SuperfluidPoolDeployerLibrary.sol:SuperfluidPoolDeployerLibrary";
        code = linked(code, named, poolDeployer);
        return create(abi.encodePacked(vm.parseBytes(code), abi.encode(host, beacon)));
    }

    function letConnect(Acl acl) private {
        bytes32 admin = keccak256("ACL_POOL_CONNECT_EXCLUSIVE_ROLE_ADMIN");
        acl.setRoleAdmin(Agreement(gdaAgreement).ACL_POOL_CONNECT_EXCLUSIVE_ROLE(), admin);
        acl.grantRole(admin, gdaAgreement);
    }

    function deployTokens(Host host, Governance governance) private {
        Proxy nft = Proxy(make("UUPSProxy", ""));
        address nftLogic = make("PoolAdminNFT", abi.encode(host, gdaAgreement));
        Castrated(nftLogic).castrate();
        nft.initializeProxy(nftLogic);
        nft.initialize("Pool Admin NFT", "PA");
        gda = IGdaForwarder(make("GDAv1Forwarder", abi.encode(host)));
        governance.enableTrustedForwarder(address(host), address(0), address(gda));
        address token = make("SuperToken", abi.encode(host, nft));
        address factory = make("SuperTokenFactory", abi.encode(host, token, nftLogic, address(0)));
        governance.updateContracts(address(host), address(0), new address[](0), factory, address(0));
        usdc = new MockUSDC(address(this));
        usdcx = TokenFactory(host.getSuperTokenFactory())
            .createERC20Wrapper(address(usdc), 1, "Super USDC", "USDCx");
    }

    function make(string memory name, bytes memory arguments) private returns (address) {
        return create(abi.encodePacked(vm.parseBytes(read(name, ".bytecode")), arguments));
    }

    function read(string memory name, string memory key) private view returns (string memory) {
        return vm.parseJsonString(vm.readFile(string.concat(PLACE, name, ".json")), key);
    }

    /// Solidity's placeholder of a library is `__$`, 34 digits of the hash of its full name, `$__`.
    function linked(string memory code, string memory fullName, address library_)
        private
        pure
        returns (string memory)
    {
        bytes memory digits = "0123456789abcdef";
        bytes32 hash = keccak256(bytes(fullName));
        bytes memory middle = new bytes(34);
        for (uint256 place = 0; place < 34; ++place) {
            uint8 pair = uint8(hash[place / 2]);
            middle[place] = digits[place % 2 == 0 ? pair >> 4 : pair & 15];
        }
        bytes memory digitsOf = bytes(vm.toString(library_));
        bytes memory bare = new bytes(40);
        for (uint256 place = 0; place < 40; ++place) {
            bare[place] = digitsOf[place + 2];
        }
        return vm.replace(code, string.concat("__$", string(middle), "$__"), string(bare));
    }

    function create(bytes memory code) private returns (address made) {
        assembly ("memory-safe") {
            made := create(0, add(code, 0x20), mload(code))
        }
        holds(made != address(0));
    }
}
