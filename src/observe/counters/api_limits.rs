//! Limits from an API of the limiter. They are fetched seldom, remembered while the API is unavailable, and unknown until its
//! first answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::clock::elapsed;
use crate::limiters::{Counter, Description, Http as Api, Limits, Matched, Rules};
use crate::lock::lock;
use crate::observation::{Collector, Failure, Reason};
use crate::observe::counters::limits::fixed_hash;
use crate::observe::fallback::first_success;
use crate::observe::http::client::{Http, HttpError, shown};
use crate::observe::http::management_api::place_on;
use crate::observe::http::optional::OptionalRequest;

/// How long it is remembered that a counter was first seen in violation, so that an answer since then confirms it.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// How often a place is asked while counters are in violation by its limits, at the most: one of them may be raised.
const CONFIRMED_EVERY: Duration = Duration::from_secs(60);

/// The most counters of a place that are remembered so. All others wait for an answer in their own sweep.
const MOST_REMEMBERED: usize = 100_000;

/// The most places that are asked, if paths contain groups of names.
const MOST_PLACES: usize = 100;

/// How many registered nodes are asked for one place at most.
const MOST_NODES: usize = 4;

/// The most answers of one place that are kept: the last one, and earlier ones whose limits may have fallen.
const MOST_ANSWERS: usize = 4;

/// The most bytes of rules: of one place that are kept, beside those of the last answer in any case, and of all places that are
/// saved.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// One place that has limits: a path at a port, or a whole address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    port: Option<u16>,
    path: String,
}

/// What is known of a place.
#[derive(Debug, Default)]
struct Answered {
    request: OptionalRequest,
    /// When it last answered with rules. `None` if the last request failed.
    read_at: Option<Timestamp>,
    /// Whether it was asked at least once.
    asked: bool,
    /// How long the last request took.
    took: Duration,
    known: Known,
}

/// What survives a restart of a place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Known {
    /// The indices of the description's APIs that ask there.
    apis: BTreeSet<usize>,
    /// Answers with different rules, the last one at the end.
    answers: Vec<Answer>,
}

/// The answer of a place.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    #[serde(serialize_with = "shared", deserialize_with = "share")]
    rules: Arc<RulesOfApis>,
    /// When an answer with other rules replaced it.
    replaced_at: Option<Timestamp>,
}

/// The rules of a place, by the index of the description's API.
type RulesOfApis = BTreeMap<usize, Rules>;

fn shared<S: Serializer>(rules: &Arc<RulesOfApis>, serializer: S) -> Result<S::Ok, S::Error> {
    rules.serialize(serializer)
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<RulesOfApis>, D::Error> {
    RulesOfApis::deserialize(deserializer).map(Arc::new)
}

/// The answers that survive a restart.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::observe) struct SavedApis {
    /// What was asked, and where, as a hash.
    asks: u64,
    places: Vec<(Place, Known)>,
}

/// The limits of a kind that come from APIs.
#[derive(Debug)]
pub(in crate::observe) struct ApiLimits {
    description: Arc<Description>,
    http: Http,
    /// The limiter's addresses. One answer is enough.
    bases: Vec<Url>,
    /// The addresses of registered nodes, which are asked after those.
    nodes: Vec<Url>,
    places: BTreeMap<Place, Answered>,
    /// When the sweep of now began: limits that were read since then are those of now.
    begun_at: Option<Timestamp>,
    /// Places whose last answer may be out of date: the next collection that can asks them.
    doubted: Mutex<BTreeSet<Place>>,
    /// When counters were first seen in violation by the rules of now, by the place of these and the hash of their names.
    violated_since: Mutex<BTreeMap<Place, HashMap<u64, Timestamp>>>,
    /// Places that follow from names and were not asked yet.
    wanted: Mutex<BTreeMap<Place, BTreeSet<usize>>>,
    /// What is asked, and where, as a hash.
    asks: u64,
    /// Counts the changes to what is saved.
    changes: u64,
}

/// Whether `api` can be asked: it has a URL of its own, or nodes may be at `bases` or in a registry.
fn can_be_asked(api: &Api, description: &Description, bases: &[Url]) -> bool {
    api.url.is_some() || !bases.is_empty() || description.registry().is_some()
}

/// What to set so that all APIs of `description` can be asked, if one cannot.
pub(in crate::observe) fn to_set(description: &Description, bases: &[Url]) -> Option<String> {
    let can_all = description
        .apis()
        .all(|api| can_be_asked(api, description, bases));
    (!can_all).then(|| {
        let name = &description.name;
        format!("--ratelimiter.url, or rules under limits: {name} has limits in its API, which is not asked without a URL")
    })
}

impl ApiLimits {
    /// `None` if the description has no API, or none that can be asked.
    pub(in crate::observe) fn new(
        description: &Arc<Description>,
        http: Http,
        bases: Vec<Url>,
    ) -> Option<Self> {
        let mut apis = description.apis();
        if !apis.any(|api| can_be_asked(api, description, &bases)) {
            return None;
        }
        let apis: Vec<&Api> = description.apis().collect();
        // Without logins: the hash is in the state file.
        let places: Vec<String> = bases.iter().map(shown).collect();
        let asks = fixed_hash(format!("{places:?} {apis:?}").as_bytes());
        let mut limits = Self {
            description: Arc::clone(description),
            http,
            bases,
            nodes: Vec::new(),
            places: BTreeMap::new(),
            begun_at: None,
            doubted: Mutex::default(),
            violated_since: Mutex::default(),
            wanted: Mutex::default(),
            asks,
            changes: 0,
        };
        for (number, api) in description.apis().enumerate() {
            if let Some(path) = api.only_place() {
                let place = place_of(api, path);
                limits
                    .places
                    .entry(place)
                    .or_default()
                    .known
                    .apis
                    .insert(number);
            }
        }
        Some(limits)
    }

    /// Sets the addresses of registered nodes, the best first.
    pub(in crate::observe) fn set_nodes(&mut self, nodes: Vec<Url>) {
        self.nodes = nodes;
    }

    /// Takes over the answers of `before`, if it asked the same APIs.
    pub(in crate::observe) fn take_over(&mut self, before: Self) {
        self.nodes = before.nodes;
        self.changes = before.changes + 1;
        if self.asks == before.asks {
            self.places = before.places;
            self.wanted = before.wanted;
        }
    }

    /// The number of changes so far, and the answers to save.
    pub(in crate::observe) fn saved(&self) -> (u64, SavedApis) {
        let mut size = 0;
        let places = self.places.iter().filter(|(_, place)| {
            size += place.known.size();
            size <= MOST_BYTES
        });
        let places = places.map(|(place, it)| (place.clone(), it.known.clone()));
        let (asks, places) = (self.asks, places.collect());
        (self.changes, SavedApis { asks, places })
    }

    /// Takes back the answers of the previous run, if it asked the same APIs.
    pub(in crate::observe) fn recall(&mut self, saved: SavedApis) {
        if saved.asks != self.asks {
            return;
        }
        for (place, known) in saved.places.into_iter().take(MOST_PLACES) {
            self.places.entry(place).or_default().known = known;
        }
    }

    /// Begins a sweep.
    pub(in crate::observe) fn begin(&mut self, now: Timestamp) {
        self.begun_at = Some(now);
    }

    /// Asks the places that are due at `now`, and adds failures. Returns whether any rules changed.
    pub(in crate::observe) async fn refresh(
        &mut self,
        now: Timestamp,
        failures: &mut Vec<Failure>,
    ) -> bool {
        self.begin(now);
        let doubted = lock(&self.doubted).clone();
        let violated: BTreeSet<Place> = {
            let mut since = lock(&self.violated_since);
            since.retain(|_, counters| {
                counters.retain(|_, at| elapsed(*at, now) < REMEMBERED_FOR);
                !counters.is_empty()
            });
            since.keys().cloned().collect()
        };
        let wanted = std::mem::take(&mut *lock(&self.wanted));
        for (place, apis) in wanted {
            if self.places.len() < MOST_PLACES || self.places.contains_key(&place) {
                self.places
                    .entry(place)
                    .or_default()
                    .known
                    .apis
                    .extend(apis);
            }
        }
        let apis: Vec<&Api> = self.description.apis().collect();
        let before = self.changes;
        let longest = self.http.timeout() * 2;
        let mut bases = self.bases.clone();
        let others = self.nodes.iter().filter(|url| !self.bases.contains(url));
        bases.extend(others.take(MOST_NODES).cloned());
        for (place, answered) in &mut self.places {
            let asked: Vec<(usize, Api)> = answered
                .known
                .apis
                .iter()
                .filter_map(|number| Some((*number, (*apis.get(*number)?).clone())))
                .collect();
            if bases.is_empty() && asked.iter().all(|(_, api)| api.url.is_none()) {
                // No node is registered, and none can confirm what one said.
                (answered.asked, answered.read_at) = (false, None);
                continue;
            }
            let every = asked.iter().map(|(_, api)| api.every).min();
            let every = every.filter(|_| !doubted.contains(place));
            let mut every = Duration::from_millis(every.unwrap_or_default());
            if violated.contains(place) {
                every = every.min(CONFIRMED_EVERY);
            }
            let needs = asked.iter().find_map(|(_, api)| api.needs.clone());
            if !answered.is_due(now, every) {
                continue;
            }
            let started = Instant::now();
            let fetch = fetch(self.http.clone(), bases.clone(), place.clone(), asked);
            let outcome = answered.request.make(now, longest, fetch).await;
            (answered.asked, answered.took) = (true, started.elapsed());
            lock(&self.doubted).remove(place);
            let error = match outcome {
                Some(Ok(rules)) => {
                    if answered.known.replace(rules, now) {
                        self.changes += 1;
                        lock(&self.violated_since).clear();
                    }
                    answered.read_at = Some(now);
                    continue;
                }
                Some(Err(error)) => error,
                None => {
                    let why = format!("limits at {}: no answer within {longest:?}", place.path);
                    HttpError::new(Reason::Timeout, why)
                }
            };
            answered.read_at = None;
            let (reason, mut failure) = (error.reason, error.counted(Collector::ManagementApi, ""));
            if let Some(needs) = needs {
                failure.message = format!("{}; it needs {needs}", failure.message);
            }
            failures.push(failure);
            if !matches!(reason, Reason::HttpStatus | Reason::InvalidJson) {
                // The other places would time out too.
                break;
            }
        }
        self.changes > before
    }

    /// Whether the last request to every place succeeded, and how long the requests took. `None` if nothing was asked.
    pub(in crate::observe) fn last_run(&self) -> Option<(bool, f64)> {
        let asked = || self.places.values().filter(|place| place.asked);
        let up = asked().all(|place| place.read_at.is_some());
        let took: Duration = asked().map(|place| place.took).sum();
        asked().next().map(|_| (up, took.as_secs_f64()))
    }

    /// The limits of a name by `api`.
    pub(in crate::observe) fn limits(&self, api: &Api, matched: &Matched) -> Limits {
        let Some((number, place)) = self.find(api, matched) else {
            return Limits::default();
        };
        if let Some(answered) = self.places.get(&place) {
            let rules = answered.known.rules(number);
            return rules.map_or_else(Limits::default, |rules| api.limits(rules, matched));
        }
        let mut wanted = lock(&self.wanted);
        if wanted.len() < MOST_PLACES {
            wanted.entry(place).or_default().insert(number);
        }
        Limits::default()
    }

    /// The limits of a name by earlier answers of each API that may have them, and when each answer was replaced.
    pub(in crate::observe) fn earlier<'a>(
        &'a self,
        counter: &'a Counter,
        matched: &'a Matched,
    ) -> impl Iterator<Item = (&'a Api, Limits, Timestamp)> {
        self.description.apis_of(counter).flat_map(move |api| {
            let found = self.find(api, matched);
            let found = found.and_then(|(number, place)| Some((number, self.places.get(&place)?)));
            found.into_iter().flat_map(move |(number, answered)| {
                answered.known.answers.iter().filter_map(move |answer| {
                    let limits = api.limits(answer.rules.get(&number)?, matched);
                    Some((api, limits, answer.replaced_at?))
                })
            })
        })
    }

    /// Whether an API that may have the limits of a name never answered.
    pub(in crate::observe) fn is_unread(&self, counter: &Counter, matched: &Matched) -> bool {
        self.description.apis_of(counter).any(|api| {
            let found = self.find(api, matched);
            found.is_some_and(|(number, place)| {
                let answered = self.places.get(&place);
                answered.is_none_or(|answered| answered.known.rules(number).is_none())
            })
        })
    }

    /// Whether `limits`, which a counter violates, are from an answer before it was first seen to do so. Then the next collection
    /// asks the API again: a limit that was raised must not be a violation. The first sighting is remembered for a while, so that a
    /// violation that is seen now and then is one, and the API is not asked in each collection.
    pub(in crate::observe) fn doubts(
        &self,
        counter: &Counter,
        matched: &Matched,
        limits: &Limits,
    ) -> bool {
        let old = self.description.apis_of(counter).filter_map(|api| {
            let (number, place) = self.find(api, matched)?;
            let answered = self.places.get(&place)?;
            let said = api.limits(answered.known.rules(number)?, matched);
            let is_its = said.limit.is_some() && said.limit == limits.limit;
            let read_at = answered.read_at.filter(|_| is_its)?;
            (read_at < self.violated_since(&place, &matched.name)?).then_some(place)
        });
        let old: Vec<Place> = old.collect();
        let doubts = !old.is_empty();
        lock(&self.doubted).extend(old);
        doubts
    }

    /// When the counter of this name was first seen in violation by a limit of `place`: now, unless that is remembered.
    fn violated_since(&self, place: &Place, name: &[u8]) -> Option<Timestamp> {
        let (hash, now) = (fixed_hash(name), self.begun_at?);
        let mut places = lock(&self.violated_since);
        let since = places.entry(place.clone()).or_default();
        if since.len() < MOST_REMEMBERED || since.contains_key(&hash) {
            Some(*since.entry(hash).or_insert(now))
        } else {
            Some(now)
        }
    }

    fn find(&self, api: &Api, matched: &Matched) -> Option<(usize, Place)> {
        let mut apis = self.description.apis();
        let number = apis.position(|other| std::ptr::eq(other, api))?;
        Some((number, place_of(api, api.place(matched)?)))
    }
}

impl Answered {
    /// Whether it is due at `now`: `every` after an answer, sooner after a failure.
    fn is_due(&self, now: Timestamp, every: Duration) -> bool {
        let is_old = self.read_at.is_none_or(|at| elapsed(at, now) >= every);
        is_old && self.request.is_due(now)
    }
}

impl Known {
    /// The rules of the last answer, by the index of the API.
    fn rules(&self, number: usize) -> Option<&Rules> {
        self.answers.last()?.rules.get(&number)
    }

    /// Takes the rules of an answer of `now`. Returns whether they differ from those of the last one.
    fn replace(&mut self, rules: RulesOfApis, now: Timestamp) -> bool {
        if let Some(last) = self.answers.last_mut() {
            if *last.rules == rules {
                return false;
            }
            last.replaced_at = Some(now);
        }
        self.answers.push(Answer {
            rules: Arc::new(rules),
            replaced_at: None,
        });
        while self.answers.len() > MOST_ANSWERS
            || (self.answers.len() > 1 && self.size() > MOST_BYTES)
        {
            self.answers.remove(0);
        }
        true
    }

    /// How many bytes of text the answers have.
    fn size(&self) -> usize {
        let rules = self.answers.iter().flat_map(|answer| answer.rules.values());
        rules.map(Rules::size).sum()
    }
}

fn place_of(api: &Api, path: String) -> Place {
    Place {
        port: api.port,
        path,
    }
}

/// Requests `place` from each base until one answer can be read by all of `apis`.
async fn fetch(
    http: Http,
    bases: Vec<Url>,
    place: Place,
    apis: Vec<(usize, Api)>,
) -> Result<RulesOfApis, HttpError> {
    let whole = apis.iter().find_map(|(_, api)| api.url.as_ref());
    let urls: Vec<(Url, Url)> = match whole {
        Some(url) => Url::parse(url)
            .ok()
            .map(|url| (url.clone(), url))
            .into_iter()
            .collect(),
        None => bases
            .iter()
            .filter_map(|base| Some((base.clone(), place_on(base, place.port, &place.path)?)))
            .collect(),
    };
    let (http, apis) = (&http, &apis);
    let attempts = urls.into_iter().map(|(configured, url)| async move {
        let header = apis.iter().find_map(|(_, api)| api.token_header.as_ref());
        let header = header.map(|header| header.0.as_str());
        let answer = http.get_beside(&configured, url, header).await?.ok()?;
        let mut rules = RulesOfApis::new();
        for (number, api) in apis {
            let read = api.parse(&answer.body).map_err(|expected| {
                let message = format!("{}: {expected}", answer.what);
                HttpError::new(Reason::InvalidJson, message)
            })?;
            rules.insert(*number, read);
        }
        Ok(rules)
    });
    let (found, errors) = first_success(attempts.collect()).await;
    found.ok_or_else(|| {
        let first: Option<HttpError> = errors.into_iter().next();
        let none = || HttpError::new(Reason::Unexpected, "limits: no URL to ask".to_owned());
        first.unwrap_or_else(none)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::{Fit, Type};
    use crate::observe::http::access::HttpAccess;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    /// A limit of 10 for each counter, read at 0 s.
    fn ten() -> (Arc<Description>, ApiLimits) {
        let text = "name: own\ntitle: own\ncounters:\n  - {name: a, key: '^own:(?P<key>.+)$', type: string, count: value, refused: not_counted, expiry: required, without_expiry: heals}\nlimits:\n  - http: {port: 1, path: /limits, line: '^(?P<key>\\S+) (?P<limit>\\d+) per (?P<unit>minute)$'}\n";
        let own = Arc::new(Description::parse(text).unwrap());
        let http = Http::new(Duration::from_secs(1), HttpAccess::default()).unwrap();
        // It refuses connections.
        let base = Url::parse("http://127.0.0.1:1").unwrap();
        let mut limits = ApiLimits::new(&own, http, vec![base]).unwrap();
        let api = own.apis().next().unwrap();
        let rules = api.parse(b"x 10 per minute\ny 10 per minute\n").unwrap();
        let place = limits.places.values_mut().next().unwrap();
        place.known.replace(RulesOfApis::from([(0, rules)]), at(0));
        place.read_at = Some(at(0));
        (own, limits)
    }

    /// Whether the limit of 10 of `name`, which is in violation, is doubted.
    fn doubts(own: &Description, limits: &ApiLimits, name: &[u8]) -> bool {
        let ten = Limits {
            limit: Some(10),
            window_ms: Some(60_000),
            burst: None,
        };
        let Fit::Counter(matched) = own.match_name(name, Some(Type::String)) else {
            panic!("it is a counter");
        };
        limits.doubts(&own.counters[0], &matched, &ten)
    }

    /// Every place answered with the same rules.
    fn read(limits: &mut ApiLimits, seconds: i64) {
        for place in limits.places.values_mut() {
            place.read_at = Some(at(seconds));
        }
        lock(&limits.doubted).clear();
    }

    #[test]
    fn a_counter_is_doubted_until_an_answer_since_it_was_first_seen_in_violation() {
        let (own, mut limits) = ten();
        let doubts = |limits: &ApiLimits, name| doubts(&own, limits, name);
        limits.begin(at(15));
        assert!(doubts(&limits, b"own:x"));
        read(&mut limits, 30);
        limits.begin(at(30));
        assert!(!doubts(&limits, b"own:x"));
        // Seen now and then, and another counter of the same place, whose limit may have been raised.
        limits.begin(at(120));
        assert!(!doubts(&limits, b"own:x") && doubts(&limits, b"own:y"));
    }

    #[tokio::test]
    async fn a_place_is_asked_every_minute_while_a_counter_is_in_violation_by_its_limits() {
        let (own, mut limits) = ten();
        // Whether it was asked: the request fails.
        let asks = async |limits: &mut ApiLimits, seconds| {
            let mut failures = Vec::new();
            limits.refresh(at(seconds), &mut failures).await;
            !failures.is_empty()
        };
        limits.begin(at(15));
        assert!(doubts(&own, &limits, b"own:x"));
        read(&mut limits, 30);
        assert!(!asks(&mut limits, 89).await);
        assert!(asks(&mut limits, 90).await);
        // It is no longer remembered.
        read(&mut limits, 300);
        assert!(!asks(&mut limits, 599).await);
        assert!(asks(&mut limits, 600).await);
    }

    #[tokio::test]
    async fn an_answer_is_not_doubted_while_no_node_can_confirm_it() {
        let (_, mut limits) = ten();
        // As with a registry whose nodes are gone.
        limits.bases.clear();
        let mut failures = Vec::new();
        limits.refresh(at(15), &mut failures).await;
        assert!(failures.is_empty());
        assert!(limits.places.values().all(|place| place.read_at.is_none()));
    }

    #[test]
    fn an_answer_is_refreshed_after_its_interval_and_a_failure_sooner() {
        let every = Duration::from_secs(300);
        let mut answered = Answered::default();
        assert!(answered.is_due(at(0), every));
        answered.read_at = Some(at(0));
        assert!(!answered.is_due(at(299), every));
        assert!(answered.is_due(at(300), every));
        answered.read_at = None;
        assert!(answered.is_due(at(1), every));
    }

    #[test]
    fn two_apis_at_one_place_are_one_request() {
        let kong = crate::limiters::built_in("kong").unwrap();
        let kong = Arc::new(Description::parse(kong).unwrap());
        let http = Http::new(Duration::from_secs(1), HttpAccess::default()).unwrap();
        let base = Url::parse("http://h:8000").unwrap();
        let limits = ApiLimits::new(&kong, http, vec![base]).unwrap();
        let asked = limits.places.values().map(|place| place.known.apis.len());
        assert_eq!(asked.collect::<Vec<_>>(), [2]);
    }
}
