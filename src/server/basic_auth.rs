//! Users with passwords, as HTTP Basic authentication brings them. bcrypt is slow on purpose, so what was found right is
//! remembered, and what is not yet known is verified off the async threads, few at a time. Who may wait for that is
//! `queue`'s business.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bcrypt::HashParts;
use hyper::header::HeaderValue;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tokio::sync::Semaphore;

use super::queue::{Fingerprint, Queue};

/// Logins that are remembered: more than there are users who ask again and again.
const MOST_REMEMBERED: usize = 64;

/// How many passwords are verified at once: whoever guesses gets no more of the processor than this.
const AT_ONCE: usize = 2;

/// Who logged in, or why nobody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// This user.
    Admitted(String),
    /// There are no credentials.
    Missing,
    /// The credentials are none of HTTP Basic authentication, or no user's.
    Wrong,
    /// Whether the credentials are right was not looked at: too many of the same network wait for that.
    Busy,
}

/// The users of one reading of the file: what is remembered of them is gone with the next.
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// What an unknown user's password is held against: the dearest there is.
    decoy: String,
    /// Makes fingerprints worth nothing outside this process.
    salt: [u8; 32],
    remembered: Mutex<VecDeque<Fingerprint>>,
    places: Arc<Semaphore>,
    queue: Queue,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("users", &self.hashes.len())
            .finish_non_exhaustive()
    }
}

impl Users {
    /// `None` if there is no user at all. An error says that there is no randomness to be had.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Option<Self>, String> {
        // The cost stands in front of the salt, so the greatest text is one of the greatest cost.
        let cost = |hash: &&String| hash.get(4..6).map(str::to_owned);
        let Some(decoy) = hashes.values().max_by_key(cost).cloned() else {
            return Ok(None);
        };
        let mut salt = [0; 32];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut salt)
            .map_err(|_| "no random numbers to be had".to_owned())?;
        Ok(Some(Self {
            hashes,
            decoy,
            salt,
            remembered: Mutex::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            queue: Queue::default(),
        }))
    }

    /// Who the value of an `Authorization` header from `peer` is.
    pub(super) async fn login(
        self: &Arc<Self>,
        peer: SocketAddr,
        authorization: Option<&HeaderValue>,
    ) -> Login {
        let Some(header) = authorization else {
            return Login::Missing;
        };
        let Some((user, password)) = credentials(header) else {
            return Login::Wrong;
        };
        let fingerprint = self.fingerprint(&user, &password);
        if self.remembers(&fingerprint) {
            return Login::Admitted(user);
        }
        let Some(place) = self.queue.enter(peer, fingerprint) else {
            return Login::Busy;
        };
        let verify = self.verify(&user, password, fingerprint);
        if place.verdict(verify).await {
            Login::Admitted(user)
        } else {
            Login::Wrong
        }
    }

    async fn verify(
        self: &Arc<Self>,
        user: &str,
        password: Vec<u8>,
        fingerprint: Fingerprint,
    ) -> bool {
        // The semaphore is never closed, and fair: who came first is first.
        let place = Arc::clone(&self.places).acquire_owned().await;
        // Somebody at another address may have been first.
        if self.remembers(&fingerprint) {
            return true;
        }
        let hash = self.hashes.get(user);
        let known = hash.is_some();
        let against = hash.unwrap_or(&self.decoy).clone();
        let users = Arc::clone(self);
        // The verification cannot be stopped, so it keeps its place to its end, whether or not the client is still there.
        let verified = tokio::task::spawn_blocking(move || {
            let _place = place;
            let right = bcrypt::verify(&password, &against).is_ok_and(|right| right) && known;
            if right {
                users.remember(fingerprint);
            } else {
                users.take_the_rest(&password, &against);
            }
            right
        });
        verified.await.unwrap_or(false)
    }

    /// Takes as long as the dearest hash takes longer than this one, or else the time would tell that there is a user with a
    /// cheaper one.
    fn take_the_rest(&self, password: &[u8], hash: &str) {
        for cost in self.missing_costs(hash) {
            let _ = std::hint::black_box(bcrypt::hash_with_salt(password, cost, [0; 16]));
        }
    }

    /// Each step of the cost doubles the time, so that of all steps between, together, is what is missing.
    fn missing_costs(&self, hash: &str) -> Range<u32> {
        let cost = |hash| HashParts::from_str(hash).map_or(0, |parts| parts.get_cost());
        cost(hash)..cost(&self.decoy)
    }

    fn fingerprint(&self, user: &str, password: &[u8]) -> Fingerprint {
        // No user has a colon in the name: what is hashed is told apart.
        Sha256::new()
            .chain_update(self.salt)
            .chain_update(user)
            .chain_update(b":")
            .chain_update(password)
            .finalize()
            .into()
    }

    /// Looks at every fingerprint to its end: how long that takes tells nothing.
    fn remembers(&self, fingerprint: &Fingerprint) -> bool {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = remembered
            .iter()
            .fold(Choice::from(0), |found, one| found | one.ct_eq(fingerprint));
        found.into()
    }

    fn remember(&self, fingerprint: Fingerprint) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered.len() == MOST_REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(fingerprint);
    }
}

/// User and password of `Basic BASE64`.
fn credentials(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::super::queue::MOST_WAITING;
    use super::*;

    const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    const ELSEWHERE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1);

    fn users() -> Arc<Users> {
        let hash = bcrypt::hash("open sesame", 4).unwrap();
        let users = [("ali".to_owned(), hash)].into();
        Arc::new(Users::new(users).unwrap().unwrap())
    }

    fn basic(text: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(text))).unwrap()
    }

    #[tokio::test]
    async fn only_the_right_user_with_the_right_password_is_admitted() {
        let users = users();
        for _ in 0..2 {
            let right = users.login(HERE, Some(&basic("ali:open sesame"))).await;
            assert_eq!(right, Login::Admitted("ali".to_owned()));
            for wrong in [
                "ali:open sesam",
                "ali:",
                "ali",
                "",
                "kasim:open sesame",
                ":open sesame",
                "ali:open sesame:",
            ] {
                let login = users.login(HERE, Some(&basic(wrong))).await;
                assert_eq!(login, Login::Wrong, "{wrong:?}");
            }
            for header in ["Bearer YWxpOm9wZW4gc2VzYW1l", "Basic", "Basic !", "basic  "] {
                let header = HeaderValue::from_static(header);
                assert_eq!(users.login(HERE, Some(&header)).await, Login::Wrong);
            }
            assert_eq!(users.login(HERE, None).await, Login::Missing);
        }
        assert_eq!(users.remembered.lock().unwrap().len(), 1);
    }

    /// A runtime whose one thread for verifications is busy until the sender sends.
    fn busy_runtime() -> (tokio::runtime::Runtime, mpsc::Sender<()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().max_blocking_threads(1).build();
        let runtime = runtime.unwrap();
        let (go, gone) = mpsc::channel();
        runtime.spawn_blocking(move || gone.recv());
        (runtime, go)
    }

    /// Until nothing is verified any more.
    async fn all_done(users: &Users) {
        let all = users.places.acquire_many(u32::try_from(AT_ONCE).unwrap());
        let all = tokio::time::timeout(Duration::from_secs(60), all).await;
        drop(all.expect("no end").unwrap());
    }

    #[test]
    fn a_verification_keeps_its_place_when_its_client_hangs_up() {
        let users = users();
        let right = basic("ali:open sesame");
        let (runtime, go) = busy_runtime();
        runtime.block_on(async {
            for header in [right.clone(), basic("ali:guess"), basic("ali:another")] {
                // Asked once, which begins it if there is a place, and dropped, as when the client has gone.
                let login = users.login(HERE, Some(&header)).now_or_never();
                assert_eq!(login, None);
            }
            assert_eq!(users.places.available_permits(), 0);
            go.send(()).unwrap();
            all_done(&users).await;
            // What was found right is remembered all the same.
            let login = users.login(HERE, Some(&right)).now_or_never();
            assert_eq!(login, Some(Login::Admitted("ali".to_owned())));
        });
    }

    #[test]
    fn who_guesses_waits_in_a_queue_of_his_own_and_a_user_with_many_requests_takes_one_place() {
        let users = users();
        let (runtime, go) = busy_runtime();
        runtime.block_on(async {
            let wrong: Vec<_> = (0..100)
                .map(|number| basic(&format!("ali:{number}")))
                .collect();
            let guesses = wrong
                .iter()
                .map(|guess| users.login(ELSEWHERE, Some(guess)).boxed());
            let mut waiting = Vec::new();
            for mut guess in guesses {
                match guess.as_mut().now_or_never() {
                    None => waiting.push(guess),
                    Some(refused) => assert_eq!(refused, Login::Busy),
                }
            }
            assert_eq!(waiting.len(), MOST_WAITING);

            let right = basic("ali:open sesame");
            let mut many: Vec<_> = (0..100)
                .map(|_| users.login(HERE, Some(&right)).boxed())
                .collect();
            for login in &mut many {
                assert_eq!(login.as_mut().now_or_never(), None);
            }
            go.send(()).unwrap();
            let all = join_all(waiting.into_iter().chain(many));
            let all = tokio::time::timeout(Duration::from_secs(60), all).await;
            let all = all.expect("no end");
            let (refused, many) = all.split_at(MOST_WAITING);
            assert!(refused.iter().all(|login| *login == Login::Wrong));
            let ali = Login::Admitted("ali".to_owned());
            assert!(many.iter().all(|login| *login == ali));
            // Nobody waits any more: there is room again.
            let guess = basic("ali:another");
            assert_eq!(users.login(ELSEWHERE, Some(&guess)).await, Login::Wrong);
        });
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let users = users();
        for number in 0..1000_u32 {
            users.remember(users.fingerprint("ali", &number.to_be_bytes()));
        }
        assert_eq!(users.remembered.lock().unwrap().len(), MOST_REMEMBERED);
        assert!(users.remembers(&users.fingerprint("ali", &999_u32.to_be_bytes())));
        assert!(!users.remembers(&users.fingerprint("ali", &0_u32.to_be_bytes())));
    }

    #[test]
    fn an_unknown_user_costs_as_much_as_the_dearest_known_one() {
        let hashes = [("a", 5), ("b", 6), ("c", 4)]
            .map(|(user, cost)| (user.to_owned(), bcrypt::hash("x", cost).unwrap()));
        let users = Users::new(hashes.into()).unwrap().unwrap();
        assert!(users.decoy.starts_with("$2b$06$"), "{}", users.decoy);
    }

    #[test]
    fn what_a_cheaper_hash_costs_less_is_made_up_for() {
        let hash =
            |cost| format!("$2b${cost:02}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi");
        let hashes = [("cheap", hash(4)), ("middling", hash(6)), ("dear", hash(9))];
        let users = Users::new(hashes.map(|(user, hash)| (user.to_owned(), hash)).into());
        let users = users.unwrap().unwrap();
        for (cost, hash) in [
            (4, hash(4)),
            (6, hash(6)),
            (9, hash(9)),
            (9, users.decoy.clone()),
        ] {
            let missing: u32 = users.missing_costs(&hash).map(|cost| 1 << cost).sum();
            assert_eq!((1 << cost) + missing, 1 << 9, "{hash}");
        }
    }
}
