//! What registrations, probes that were cut off, and checks say of a node.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::tests::{World, at};
use super::super::{NodeMemory, RegistryReading};
use super::*;

#[test]
fn a_late_heartbeat_is_no_alarm_and_an_overdue_one_is() {
    let mut world = World::new();
    world.registered("n1", "h:1", 11).answers("h:1", "n1");
    assert_eq!(world.judge(0), ["n1 Up"]);
    assert_eq!(
        world.registered("n1", "h:1", 9).judge(2),
        ["n1 Up no-redis"]
    );
    assert_eq!(world.gone("n1").judge(15), ["n1 Up no-redis"]);
}

#[test]
fn a_redis_out_of_memory_that_still_answers_the_canary_is_found_by_heartbeats() {
    let mut world = World::new();
    world.redis.insert("n1".to_owned(), RedisEvidence::Works);
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    assert_eq!(world.judge(0), ["n1 Up"]);
    assert_eq!(
        world.registered("n1", "h:1", 9).judge(16),
        ["n1 Up no-redis"]
    );
    // While heartbeats prove nothing, the canary decides.
    world.registry.redis_up_since = Some(at(15));
    assert_eq!(world.judge(16), ["n1 Up"]);
}

#[test]
fn after_an_outage_nodes_get_two_heartbeats() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    world.registry.redis_up_since = Some(at(60));
    assert_eq!(world.registered("n1", "h:1", 2).judge(61), ["n1 Up redis?"]);
    assert_eq!(world.judge(81), ["n1 Up no-redis"]);
}

#[test]
fn after_an_outage_a_node_that_answers_checks_need_not_wait_for_its_heartbeat() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    world.registry.redis_up_since = Some(at(60));
    let answered = RedisEvidence::Answered;
    world.redis.insert("n1".to_owned(), answered);
    assert_eq!(world.registered("n1", "h:1", 2).judge(61), ["n1 Up"]);
    // Once two heartbeats were due, answers no longer excuse the node.
    assert_eq!(world.judge(81), ["n1 Up no-redis"]);
}

#[test]
fn a_redis_that_restarted_empty_is_no_clean_stop() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .registered("n2", "inside:2", 25)
        .answers("h:1", "n1")
        .judge(0);
    world.gone("n1").gone("n2");
    world.registry.redis_restarted = true;
    world.registry.redis_up_since = Some(at(5));
    assert_eq!(world.judge(6), ["n1 Up", "n2 ? redis?"]);
    world.registry.redis_restarted = false;
    assert_eq!(
        world.fails("h:1").judge(8),
        ["n1 Down redis?", "n2 ? redis?"]
    );
}

#[test]
fn checks_that_succeed_again_excuse_a_heartbeat_that_was_overdue_while_all_failed() {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world.judge(0);
    assert_eq!(
        world.registered("n1", "h:1", 3).judge(22),
        ["n1 Up no-redis"]
    );
    let returned = RedisEvidence::Returned(at(0));
    world.redis.insert("n1".to_owned(), returned);
    assert_eq!(world.gone("n1").judge(40), ["n1 Up"]);
    // The node gets the time of two heartbeats.
    world.redis.clear();
    assert_eq!(world.judge(45), ["n1 Up"]);
    assert_eq!(world.judge(60), ["n1 Up no-redis"]);
}

#[test]
fn checks_that_failed_after_the_heartbeat_was_overdue_do_not_explain_it() {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world.judge(0);
    world.registered("n1", "h:1", 3).judge(22);
    let returned = RedisEvidence::Returned(at(22));
    world.redis.insert("n1".to_owned(), returned);
    assert_eq!(world.gone("n1").judge(40), ["n1 Up no-redis"]);
}

#[test]
fn after_redis_was_out_of_memory_a_node_that_answers_checks_need_not_wait_for_its_heartbeat() {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world.judge(0);
    let answered = RedisEvidence::Answered;
    world.redis.insert("n1".to_owned(), answered);
    assert_eq!(world.gone("n1").judge(40), ["n1 Up no-redis"]);
    world.registry.memory_freed = Some(at(50));
    assert_eq!(world.judge(50), ["n1 Up"]);
    world.redis.clear();
    assert_eq!(world.judge(55), ["n1 Up redis?"]);
    assert_eq!(world.judge(70), ["n1 Up no-redis"]);
}

#[test]
fn a_probe_that_was_cut_off_proves_nothing_of_a_node_that_was_reached() {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world.judge(0);
    assert_eq!(world.is_cut_off("h:1").judge(5), ["n1 ? redis?"]);
    // Its clean stop is noticed all the same.
    assert_eq!(world.gone("n1").judge(10), [""; 0]);
    // An address of the configuration must answer. One that was never reached proves nothing.
    let mut world = World::new();
    world.memory.set_statics(["h:1".to_owned()]);
    assert_eq!(world.is_cut_off("h:1").judge(0), ["h:1 ? redis?"]);
    world.registered("n1", "h:1", 25);
    world.registered("n2", "h:2", 25).is_cut_off("h:2");
    assert_eq!(world.judge(5), ["n1 ? redis?", "n2 Up redis?"]);
    // With two addresses, the one that was cut off may be the one that answers.
    world.answers("h:2", "n1").is_cut_off("h:1");
    assert_eq!(world.fails("h:2").judge(10)[0], "n1 ? redis?");
}

#[test]
fn a_registration_that_redis_brings_back_from_an_older_snapshot_is_no_node() {
    let stopped = || {
        let mut world = World::new();
        world.registered("n1", "h:1", 25).answers("h:1", "n1");
        world.judge(0);
        assert_eq!(world.gone("n1").fails("h:1").judge(5), [""; 0]);
        world
    };
    let mut world = stopped();
    world.registry.redis_restarted = true;
    assert_eq!(world.registered("n1", "h:1", 12).judge(13), [""; 0]);
    world.registry.redis_restarted = false;
    world.registry.redis_up_since = Some(at(10));
    assert_eq!(world.registered("n1", "h:1", 1).judge(24), [""; 0]);
    assert_eq!(world.gone("n1").judge(40), [""; 0]);
    // A registration that is renewed, or another one, is a node that came back.
    let mut world = stopped();
    world.registered("n1", "h:1", 30).answers("h:1", "n1");
    assert_eq!(world.judge(13), ["n1 Up"]);
    let mut world = stopped();
    world.registered("n1", "h:1", 12);
    let registration = world.registry.found.get_mut("n1").unwrap();
    registration.registered_at = Some("later".to_owned());
    assert_eq!(world.judge(13), ["n1 Up redis?"]);
    // What a glance saw deleted is not revived either.
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world.judge(0);
    let gone = RegistryReading {
        found: BTreeMap::new(),
        ..world.registry.clone()
    };
    world.memory.learn_glances(vec![(at(3), gone)]);
    world.registered("n1", "h:1", 12).fails("h:1");
    assert_eq!(world.judge(13), [""; 0]);
}

/// A node whose heartbeats are in time.
fn beating() -> World {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world
}

fn judged(world: &mut World, redis: RedisEvidence) -> Vec<String> {
    world.redis.insert("n1".to_owned(), redis);
    world.judge(0)
}

#[test]
fn heartbeats_do_not_end_what_failing_checks_proved_while_metrics_are_not_read() {
    let unread = RedisEvidence::Unread("no_metrics");
    let mut world = beating();
    assert_eq!(judged(&mut world, unread.clone()), ["n1 Up"]);
    let broken = RedisEvidence::Broken("its checks fail");
    assert_eq!(judged(&mut world, broken.clone()), ["n1 Up no-redis"]);
    assert_eq!(judged(&mut world, unread.clone()), ["n1 Up redis?"]);
    let first = RedisEvidence::Unread("first_sample");
    assert_eq!(judged(world.restart(), first), ["n1 Up redis?"]);
    world.registered("n1", "h:1", 3);
    assert_eq!(judged(&mut world, unread.clone()), ["n1 Up no-redis"]);
    world.registered("n1", "h:1", 25);
    assert_eq!(judged(&mut world, RedisEvidence::None), ["n1 Up"]);
    assert_eq!(judged(&mut world, unread.clone()), ["n1 Up"]);
    // A node that was down meanwhile is another process.
    judged(&mut world, broken);
    world.fails("h:1").judge(0);
    world.answers("h:1", "n1");
    assert_eq!(judged(&mut world, unread), ["n1 Up"]);
}

#[test]
fn without_heartbeats_a_node_reaches_redis_only_by_what_was_read() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["h:1".to_owned()]);
    world.registry.absent = true;
    world.answers("h:1", "n1");
    for (redis, shown) in [
        (RedisEvidence::Unread("first_sample"), "n1 Up redis?"),
        (RedisEvidence::NoFailures, "n1 Up"),
        (RedisEvidence::Broken("its health fails"), "n1 Up no-redis"),
    ] {
        assert_eq!(judged(&mut world, redis), [shown]);
    }
}

#[test]
fn a_node_whose_state_is_unknown_has_the_same_reason_for_its_way_to_redis() {
    for (covers_redis, reason) in [(true, Some("not_probed")), (false, None)] {
        let mut world = World {
            memory: NodeMemory::new(["h:1".to_owned()]),
            covers_redis,
            ..World::default()
        };
        world.registry.absent = true;
        for id in [None, Some("n1")] {
            if let Some(id) = id {
                world.answers("h:1", id).judge(0);
                world.probes.clear();
            }
            let nodes = world.nodes(1);
            assert_eq!(nodes[0].state, None);
            assert_eq!(nodes[0].redis_reason.as_deref(), reason, "{id:?}");
        }
    }
}

#[test]
fn a_clean_stop_is_no_death_in_a_long_collection_that_finds_another_node() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 3)
        .answers("h:1", "n1")
        .judge(0);
    world.gone("n1").fails("h:1").read_at("n1", 1);
    let new = Registration {
        address: Some("h:2".to_owned()),
        registered_at: None,
        ttl: Some(Duration::from_secs(25)),
    };
    world.read_again("n2", Some(new), 4).answers("h:2", "n2");
    // What was missing before is read again, too.
    world.read_again("n1", None, 5);
    assert_eq!(world.judge(1), ["n2 Up"]);
}

#[test]
fn a_clean_stop_is_no_death_if_another_node_leaves_later_in_the_same_collection() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 3)
        .answers("h:1", "n1")
        .registered("n2", "h:2", 25)
        .answers("h:2", "n2")
        .judge(0);
    world.gone("n1").fails("h:1").read_at("n1", 1);
    world.fails("h:2").read_again("n2", None, 5);
    assert_eq!(world.judge(1), [""; 0]);
}

#[test]
fn a_clean_stop_is_no_death_after_a_collection_that_read_the_registration_late() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 4)
        .answers("h:1", "n1")
        .read_at("n1", 3)
        .judge(0);
    world.gone("n1").fails("h:1").read_at("n1", 6);
    assert_eq!(world.judge(6), [""; 0]);
}

#[test]
fn a_registration_whose_server_answers_the_second_time_is_known() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    world.gone("n1").fails("h:1");
    world.registry.unread.insert("n1".to_owned());
    assert_eq!(world.read_again("n1", None, 5).judge(5), [""; 0]);
}
