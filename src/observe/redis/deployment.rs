//! The validated settings for Redis: its servers (one server, nodes of a cluster, or sentinels), login and TLS. `connector`
//! makes the connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::credentials::{Secret, SecretSource, TlsSource};
use crate::observe::redis::address::host_of;

/// Where Redis is and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisDeployment {
    /// The addresses to begin with, one at least: the server, nodes of the cluster, or the sentinels. Each is a `host:port`
    /// or the path of a Unix socket.
    pub seeds: Vec<String>,
    /// The name by which the sentinels know the primary. `None` if the seeds are not sentinels.
    pub sentinel_master: Option<String>,
    /// The number of the database.
    pub database: i64,
    /// The Redis user and password.
    pub login: Login,
    /// The user and password at the sentinels.
    pub sentinel_login: Login,
    /// TLS to Redis and to the sentinels. `None` for plain TCP.
    pub tls: Option<Tls>,
    /// The timeout for connecting, and for one answer.
    pub timeout: Duration,
    /// Whether the sweep reads from a replica if there is one.
    pub prefer_replica: bool,
}

/// A user and a password. Both are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub username: Option<String>,
    /// The password. Each new connection uses its current value.
    pub password: Option<SecretSource>,
}

/// TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The trusted authorities and the client's certificate. Each new connection uses their current values.
    pub source: TlsSource,
    /// The name that certificates must contain. `None` for the host of the address.
    pub server_name: Option<ServerName<'static>>,
}

/// The settings that all connections of one kind share.
#[derive(Debug)]
pub(in crate::observe) struct Access {
    login: Login,
    pub(in crate::observe) database: i64,
    pub(in crate::observe) tls: Option<Tls>,
    pub(in crate::observe) timeout: Duration,
    /// The log already says that Redis needs no password.
    said_unwanted: AtomicBool,
}

impl Tls {
    /// A connector with the current certificates.
    pub(in crate::observe) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.source.current())
    }

    /// The name that the certificate of `address` (`host:port`) must contain.
    pub(in crate::observe) fn name_at(&self, address: &str) -> Result<ServerName<'static>, String> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        let host = host_of(address)
            .trim_start_matches('[')
            .trim_end_matches(']');
        ServerName::try_from(host.to_owned())
            .map_err(|error| format!("{host}: not a valid name for a certificate: {error}"))
    }
}

impl Access {
    /// The user and the current password. A user without a password needs none.
    pub(in crate::observe) fn credentials(&self) -> Option<(Option<&str>, Option<Secret>)> {
        let user = self.login.username.as_deref();
        let password = self.login.password.as_ref().map(SecretSource::current);
        (user.is_some() || password.is_some()).then_some((user, password))
    }

    /// Notes that Redis accepted the password.
    pub(in crate::observe) fn note_password_wanted(&self) {
        self.said_unwanted.store(false, Ordering::Relaxed);
    }

    /// Notes that Redis at `address` has no password. That is no failure, because passwords are rolled out in steps. It is
    /// logged once.
    pub(in crate::observe) fn note_password_unwanted(&self, address: &str) {
        if !self.said_unwanted.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "Redis at {address} has no password, although one is configured: connecting without a login"
            );
        }
    }
}

impl RedisDeployment {
    /// Whether `other` leads to the same data: both have a seed, the database, and the sentinels' name of the primary in
    /// common.
    pub(in crate::observe) fn same_place(&self, other: &Self) -> bool {
        let common = self.seeds.iter().any(|seed| other.seeds.contains(seed));
        common && self.sentinel_master == other.sentinel_master && self.database == other.database
    }

    /// Access to the servers that hold data, or to the sentinels, by their `login`.
    pub(in crate::observe) fn access(&self, login: &Login, database: i64) -> Arc<Access> {
        Arc::new(Access {
            login: login.clone(),
            database,
            tls: self.tls.clone(),
            timeout: self.timeout,
            said_unwanted: AtomicBool::new(false),
        })
    }
}
