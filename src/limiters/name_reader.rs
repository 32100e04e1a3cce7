//! Reads one name in steps: returns the Redis commands to send next, and evaluates their answers. The caller sends the
//! commands, so that many names take each step together.
//!
//! The steps are: the type, if the name leaves it open; limits in Redis, and conditions that distinguish counters; the count;
//! and, for counters at their limit and a sample of the others, expiry, companions and times in the future.

use super::ask::{Answer, Ask, Type};
use super::description::{Counter, Description, Malformed, Needed, When as KeyCondition};
use super::expiry::WithoutExpiry;
use super::http_limits::Http;
use super::limits::{Former, Limits};
use super::matched::{Matched, When};
use super::methods::{At, Counted, Not};
use super::names::Fit;
use super::reading::{CounterReading, Expires, Finding, Outcome, Unknown};
use super::source::Source;
use super::units::{float, whole};
use crate::observation::{Invalid, Refused};

/// What is known without Redis, and how much to read.
#[derive(Clone, Copy)]
pub struct NameContext<'k> {
    /// Limits from the rules of the configuration. They take precedence.
    pub rules: &'k (dyn Fn(&Counter, &Matched) -> Limits + Sync),
    /// Limits from APIs, by their last answer.
    pub api: &'k (dyn Fn(&Http, &Matched) -> Limits + Sync),
    /// The previous limits, if they allowed more.
    pub former: &'k (dyn Fn(&Counter, &Matched, &Merged, Under<'_>) -> Option<Former> + Sync),
    /// Redis's time, in Unix milliseconds.
    pub now_ms: u64,
    /// How much clocks may differ, in milliseconds.
    pub tolerance_ms: u64,
    /// Whether expiry and companions are read even if the counter is below its limit.
    pub sampled: bool,
}

/// The limits of a counter, and their origin.
#[derive(Clone, Copy, Debug)]
pub struct Merged {
    /// The limits that apply.
    pub limits: Limits,
    /// Whether the limit is stored in Redis for this counter.
    pub own: bool,
}

/// The limits that would apply with other limits from rules, others from APIs, and other fixed limits of the description, in their
/// order.
pub type Under<'a> = &'a dyn Fn(Limits, &dyn Fn(&Http) -> Limits, Option<&[Limits]>) -> Limits;

/// For callers that do not remember limits: no limit fell.
pub fn never_fell(_: &Counter, _: &Matched, _: &Merged, _: Under<'_>) -> Option<Former> {
    None
}

impl std::fmt::Debug for NameContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameContext")
            .field("now_ms", &self.now_ms)
            .field("tolerance_ms", &self.tolerance_ms)
            .field("sampled", &self.sampled)
            .finish_non_exhaustive()
    }
}

/// Reads one name.
#[derive(Debug)]
pub struct NameReader<'d> {
    description: &'d Description,
    known: NameContext<'d>,
    name: &'d [u8],
    asks: Vec<Ask>,
    step: Step,
    /// The previous limits, and whether the limits are stored in Redis.
    former: Option<Former>,
    own: bool,
    /// Whether TYPE was sent. If the key has another type afterwards, it was replaced meanwhile.
    typed: bool,
    /// Whether the type is a guess that no answer has confirmed yet.
    guessed: bool,
}

#[derive(Debug)]
enum Step {
    Type,
    /// The limits from rules and the name. Sources by their index in [`sources`], with one ask each. Then the ask for `when`, if
    /// it needs one.
    Limits(Matched, Limits, Vec<usize>),
    Count(Matched, Limits),
    Closer(Matched, CounterReading, Vec<Closer>),
    /// The expiry of a window that is over.
    Tail(Matched),
    /// Whether a key exists, the outcome if it does, and the outcome if not.
    Exists(Matched, Outcome, Outcome),
    Done(Finding),
}

/// The meaning of an answer in the last step.
#[derive(Clone, Copy, Debug)]
enum Closer {
    Expiry,
    Future,
    Companion,
    /// Whether the key exists without which the counter's key is foreign.
    Beside,
}

/// The sources of a counter's limits, in order.
fn sources<'d>(
    description: &'d Description,
    counter: &'d Counter,
) -> impl Iterator<Item = &'d Source> {
    let shared = description.limits.iter();
    counter
        .limits
        .iter()
        .chain(shared)
        .map(|source| &source.value)
}

impl<'d> NameReader<'d> {
    /// Begins to read `name`. If the name leaves its type open, the type is most likely `likely`.
    pub fn begin(
        description: &'d Description,
        known: NameContext<'d>,
        name: &'d [u8],
        likely: Option<Type>,
    ) -> Self {
        let likely = likely.map(|kind| description.match_name(name, Some(kind)));
        let likely = likely.filter(|fit| matches!(fit, Fit::Counter(_)));
        let fit = likely.unwrap_or_else(|| description.match_name(name, None));
        let mut reader = Self {
            description,
            known,
            name,
            asks: Vec::new(),
            step: Step::Type,
            former: None,
            own: false,
            typed: false,
            guessed: matches!(&fit, Fit::Counter(matched) if description.is_open(matched)),
        };
        reader.fit(fit);
        reader
    }

    /// The name.
    pub fn name(&self) -> &'d [u8] {
        self.name
    }

    /// The commands to send now. Empty once there is a finding.
    pub fn asks(&self) -> &[Ask] {
        &self.asks
    }

    /// The result, once there is nothing left to ask.
    pub fn finding(&self) -> Option<&Finding> {
        match &self.step {
            Step::Done(finding) => Some(finding),
            _ => None,
        }
    }

    /// Takes the answers to [`Self::asks`], in their order.
    pub fn feed(&mut self, answers: &[Answer]) {
        if self.guessed {
            let own = |ask: &Ask| ask.shows_type() && ask.key() == self.name;
            let said = self.asks.iter().zip(answers);
            let mut said = said.filter_map(|(ask, answer)| own(ask).then_some(answer));
            if said.clone().any(|answer| *answer == Answer::WrongType) {
                return self.ask_type();
            }
            // A key that is gone has any type.
            let nothing = |it: &Answer| matches!(it, Answer::Missing | Answer::Integer(0));
            self.guessed = said.all(nothing);
        }
        let step = std::mem::replace(&mut self.step, Step::Type);
        self.asks.clear();
        match step {
            Step::Type => self.typed(answers),
            Step::Limits(matched, known, asked) => self.limited(matched, known, &asked, answers),
            Step::Count(matched, limits) => self.counted(matched, limits, answers),
            Step::Closer(matched, reading, asked) => self.closer(matched, reading, &asked, answers),
            Step::Exists(matched, outcome, otherwise) => match answers.first() {
                Some(Answer::Integer(0)) => self.done(Some(matched), otherwise),
                _ => self.done(Some(matched), outcome),
            },
            Step::Tail(matched) => {
                let left = answers.first();
                let without = left.map(|left| *left == Answer::Integer(-1));
                let gone = left == Some(&Answer::Integer(-2));
                self.done(
                    Some(matched),
                    if gone {
                        Outcome::Gone
                    } else {
                        Outcome::Over(without)
                    },
                );
            }
            Step::Done(finding) => self.step = Step::Done(finding),
        }
    }

    fn done(&mut self, matched: Option<Matched>, outcome: Outcome) {
        if self.guessed {
            return self.ask_type();
        }
        self.asks.clear();
        self.step = Step::Done(Finding { matched, outcome });
    }

    fn ask_type(&mut self) {
        self.guessed = false;
        self.asks = vec![Ask::Type(self.name.to_vec())];
        self.step = Step::Type;
    }

    fn typed(&mut self, answers: &[Answer]) {
        self.typed = true;
        let kind = match answers.first() {
            Some(Answer::Type(kind)) if kind != "none" => {
                Type::ALL.into_iter().find(|known| known.name() == kind)
            }
            _ => return self.done(None, Outcome::Gone),
        };
        self.fit(match kind {
            Some(_) => self.description.match_name(self.name, kind),
            // No counter has such a type.
            None => self.description.match_from(usize::MAX, self.name, None),
        });
    }

    fn fit(&mut self, fit: Fit) {
        match fit {
            Fit::NeedsType => self.ask_type(),
            Fit::Ignored => self.done(None, Outcome::Ignored),
            Fit::Foreign => self.done(None, Outcome::Foreign),
            Fit::Counter(matched) => self.ask_limits(matched),
        }
    }

    fn ask_limits(&mut self, matched: Matched) {
        let latest_ms = self.known.now_ms.saturating_add(self.known.tolerance_ms);
        if matched.has_date(latest_ms) {
            return self.done(Some(matched), Outcome::Foreign);
        }
        let counter = self.description.counter(&matched);
        let already = (self.known.rules)(counter, &matched).or(matched.limits(&counter.units));
        let mut asked = Vec::new();
        let mut asks = Vec::new();
        for (place, source) in sources(self.description, counter).enumerate() {
            if let Some(ask) = source.ask(&matched, &already) {
                asked.push(place);
                asks.push(ask);
            }
        }
        if let Some(condition) = counter.asked_condition() {
            let name = matched.name.clone();
            asks.push(match &condition.field {
                Some(field) => Ask::HasField(name, field.clone().into_bytes()),
                None => Ask::Pttl(name),
            });
        }
        if asks.is_empty() {
            return self.limited(matched, already, &[], &[]);
        }
        self.asks = asks;
        self.step = Step::Limits(matched, already, asked);
    }

    fn limited(&mut self, matched: Matched, known: Limits, asked: &[usize], answers: &[Answer]) {
        let counter = self.description.counter(&matched);
        let merge = |known: Limits, api: &dyn Fn(&Http) -> Limits, others: Option<&[Limits]>| {
            let (mut limits, mut own) = (known, false);
            let mut others = others.map(|others| others.iter().copied());
            for (place, source) in sources(self.description, counter).enumerate() {
                let found = match source {
                    Source::Fixed(fixed) => match &mut others {
                        Some(others) => others.next().unwrap_or_default(),
                        None => *fixed,
                    },
                    Source::Http(http) => api(http),
                    Source::Fields(_) | Source::Key(_) => {
                        let answer = asked.iter().position(|at| *at == place);
                        let answer = answer.and_then(|at| answers.get(at));
                        let found = answer.map(|answer| source.read(answer)).unwrap_or_default();
                        own |= limits.limit.is_none() && found.limit.is_some();
                        found
                    }
                };
                limits = limits.or(found);
            }
            let now_ms = self.known.now_ms;
            if limits
                .window_ms
                .is_some_and(|window| matched.has_shorter_window(window, now_ms))
            {
                // The rule is for counters with another window, and so is its limit.
                limits = Limits::default();
            }
            let by_index = || matched.window_by_index(now_ms);
            limits.window_ms = limits.window_ms.or_else(by_index);
            Merged { limits, own }
        };
        let merged = merge(known, &|http| (self.known.api)(http, &matched), None);
        let under = |ruled: Limits, api: &dyn Fn(&Http) -> Limits, fixed: Option<&[Limits]>| {
            merge(ruled.or(matched.limits(&counter.units)), api, fixed).limits
        };
        let former = (self.known.former)(counter, &matched, &merged, &under);
        let Merged { limits, own } = merged;
        (self.own, self.former) = (own, former);
        if let Some(condition) = counter.asked_condition() {
            let answer = answers.get(asked.len());
            match self.meets_condition(condition, counter, &matched, &limits, answer) {
                Some(true) => {}
                Some(false) => {
                    let kind = Some(counter.kind);
                    let next = matched.counter + 1;
                    return self.fit(self.description.match_from(next, self.name, kind));
                }
                None => return self.done(Some(matched), Outcome::Gone),
            }
        }
        self.ask_count(matched, limits);
    }

    /// Whether the key meets `condition`. `None` if it is gone.
    fn meets_condition(
        &self,
        condition: &KeyCondition,
        counter: &Counter,
        matched: &Matched,
        limits: &Limits,
        answer: Option<&Answer>,
    ) -> Option<bool> {
        if condition.field.is_some() {
            return Some(answer == Some(&Answer::Integer(1)));
        }
        let left = match answer {
            Some(Answer::Integer(-2) | Answer::Missing) => return None,
            Some(Answer::Integer(left)) => u64::try_from(*left).ok(),
            _ => None,
        };
        let needed = matched
            .span(&counter.units, limits)
            .zip(left)
            .zip(condition.outlives_windows);
        Some(needed.is_some_and(|((span, left), windows)| {
            let window = float(span.end_ms.saturating_sub(span.start_ms));
            let until = whole(windows * window).saturating_add(span.start_ms);
            self.known.now_ms.saturating_add(left) >= until
        }))
    }

    fn ask_count(&mut self, matched: Matched, limits: Limits) {
        let counter = self.description.counter(&matched);
        let method = counter.count.value.counting();
        let at = self.at(counter, &matched, &limits);
        if !method.knows_windows() {
            match at.when {
                Some(When::Future) => return self.ask_existence(matched),
                Some(When::Previous | When::Over) => return self.refuse(matched, Not::Over),
                None if matched.has_span() => {
                    return self.refuse(matched, Not::Unknown(Unknown::NoWindow));
                }
                Some(When::Current) | None => {}
            }
        }
        match method.asks(&at) {
            Ok(asks) => {
                self.asks = asks;
                self.step = Step::Count(matched, limits);
            }
            Err(Not::Invalid(Invalid::InTheFuture)) => self.ask_existence(matched),
            Err(not) => self.refuse(matched, not),
        }
    }

    /// The name alone shows that the window is in the future. A watched key may be gone meanwhile.
    fn ask_existence(&mut self, matched: Matched) {
        self.asks = vec![Ask::Exists(matched.name.clone())];
        let outcome = Outcome::Invalid(Invalid::InTheFuture);
        self.step = Step::Exists(matched, outcome, Outcome::Gone);
    }

    fn at<'a>(&self, counter: &'a Counter, matched: &'a Matched, limits: &'a Limits) -> At<'a> {
        let span = matched.span(&counter.units, limits);
        At {
            keys: counter.keys(),
            matched,
            limits,
            when: span.map(|span| span.when(self.known.now_ms, self.known.tolerance_ms)),
            now_ms: self.known.now_ms,
            tolerance_ms: self.known.tolerance_ms,
        }
    }

    /// Ends without a count.
    fn refuse(&mut self, matched: Matched, not: Not) {
        let malformed = &self.description.counter(&matched).malformed;
        let outcome = match not {
            Not::Over if self.known.sampled => {
                self.asks = vec![Ask::Pttl(matched.name.clone())];
                self.step = Step::Tail(matched);
                return;
            }
            Not::Over => Outcome::Over(None),
            Not::Part => Outcome::Part,
            Not::Ignored => Outcome::Ignored,
            Not::WrongType if self.typed => Outcome::Gone,
            Not::Gone => Outcome::Gone,
            // The key does not have the type that follows from its name.
            Not::WrongType => return self.ask_type(),
            Not::Unknown(unknown) => Outcome::Unknown(unknown),
            Not::Garbage(invalid) => match malformed {
                Malformed::Invalid => Outcome::Invalid(invalid),
                Malformed::Foreign => Outcome::Foreign,
                Malformed::ForeignUnless(key) => {
                    let key = key.value.fill(|group| matched.group(group));
                    self.asks = vec![Ask::Exists(key)];
                    let outcome = Outcome::Invalid(invalid);
                    self.step = Step::Exists(matched, outcome, Outcome::Foreign);
                    return;
                }
            },
            Not::Invalid(invalid) => Outcome::Invalid(invalid),
        };
        self.done(Some(matched), outcome);
    }

    fn counted(&mut self, matched: Matched, limits: Limits, answers: &[Answer]) {
        let counter = self.description.counter(&matched);
        let method = counter.count.value.counting();
        let at = self.at(counter, &matched, &limits);
        let outlasts = |former: Former| counter.outlasts_ms(&former.limits, &limits);
        let outlasts_ms = self.former.map_or(0, outlasts);
        // What may be left over was legal under the limits before.
        let before = self.former.filter(|former| former.ago_ms < outlasts_ms);
        let before = before.and_then(|former| {
            let limits = &former.limits;
            method.read(&At { limits, ..at }, answers).ok()
        });
        let legal = before.filter(|before| before.invalid.is_none());
        let Counted { count, invalid } = match (method.read(&at, answers), legal) {
            (Ok(found), Some(_)) if found.invalid == Some(Invalid::AboveCapacity) => {
                Counted::valid(found.count)
            }
            (Ok(found), _) => found,
            (Err(Not::Invalid(Invalid::InTheFuture)), Some(legal)) => legal,
            (Err(not), _) => return self.refuse(matched, not),
        };
        let draining = |former: Former| counter.draining(former, &at);
        let draining = self.former.and_then(draining);
        let capacity = limits.capacity();
        let full = capacity.is_some_and(|capacity| count >= capacity);
        let over = capacity.is_some_and(|capacity| count > capacity);
        let blocks = counter.without_expiry == Some(WithoutExpiry::Blocks);
        let beside = match &counter.malformed {
            Malformed::ForeignUnless(key) if over && counter.refused != Refused::Counted => {
                Some(key.value.fill(|group| matched.group(group)))
            }
            _ => None,
        };
        let mut asked = Vec::new();
        if self.known.sampled || (full && blocks) || beside.is_some() {
            asked.push((Closer::Expiry, Ask::Pttl(method.expiring(&at))));
        }
        if self.known.sampled || full {
            asked.extend(
                method
                    .future_asks(&at)
                    .into_iter()
                    .map(|ask| (Closer::Future, ask)),
            );
            let needed = |needed: Needed| needed == Needed::Always || over;
            for companion in counter.companions.iter().filter(|it| needed(it.needed)) {
                let name = companion.key.value.fill(|group| matched.group(group));
                asked.push((Closer::Companion, Ask::Exists(name)));
            }
        }
        asked.extend(beside.map(|name| (Closer::Beside, Ask::Exists(name))));
        let refused = counter.refused;
        let reading = CounterReading {
            count,
            limits,
            refused,
            invalid,
            expiry: None,
            draining,
            outlasts_ms,
            own: self.own,
        };
        if asked.is_empty() {
            return self.done(Some(matched), Outcome::Counted(reading));
        }
        let (closer, asks) = asked.into_iter().unzip();
        self.asks = asks;
        self.step = Step::Closer(matched, reading, closer);
    }

    fn closer(
        &mut self,
        matched: Matched,
        mut reading: CounterReading,
        asked: &[Closer],
        answers: &[Answer],
    ) {
        let counter = self.description.counter(&matched);
        let mut invalid = None;
        for (closer, answer) in asked.iter().zip(answers) {
            match (closer, answer) {
                // It expired while it was read.
                (Closer::Expiry, Answer::Integer(-2) | Answer::Missing) => {
                    return self.done(Some(matched), Outcome::Gone);
                }
                (Closer::Expiry, Answer::Integer(left)) => {
                    let expires = counter.expires(
                        *left,
                        (reading.count, &reading.limits),
                        self.former,
                        self.known.tolerance_ms,
                    );
                    reading.expiry = Some(expires);
                    if matches!(reading.expiry, Some(Expires::TooLate { .. })) {
                        invalid = Some(Invalid::ExpiresTooLate);
                    }
                }
                (Closer::Future, Answer::Integer(1..)) => invalid = Some(Invalid::InTheFuture),
                (Closer::Companion, Answer::Integer(0)) => {
                    invalid = Some(Invalid::CompanionMissing);
                }
                // Without an expiry, the counter may have outlived the key beside it.
                (Closer::Beside, Answer::Integer(0))
                    if matches!(
                        reading.expiry,
                        Some(Expires::In(_) | Expires::TooLate { .. })
                    ) =>
                {
                    return self.done(Some(matched), Outcome::Foreign);
                }
                (Closer::Expiry | Closer::Future | Closer::Companion | Closer::Beside, _) => {}
            }
        }
        reading.invalid = reading.invalid.or(invalid);
        self.done(Some(matched), Outcome::Counted(reading));
    }
}

impl Counter {
    /// Evaluates `left_ms`, a key's PTTL, for a counter of `count` under `limits`. `former` are the limits before they fell: a
    /// key that was written under a longer window may live as long as that window allowed.
    pub fn expires(
        &self,
        left_ms: i64,
        (count, limits): (u64, &Limits),
        former: Option<Former>,
        tolerance_ms: u64,
    ) -> Expires {
        let Ok(in_ms) = u64::try_from(left_ms) else {
            return Expires::Never(self.without_expiry.filter(|_| self.expiry.required));
        };
        let over = limits.capacity().is_none_or(|capacity| count > capacity);
        let may_be_longer = self.expiry.longer_over_limit && over;
        let max = self.expiry.max.filter(|_| !may_be_longer);
        let before = former.and_then(|former| {
            let most_ms = max?.most_ms(&former.limits)?;
            Some(most_ms.saturating_sub(former.ago_ms))
        });
        let most_ms = max.and_then(|max| max.most_ms(limits));
        let most_ms = most_ms.map(|most_ms| most_ms.max(before.unwrap_or(0)));
        match most_ms {
            Some(most_ms) if in_ms > most_ms.saturating_add(tolerance_ms) => {
                Expires::TooLate { in_ms, most_ms }
            }
            _ => Expires::In(in_ms),
        }
    }
}

#[cfg(test)]
mod tests;
