// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IGdaPool} from "../src/interfaces/ISuperfluid.sol";
import {ISessionEscrow, Terms, Voucher} from "../src/interfaces/ISessionEscrow.sol";
import {IUsdc} from "../src/interfaces/IUsdc.sol";
import {SessionEscrowFactory} from "../src/SessionEscrowFactory.sol";
import {SessionWorld} from "./SessionWorld.sol";

/// @title What a session is for: the meter, requests in flight, the least time, epochs, the end.
contract SessionEscrowTest is SessionWorld {
    uint256 private before;

    function setUp() external {
        deployWorld();
        before = usdc.balanceOf(payer);
    }

    function test_a_session_pays_by_the_second_and_refunds_the_rest() external {
        ISessionEscrow session = opened(someTerms(), 1);
        same(usdc.balanceOf(payer), before - CAP);
        pass(37);
        same(session.spent(), 37 * RATE);
        closed(session);
        same(received(pool), 37 * RATE);
        same(usdc.balanceOf(payer), before - 37 * 50);
        same(usdcx.balanceOf(address(session)), 0);
        same(session.spent(), 37 * RATE);
        holds(session.state() == ISessionEscrow.State.Closed);
    }

    function test_what_happened_is_said_in_events() external {
        Terms memory terms = someTerms();
        address made = factory.addressOf(terms);
        uint64 hardStop = uint64(block.timestamp + (CAP - 600 * 50) / 50 - MARGIN);
        vm.expectEmit(made);
        emit ISessionEscrow.Opened(terms.sessionId, payer, address(coalition), CAP, terms.sessionId);
        vm.expectEmit(made);
        emit ISessionEscrow.RateSet(pool, 1, int96(RATE), hardStop);
        ISessionEscrow session = opened(terms, 1);
        same(session.hardStop(), hardStop);
        pass(10);
        vm.expectEmit(made);
        emit ISessionEscrow.RateSet(pool, 0, 0, 0);
        vm.expectEmit(made);
        emit ISessionEscrow.Closed(uint64(block.timestamp), 10 * RATE, CAP - 500, 0);
        vm.expectEmit(made);
        emit ISessionEscrow.RefundPaid(payer, CAP - 500);
        closed(session);
    }

    function test_an_idle_session_costs_nothing() external {
        ISessionEscrow session = opened(someTerms(), 0);
        pass(5000);
        same(session.spent(), 0);
        closed(session);
        same(usdc.balanceOf(payer), before);
        same(received(pool), 0);
    }

    function test_each_request_in_flight_pays_for_its_own_seconds() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        set(session, 3);
        pass(10);
        set(session, 2);
        pass(10);
        set(session, 0);
        pass(1000);
        set(session, 1);
        pass(5);
        closed(session);
        same(received(pool), (10 + 30 + 20 + 5) * RATE);
        same(usdc.balanceOf(payer), before - (10 + 30 + 20 + 5) * 50);
    }

    function test_no_more_requests_than_agreed() external {
        ISessionEscrow session = opened(someTerms(), 4);
        vm.prank(CONTROLLER);
        vm.expectRevert(abi.encodeWithSelector(ISessionEscrow.TooManyActive.selector, 4));
        session.setActive(5);
    }

    function test_setting_the_same_number_again_changes_nothing() external {
        ISessionEscrow session = opened(someTerms(), 2);
        uint256 hardStop = session.hardStop();
        pass(7);
        set(session, 2);
        same(session.hardStop(), hardStop);
        pass(3);
        set(session, 0);
        set(session, 0);
        same(session.spent(), 20 * RATE);
    }

    function test_a_request_below_the_least_time_pays_the_difference() external {
        ISessionEscrow session = opened(someTerms(), 1);
        vm.expectEmit(address(session));
        emit ISessionEscrow.MinimumPaid(pool, 2 * RATE, 2);
        set(session, 0); // in the same second
        same(received(pool), 2 * RATE);
        set(session, 1);
        pass(1);
        closed(session);
        same(received(pool), 4 * RATE);
        same(usdc.balanceOf(payer), before - 4 * 50);
    }

    function test_the_least_time_is_counted_from_each_requests_own_start() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        set(session, 2);
        pass(1);
        set(session, 1); // the oldest ran 11 s
        same(session.spent(), (10 + 2) * RATE);
        set(session, 0); // the other ran 1 s of 2
        same(session.spent(), (10 + 2 + 1) * RATE);
        same(received(pool), (10 + 2 + 1) * RATE);
    }

    function test_money_follows_the_epoch() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        address next = newPool();
        coalition.point(next);
        pass(3);
        set(session, 1);
        same(session.gdaPool(), next);
        pass(7);
        set(session, 0);
        same(received(pool), 13 * RATE);
        same(received(next), 7 * RATE);
        pass(9);
        set(session, 1);
        pass(4);
        closed(session);
        same(received(next), 11 * RATE);
        same(usdc.balanceOf(payer), before - 24 * 50);
    }

    function test_a_coalition_without_an_epoch_is_not_paid_but_the_session_ends() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(5);
        coalition.point(address(0));
        vm.prank(CONTROLLER);
        vm.expectRevert(ISessionEscrow.NoEpoch.selector);
        session.setActive(2);
        closed(session);
        same(usdc.balanceOf(payer), before - 5 * 50);
    }

    function test_units_that_do_not_divide_the_rate_are_refused() external {
        address odd = newPool();
        gda.updateMemberUnits(odd, operators[0], 4001, "");
        coalition.point(odd);
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, CAP, "n");
        vm.prank(CONTROLLER);
        vm.expectRevert();
        factory.open(terms, voucher, 1);
    }

    function test_two_sessions_in_one_pool_pay_each_their_own() external {
        Terms memory one = someTerms();
        Terms memory two = someTerms();
        two.sessionId = "session 2";
        two.rate = 7e12;
        ISessionEscrow first = opened(one, 1);
        pass(5);
        ISessionEscrow second = opened(two, 2);
        pass(11);
        closed(first);
        pass(2);
        closed(second);
        same(first.spent(), 16 * RATE);
        same(second.spent(), 13 * 14e12);
        same(received(pool), first.spent() + second.spent());
        same(usdc.balanceOf(payer), before - 16 * 50 - 13 * 14);
    }

    function test_the_payer_stops_and_closes_himself() external {
        ISessionEscrow session = opened(someTerms(), 2);
        pass(10);
        vm.prank(payer);
        session.stop();
        same(session.active(), 0);
        pass(50);
        vm.prank(payer);
        session.close();
        same(usdc.balanceOf(payer), before - 20 * 50);
    }

    function test_a_paid_operator_and_the_coalition_stop_without_the_least_time() external {
        ISessionEscrow session = opened(someTerms(), 1);
        vm.prank(operators[2]);
        session.stop();
        same(session.spent(), 0);
        set(session, 1);
        coalition.stop(session);
        same(session.active(), 0);
        same(session.spent(), 0);
        vm.prank(STRANGER);
        vm.expectRevert(ISessionEscrow.NotAllowed.selector);
        session.stop();
    }

    function stopSigned(ISessionEscrow session, uint256 key, uint256 nonce, uint256 deadline)
        private
        view
        returns (bytes memory)
    {
        bytes32 hash =
            keccak256(abi.encode(keccak256("Stop(uint256 nonce,uint256 deadline)"), nonce, deadline));
        return signed(key, keccak256(abi.encodePacked("\x19\x01", session.domainSeparator(), hash)));
    }

    function closeSigned(ISessionEscrow session, uint256 key, uint256 deadline)
        private
        view
        returns (bytes memory)
    {
        bytes32 hash = keccak256(abi.encode(keccak256("Close(uint256 deadline)"), deadline));
        return signed(key, keccak256(abi.encodePacked("\x19\x01", session.domainSeparator(), hash)));
    }

    function test_a_payer_without_gas_brakes_by_signature_which_works_once() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        uint256 deadline = block.timestamp + 60;
        bytes memory signature = stopSigned(session, PAYER_KEY, 0, deadline);
        vm.prank(STRANGER);
        session.stopBySig(deadline, signature);
        same(session.active(), 0);
        same(session.stopNonce(), 1);
        set(session, 1);
        vm.expectRevert(ISessionEscrow.SignatureInvalid.selector);
        session.stopBySig(deadline, signature);
        pass(61);
        bytes memory late = stopSigned(session, PAYER_KEY, 1, deadline);
        vm.expectRevert(ISessionEscrow.SignatureExpired.selector);
        session.stopBySig(deadline, late);
    }

    function test_a_payer_without_gas_closes_by_signature() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        uint256 deadline = block.timestamp + 60;
        bytes memory foreign = closeSigned(session, 0xBAD, deadline);
        vm.expectRevert(ISessionEscrow.SignatureInvalid.selector);
        session.closeBySig(deadline, foreign);
        bytes memory signature = closeSigned(session, PAYER_KEY, deadline);
        vm.prank(STRANGER);
        session.closeBySig(deadline, signature);
        same(usdc.balanceOf(payer), before - 500);
    }

    function test_a_signature_for_one_session_is_nothing_to_another() external {
        ISessionEscrow first = opened(someTerms(), 1);
        Terms memory two = someTerms();
        two.sessionId = "session 2";
        ISessionEscrow second = opened(two, 1);
        uint256 deadline = block.timestamp + 60;
        bytes memory signature = closeSigned(first, PAYER_KEY, deadline);
        vm.expectRevert(ISessionEscrow.SignatureInvalid.selector);
        second.closeBySig(deadline, signature);
    }

    function test_terms_that_name_no_payer_take_whoever_signs() external {
        Terms memory terms = someTerms();
        terms.payer = address(0);
        ISessionEscrow session = opened(terms, 1);
        same(session.payer(), payer);
        pass(10);
        vm.prank(payer);
        session.close();
        same(usdc.balanceOf(payer), before - 500);
    }

    function test_a_smaller_voucher_within_the_terms_is_a_smaller_session() external {
        Terms memory terms = someTerms();
        Voucher memory voucher = voucherOf(PAYER_KEY, terms, 150_000, "small");
        vm.prank(CONTROLLER);
        ISessionEscrow session = ISessionEscrow(factory.open(terms, voucher, 1));
        same(session.funded(), 150_000);
        same(session.hardStop(), block.timestamp + 3000 - 600 - MARGIN);
        closed(session);
    }

    function test_the_address_is_known_from_terms_logic_and_factory_alone() external {
        Terms memory terms = someTerms();
        bytes32 salt = keccak256(abi.encode(terms));
        bytes32 hash = keccak256(factory.initCode(terms));
        address wanted = address(
            uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(factory), salt, hash))))
        );
        same(factory.addressOf(terms), wanted);
        holds(!factory.isSession(wanted));
        same(address(opened(terms, 0)), wanted);
        holds(factory.isSession(wanted));
    }

    function test_a_session_says_its_terms() external {
        Terms memory terms = someTerms();
        ISessionEscrow session = opened(terms, 0);
        holds(keccak256(abi.encode(session.terms())) == keccak256(abi.encode(terms)));
        same(session.coalition(), address(coalition));
    }

    function test_what_operators_earned_anyone_may_claim_for_them() external {
        ISessionEscrow session = opened(someTerms(), 1);
        pass(10);
        closed(session);
        vm.prank(STRANGER);
        IGdaPool(pool).claimAll(operators[0]);
        same(usdcx.balanceOf(operators[0]), 4 * RATE);
        same(usdcx.balanceOf(STRANGER), 0);
    }

    function test_a_factory_over_a_token_that_wraps_another_is_not_made() external {
        vm.expectRevert();
        new SessionEscrowFactory(IUsdc(address(usdcx)), usdcx, gda, MARGIN);
    }
}
