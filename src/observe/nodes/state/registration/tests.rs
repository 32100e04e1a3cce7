//! What registrations and checks say of a node: whether it stopped, and whether it reaches Redis.

use std::time::Duration;

use super::super::tests::{World, at};
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
