//! HTTP Basic authentication. bcrypt is slow on purpose, so passwords are verified off the async threads, few at a time, and
//! a right one is remembered. Clients wait in the order in which they came. The limit of connections bounds how many wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderValue;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::lock::lock;

/// How many passwords are verified at once: a client that guesses gets no more CPU time than this.
const AT_ONCE: usize = 2;

/// The result of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// This user logged in.
    Admitted(String),
    /// The request has no credentials.
    Missing,
    /// The credentials are not those of a user, or not of HTTP Basic authentication.
    Wrong,
}

/// A salted hash of a password. The salt never leaves this process.
type Fingerprint = [u8; 32];

/// The users in the web configuration file. When the file is read again, remembered passwords are forgotten.
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// The hash of the greatest cost: the password of an unknown user is compared with it, and takes as long.
    decoy: String,
    salt: [u8; 32],
    /// The last right password of each user.
    verified: Mutex<BTreeMap<String, Fingerprint>>,
    places: Arc<Semaphore>,
}

impl Users {
    /// `None` without any user. An error means that there are no random numbers.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Option<Self>, String> {
        // A hash begins with its cost: `$2b$10$…`.
        let cost = |hash: &&String| hash.get(4..6).map(str::to_owned);
        let Some(decoy) = hashes.values().max_by_key(cost).cloned() else {
            return Ok(None);
        };
        let mut salt = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random
            .fill(&mut salt)
            .map_err(|_| "no random numbers are available".to_owned())?;
        Ok(Some(Self {
            hashes,
            decoy,
            salt,
            verified: Mutex::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }))
    }

    /// Verifies the value of an `Authorization` header.
    pub(super) async fn login(self: &Arc<Self>, authorization: Option<&HeaderValue>) -> Login {
        let Some(header) = authorization else {
            return Login::Missing;
        };
        let Some((user, password)) = credentials(header) else {
            return Login::Wrong;
        };
        let hashed = Sha256::new()
            .chain_update(self.salt)
            .chain_update(&password);
        let fingerprint = hashed.finalize().into();
        if self.is_verified(&user, &fingerprint) {
            return Login::Admitted(user);
        }
        // The semaphore is never closed, and fair.
        let place = Arc::clone(&self.places).acquire_owned().await;
        // An earlier client in the queue may have had the same credentials.
        if self.is_verified(&user, &fingerprint) {
            return Login::Admitted(user);
        }
        let users = Arc::clone(self);
        // A verification cannot be stopped, so it keeps its place to its end, even if the client disconnects.
        let verified = tokio::task::spawn_blocking(move || {
            let _place = place;
            users.verify(user, &password, fingerprint)
        });
        verified.await.unwrap_or(Login::Wrong)
    }

    fn verify(&self, user: String, password: &[u8], fingerprint: Fingerprint) -> Login {
        let hash = self.hashes.get(&user);
        let right = bcrypt::verify(password, hash.unwrap_or(&self.decoy)).unwrap_or(false);
        if hash.is_none() || !right {
            return Login::Wrong;
        }
        let mut verified = lock(&self.verified);
        verified.insert(user.clone(), fingerprint);
        Login::Admitted(user)
    }

    fn is_verified(&self, user: &str, fingerprint: &Fingerprint) -> bool {
        let verified = lock(&self.verified);
        let known = verified.get(user);
        known.is_some_and(|known| known.ct_eq(fingerprint).into())
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
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

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
            let right = users.login(Some(&basic("ali:open sesame"))).await;
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
                let login = users.login(Some(&basic(wrong))).await;
                assert_eq!(login, Login::Wrong, "{wrong:?}");
            }
            for header in ["Bearer YWxpOm9wZW4gc2VzYW1l", "Basic", "Basic !", "basic  "] {
                let header = HeaderValue::from_static(header);
                assert_eq!(users.login(Some(&header)).await, Login::Wrong);
            }
            assert_eq!(users.login(None).await, Login::Missing);
        }
        assert_eq!(users.verified.lock().unwrap().len(), 1);
    }

    /// A runtime whose only thread for verifications is busy until the sender sends.
    fn busy_runtime() -> (tokio::runtime::Runtime, mpsc::Sender<()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().max_blocking_threads(1).build();
        let runtime = runtime.unwrap();
        let (go, gone) = mpsc::channel();
        runtime.spawn_blocking(move || gone.recv());
        (runtime, go)
    }

    #[test]
    fn a_client_that_disconnects_frees_no_place_for_another_verification() {
        let users = users();
        let right = basic("ali:open sesame");
        let (runtime, go) = busy_runtime();
        runtime.block_on(async {
            for header in [right.clone(), basic("ali:guess"), basic("ali:another")] {
                // Polled once, which starts it if there is a place, then dropped, as when the client disconnects.
                let login = users.login(Some(&header)).now_or_never();
                assert_eq!(login, None);
            }
            // The two that started keep their places, although no client waits for them.
            assert_eq!(users.places.available_permits(), 0);
            go.send(()).unwrap();
            let all = users.places.acquire_many(u32::try_from(AT_ONCE).unwrap());
            let all = tokio::time::timeout(Duration::from_secs(60), all).await;
            drop(all.expect("no end").unwrap());
            // The right password is remembered all the same.
            let login = users.login(Some(&right)).now_or_never();
            assert_eq!(login, Some(Login::Admitted("ali".to_owned())));
        });
    }

    #[test]
    fn password_guessing_does_not_block_users_who_logged_in_before() {
        let users = users();
        let (runtime, go) = busy_runtime();
        let right = basic("ali:open sesame");
        let fingerprint = Sha256::new()
            .chain_update(users.salt)
            .chain_update("open sesame");
        let ali = users.verify(
            "ali".to_owned(),
            b"open sesame",
            fingerprint.finalize().into(),
        );
        runtime.block_on(async {
            let guesses: Vec<_> = (0..100)
                .map(|number| basic(&format!("ali:{number}")))
                .collect();
            let mut waiting: Vec<_> = guesses
                .iter()
                .map(|guess| users.login(Some(guess)).boxed())
                .collect();
            for guess in &mut waiting {
                assert_eq!(guess.now_or_never(), None);
            }
            assert_eq!(users.login(Some(&right)).now_or_never(), Some(ali));
            go.send(()).unwrap();
            for guess in waiting {
                assert_eq!(guess.await, Login::Wrong);
            }
        });
    }

    #[test]
    fn an_unknown_user_takes_as_long_as_the_known_user_with_the_greatest_cost() {
        let hashes = [("a", 5), ("b", 6), ("c", 4)]
            .map(|(user, cost)| (user.to_owned(), bcrypt::hash("x", cost).unwrap()));
        let users = Users::new(hashes.into()).unwrap().unwrap();
        assert!(users.decoy.starts_with("$2b$06$"), "{}", users.decoy);
    }
}
