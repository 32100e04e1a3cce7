//! Each rule of the evidence, by the node states that an operator sees.

use super::*;
use crate::observe::http::management_api::ApiNode;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn timing() -> RegistryTiming {
    RegistryTiming {
        ttl: Duration::from_secs(30),
        heartbeat: Duration::from_secs(10),
        forget_after: Duration::from_secs(3600),
    }
}

/// The evidence of one collection, and the memory.
#[derive(Default)]
pub(super) struct World {
    pub(super) memory: NodeMemory,
    pub(super) registry: RegistryReading,
    pub(super) api: NodeList,
    pub(super) probes: BTreeMap<String, Probe>,
    pub(super) redis: BTreeMap<String, RedisEvidence>,
    pub(super) covers_redis: bool,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            covers_redis: true,
            ..Self::default()
        };
        world.registry.readable = true;
        world.registry.redis_up_since = Some(at(-3600));
        world
    }

    pub(super) fn registered(&mut self, id: &str, address: &str, ttl: u64) -> &mut Self {
        let registration = Registration {
            address: Some(address.to_owned()),
            registered_at: None,
            ttl: Some(Duration::from_secs(ttl)),
        };
        self.registry.found.insert(id.to_owned(), registration);
        self
    }

    pub(super) fn gone(&mut self, id: &str) -> &mut Self {
        self.registry.found.remove(id);
        self
    }

    pub(super) fn answers(&mut self, address: &str, id: &str) -> &mut Self {
        let probe = Probe::Answered {
            node_id: Some(id.to_owned()),
            seconds: 0.001,
        };
        self.probes.insert(address.to_owned(), probe);
        self
    }

    /// The collection reads the registration of `id` again at `now`.
    pub(super) fn read_again(
        &mut self,
        id: &str,
        found: Option<Registration>,
        now: i64,
    ) -> &mut Self {
        let found = found.map(|found| (id.to_owned(), found));
        let times = BTreeMap::from([(id.to_owned(), (at(now), at(now)))]);
        let found = found.into_iter().collect();
        self.registry.read_again(found, BTreeSet::new(), times);
        self
    }

    /// The collection read the registration of `id` at `now`.
    pub(super) fn read_at(&mut self, id: &str, now: i64) -> &mut Self {
        let times = &mut self.registry.times;
        times.insert(id.to_owned(), (at(now), at(now)));
        self
    }

    pub(super) fn answers_without_id(&mut self, address: &str) -> &mut Self {
        let probe = Probe::Answered {
            node_id: None,
            seconds: 0.001,
        };
        self.probes.insert(address.to_owned(), probe);
        self
    }

    pub(super) fn fails(&mut self, address: &str) -> &mut Self {
        self.probes
            .insert(address.to_owned(), Probe::Failed(Reason::Refused));
        self
    }

    pub(super) fn is_cut_off(&mut self, address: &str) -> &mut Self {
        self.probes.insert(address.to_owned(), Probe::CutOff);
        self
    }

    pub(super) fn listed(&mut self, id: &str, address: &str, state: &str) -> &mut Self {
        self.api = NodeList::Listed(vec![ApiNode {
            id: id.to_owned(),
            address: address.to_owned(),
            state: state.to_owned(),
            registered_at: None,
        }]);
        self
    }

    /// The exporter restarts with a state file.
    pub(super) fn restart(&mut self) -> &mut Self {
        let saved = serde_json::to_string(&self.memory).unwrap();
        self.memory = serde_json::from_str(&saved).unwrap();
        self
    }

    /// Each node as `id state [redis]`.
    pub(super) fn judge(&mut self, now: i64) -> Vec<String> {
        let shown = self.nodes(now).into_iter().map(|node| {
            let redis = match node.redis_connected {
                Some(true) => "",
                Some(false) => " no-redis",
                None => " redis?",
            };
            format!(
                "{} {}{redis}",
                node.id,
                node.state.as_deref().unwrap_or("?")
            )
        });
        shown.collect()
    }

    pub(super) fn nodes(&mut self, now: i64) -> Vec<Node> {
        let found = &mut self.registry.found;
        let read_now = |id: &String| (id.clone(), (at(now), at(now)));
        let times = found.keys().map(read_now).collect();
        self.memory.drop_revived(timing(), &times, found);
        self.memory.judge(
            timing(),
            &NodeEvidence {
                now: at(now),
                health: "/health",
                registry: &self.registry,
                api: &self.api,
                probes: &self.probes,
                redis: &self.redis,
                covers_redis: self.covers_redis,
                canary_refused: &BTreeMap::new(),
            },
        )
    }
}

#[test]
fn a_healthy_node_is_up() {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    assert_eq!(world.judge(0), ["n1 Up"]);
}

#[test]
fn a_killed_node_is_down_although_it_is_still_registered_and_stays_down_when_it_is_not() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    assert_eq!(
        world.fails("h:1").registered("n1", "h:1", 20).judge(5),
        ["n1 Down redis?"]
    );
    assert_eq!(world.gone("n1").judge(30), ["n1 Down redis?"]);
    assert_eq!(world.judge(3000), ["n1 Down redis?"]);
    assert_eq!(world.judge(3700), [""; 0], "forgotten after an hour");
}

#[test]
fn a_registration_that_expires_during_a_recheck_was_not_deleted() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    // The collection began a second before the registration expired, and read the registry again after that.
    world.read_again("n1", None, 26);
    assert_eq!(world.fails("h:1").judge(24), ["n1 Down redis?"]);
}

#[test]
fn a_node_that_returns_is_up() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    world.fails("h:1").gone("n1").judge(60);
    assert_eq!(
        world
            .registered("n1", "h:1", 30)
            .answers("h:1", "n1")
            .judge(70),
        ["n1 Up"]
    );
}

#[test]
fn a_clean_stop_leaves_without_an_alarm() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    assert_eq!(world.gone("n1").fails("h:1").judge(15), [""; 0]);
}

#[test]
fn a_clean_stop_between_distant_scrapes_is_noticed_by_glances() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    world.gone("n1");
    world
        .memory
        .learn_glances(vec![(at(8), world.registry.clone())]);
    assert_eq!(world.fails("h:1").judge(60), [""; 0]);
}

#[test]
fn a_clean_stop_during_a_long_collection_is_noticed_by_glances_after_the_judgement() {
    let mut world = World::new();
    // The collection began at 0 and takes until 9.
    world
        .registered("n1", "h:1", 4)
        .answers("h:1", "n1")
        .judge(0);
    let renewed = (at(6), world.registry.clone());
    world.gone("n1");
    let gone = (at(9), world.registry.clone());
    world.memory.learn_glances(vec![renewed, gone]);
    assert_eq!(world.fails("h:1").judge(10), [""; 0]);

    let mut world = World::new();
    world
        .registered("n1", "h:1", 4)
        .answers("h:1", "n1")
        .judge(0);
    world.gone("n1");
    let gone = (at(9), world.registry.clone());
    world.memory.learn_glances(vec![gone]);
    assert_eq!(world.fails("h:1").judge(10), ["n1 Down redis?"]);
}

#[test]
fn a_draining_node_that_deregistered_is_no_alarm() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    assert_eq!(world.gone("n1").judge(10), ["n1 Up redis?"]);
    assert_eq!(world.judge(40), ["n1 Up redis?"]);
    assert_eq!(world.fails("h:1").judge(50), [""; 0]);
}

#[test]
fn a_node_that_was_never_reached_is_judged_by_its_registration() {
    let mut world = World::new();
    world.registered("n1", "inside:1", 25).fails("inside:1");
    assert_eq!(world.judge(0), ["n1 Up redis?"]);
    assert_eq!(world.gone("n1").judge(60), ["n1 Down redis?"]);
}

#[test]
fn a_changed_address_counts_as_never_reached() {
    let mut world = World::new();
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .judge(0);
    world.probes.clear();
    assert_eq!(
        world
            .registered("n1", "inside:1", 25)
            .fails("inside:1")
            .judge(5),
        ["n1 Up redis?"]
    );
}

#[test]
fn a_static_node_is_known_from_the_start_and_counted_once() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["h:1".to_owned()]);
    assert_eq!(world.fails("h:1").judge(0), ["h:1 Down redis?"]);
    assert_eq!(
        world
            .answers("h:1", "n1")
            .registered("n1", "inside:1", 25)
            .judge(5),
        ["n1 Up"]
    );
    assert_eq!(world.fails("h:1").judge(10), ["n1 Down redis?"]);
}

#[test]
fn a_registered_node_at_a_static_address_that_does_not_answer_is_down_from_the_start() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["localhost:1".to_owned()]);
    world
        .registered("n1", "127.0.0.1:1", 25)
        .fails("127.0.0.1:1");
    assert_eq!(world.fails("localhost:1").judge(0), ["n1 Down redis?"]);
}

#[test]
fn a_node_that_registered_with_https_is_the_configured_one() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["h:443".to_owned()]);
    world
        .registered("n1", "https://h", 25)
        .answers_without_id("https://h")
        .answers_without_id("h:443");
    assert_eq!(world.judge(0), ["n1 Up"]);
}

#[test]
fn loopback_has_many_names() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["localhost:1".to_owned()]);
    world
        .registered("n1", "127.0.0.1:1", 25)
        .fails("127.0.0.1:1")
        .fails("localhost:1");
    assert_eq!(world.judge(0).len(), 1);
}

#[test]
fn a_load_balancer_is_no_node() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["lb:80".to_owned()]);
    world
        .registered("n1", "i:1", 25)
        .registered("n2", "i:2", 25);
    assert_eq!(
        world.answers("lb:80", "n1").judge(0),
        ["n1 Up", "n2 Up redis?"]
    );
    assert_eq!(world.answers("lb:80", "n2").judge(5).len(), 2);
    assert_eq!(
        world.fails("lb:80").judge(10),
        ["n1 Up redis?", "n2 Up redis?"]
    );
}

#[test]
fn two_registrations_of_one_address_are_one_node() {
    let mut world = World::new();
    world
        .registered("old", "h:1", 25)
        .answers("h:1", "old")
        .judge(0);
    world
        .registered("old", "h:1", 15)
        .registered("new", "h:1", 30)
        .answers("h:1", "new");
    assert_eq!(world.judge(10), ["new Up"]);
}

#[test]
fn an_id_that_the_api_cut_at_a_colon_is_not_counted_twice() {
    let mut world = World::new();
    world.registered("a:b", "h:1", 25).answers("h:1", "a:b");
    world.listed("b", "h:1", "Up");
    assert_eq!(world.judge(0), ["a:b Up"]);
}

#[test]
fn the_api_state_counts_if_it_is_not_up() {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world.listed("n1", "h:1", "Draining");
    assert_eq!(world.judge(0), ["n1 Draining"]);
}

/// A node whose last state in the API was `Draining`.
fn drained() -> World {
    let mut world = World::new();
    world.registered("n1", "h:1", 25).answers("h:1", "n1");
    world.listed("n1", "h:1", "Draining").judge(0);
    world.api = NodeList::NotDue;
    world
}

#[test]
fn the_api_state_holds_until_the_api_answers_again() {
    let mut world = drained();
    assert_eq!(world.judge(15), ["n1 Draining"]);
    world.registry.readable = false;
    world.registry.found.clear();
    assert_eq!(world.judge(30), ["n1 Draining redis?"]);
    world.registry.readable = true;
    world.registered("n1", "h:1", 25);
    assert_eq!(world.judge(45), ["n1 Draining"]);
    assert_eq!(world.listed("n1", "h:1", "Up").judge(60), ["n1 Up"]);
    let mut world = drained();
    for (second, list) in [(15, NodeList::Failed), (30, NodeList::NotDue)] {
        world.api = list;
        assert_eq!(world.judge(second), ["n1 Draining"]);
        assert_eq!(world.restart().judge(second), ["n1 Draining"]);
    }
    assert_eq!(world.listed("n1", "h:1", "Up").judge(45), ["n1 Up"]);
}

#[test]
fn an_older_api_state_does_not_hold_for_a_node_that_left_or_came_back() {
    let mut world = drained();
    world.gone("n1").fails("h:1");
    assert_eq!(world.judge(15), [""; 0]);

    let mut world = drained();
    let again = world.registry.found.get_mut("n1").unwrap();
    again.registered_at = Some("2026-01-27T02:06:57".to_owned());
    assert_eq!(world.judge(15), ["n1 Up"]);
}

#[test]
fn while_redis_is_unavailable_the_api_list_is_used() {
    let mut world = World::new();
    world.registry.readable = false;
    world.registry.redis_up_since = None;
    world.listed("n1", "inside:1", "Up");
    assert_eq!(world.fails("inside:1").judge(0), ["n1 Up redis?"]);
    // An older list does not prove that the node still exists.
    for api in [NodeList::NotDue, NodeList::Failed] {
        world.api = api;
        assert_eq!(world.judge(5), ["n1 ? redis?"]);
    }
}

#[test]
fn nodes_that_are_reachable_only_through_a_balancer_are_not_down() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["lb:80".to_owned()]);
    world.fails("inside:1").fails("inside:2");
    for second in 0..60 {
        world
            .registered("n1", "inside:1", 25)
            .registered("n2", "inside:2", 25)
            .answers("lb:80", ["n1", "n2"][second % 2]);
        let seen = world.judge(i64::try_from(second).unwrap() * 15);
        assert!(seen.iter().all(|node| node.contains(" Up")), "{seen:?}");
        assert_eq!(seen.len(), 2);
    }
    // A dead node is found by its registration. If the balancer fails, no node is down.
    world.gone("n1").answers("lb:80", "n2");
    assert_eq!(world.judge(960)[0], "n1 Down redis?");
    world.fails("lb:80");
    assert_eq!(world.judge(975), ["n1 Down redis?", "n2 Up redis?"]);
}

#[test]
fn nodes_that_are_all_registered_at_one_balanced_address_are_not_down() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["vip:80".to_owned()]);
    for step in 0..20 {
        world
            .registered("n1", "vip:80", 25)
            .registered("n2", "vip:80", 25)
            .answers("vip:80", ["n1", "n2"][step % 2]);
        let seen = world.judge(i64::try_from(step).unwrap() * 15);
        assert!(seen.iter().all(|node| node.contains(" Up")), "{seen:?}");
        assert!(step < 3 || seen.len() == 2, "{seen:?}");
    }
}

#[test]
fn a_node_behind_a_mapped_port_is_not_down_once_its_url_is_removed() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["mapped:1".to_owned()]);
    world
        .registered("n1", "inside:1", 25)
        .fails("inside:1")
        .answers("mapped:1", "n1");
    assert_eq!(world.judge(0), ["n1 Up"]);
    world.memory.set_statics([]);
    world.probes.remove("mapped:1");
    assert_eq!(world.judge(15), ["n1 Up redis?"]);
}

#[test]
fn a_node_that_crashed_and_came_back_under_another_id_is_down_when_it_hangs_later() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["mapped:1".to_owned()]);
    world
        .registered("old", "inside:1", 22)
        .fails("inside:1")
        .answers("mapped:1", "old");
    assert_eq!(world.judge(0), ["old Up"]);
    world
        .registered("old", "inside:1", 7)
        .registered("new", "inside:2", 28)
        .fails("inside:2")
        .answers("mapped:1", "new");
    world.judge(15);
    // The old registration has expired: the node was replaced, and causes no alert.
    world.gone("old").registered("new", "inside:2", 25);
    assert_eq!(world.judge(30), ["new Up"]);
    let saved = serde_json::to_string(&world.memory).unwrap();
    world.memory = serde_json::from_str(&saved).unwrap();
    assert_eq!(world.fails("mapped:1").judge(45), ["new Down redis?"]);
}

#[test]
fn an_address_that_is_balanced_in_an_older_state_file_recovers() {
    let saved = r#"{"known":{},"statics":{"mapped:1":{"id":"old","balanced":true}}}"#;
    let mut world = World::new();
    world.memory = serde_json::from_str(saved).unwrap();
    world
        .registered("n1", "inside:1", 25)
        .fails("inside:1")
        .answers("mapped:1", "n1");
    assert_eq!(world.judge(0), ["n1 Up"]);
    assert_eq!(world.fails("mapped:1").judge(15), ["n1 Down redis?"]);
}

#[test]
fn a_configured_node_stays_down_until_it_is_removed() {
    let mut world = World::new();
    world.memory = NodeMemory::new(["h:1".to_owned(), "mapped:2".to_owned()]);
    world
        .registered("n1", "h:1", 25)
        .answers("h:1", "n1")
        .registered("n2", "inside:2", 25)
        .fails("inside:2")
        .answers("mapped:2", "n2");
    assert_eq!(world.judge(0), ["n1 Up", "n2 Up"]);
    world.gone("n1").gone("n2").fails("h:1").fails("mapped:2");
    let down = ["n1 Down redis?", "n2 Down redis?"];
    for seconds in [60, 3_700, 100_000] {
        assert_eq!(world.judge(seconds), down);
        assert!(world.memory.addresses().contains(&"h:1".to_owned()));
    }
    world.memory.set_statics(["mapped:2".to_owned()]);
    assert_eq!(world.judge(100_015), ["n2 Down redis?"]);
    world
        .answers("mapped:2", "n2")
        .registered("n2", "inside:2", 25);
    assert_eq!(world.judge(100_030), ["n2 Up"]);
}

#[test]
fn registrations_are_read_often_enough_to_see_one_disappear_before_it_can_expire() {
    let short = |ttl, heartbeat| RegistryTiming {
        ttl: Duration::from_secs(ttl),
        heartbeat: Duration::from_secs(heartbeat),
        ..timing()
    };
    let without_registry = (0, 0, 8.0);
    for (ttl, heartbeat, every) in [
        (30, 10, 8.0),
        (10, 3, 3.5),
        (4, 1, 1.5),
        (2, 1, 1.0),
        (3600, 60, 8.0),
        without_registry,
    ] {
        let found = short(ttl, heartbeat).glance_every().as_secs_f64();
        assert!((found - every).abs() < 1e-9, "{ttl}/{heartbeat}: {found}");
    }
}

#[test]
fn a_node_that_restarts_in_place_under_another_id_is_one_node_although_its_health_has_no_id() {
    let mut clean = World::new();
    clean.registered("old", "a:1", 30).answers_without_id("a:1");
    assert_eq!(clean.judge(0), ["old Up"]);
    clean.gone("old").registered("new", "a:1", 30);
    assert_eq!(clean.judge(5), ["new Up"]);

    let mut killed = World::new();
    killed
        .registered("old", "a:1", 30)
        .answers_without_id("a:1");
    assert_eq!(killed.judge(0), ["old Up"]);
    // The registration of the killed node is overdue, and the answer is that of its successor.
    killed.registered("old", "a:1", 5);
    killed.registered("new", "a:1", 25);
    assert_eq!(killed.judge(25), ["new Up redis?", "old Up redis?"]);
    killed.gone("old").registered("new", "a:1", 25);
    assert_eq!(killed.judge(35), ["new Up"]);
}
