//! Where Redis is and how to log in there, validated: one server, the nodes of a cluster, or sentinels that know the
//! primary. Makes the settings of a connection; the connecting itself is `connector`'s.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisConnectionInfo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::credentials::{SecretSource, TlsSource};

/// Where Redis is and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTarget {
    /// `host:port` of the servers to begin with, one at least: the server, nodes of the cluster, or the sentinels.
    pub seeds: Vec<String>,
    /// By what name the sentinels know the primary; `None` if the seeds are no sentinels.
    pub sentinel_master: Option<String>,
    /// The number of the database.
    pub database: i64,
    /// The Redis user and password.
    pub login: Login,
    /// The user and password at the sentinels.
    pub sentinel_login: Login,
    /// TLS to Redis and to the sentinels; `None` for plain TCP.
    pub tls: Option<Tls>,
    /// For connecting, and for one answer.
    pub timeout: Duration,
    /// Whether the sweep reads from a replica where there is one.
    pub prefer_replica: bool,
}

/// A user and a password, as far as they are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub username: Option<String>,
    /// The password, as it is when a connection is made.
    pub password: Option<SecretSource>,
}

/// TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whom to trust and how to show oneself, as it is when a connection is made.
    pub source: TlsSource,
    /// The name that certificates must bear; `None` for the host of the address.
    pub server_name: Option<String>,
}

/// What every connection of one kind is made with.
pub(super) struct Access {
    login: Login,
    database: i64,
    pub(super) tls: Option<TlsAccess>,
    pub(super) timeout: Duration,
}

/// How TLS is spoken.
pub(super) struct TlsAccess {
    source: TlsSource,
    name: Option<ServerName<'static>>,
}

impl TlsAccess {
    /// What makes a connection, with certificates as they are now.
    pub(super) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.source.current())
    }

    /// The name that the certificate of `address` (`host:port`) must bear.
    pub(super) fn name_at(&self, address: &str) -> Result<ServerName<'static>, String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(host.to_owned())
            .map_err(|error| format!("{host}: no name for a certificate: {error}"))
    }
}

impl Access {
    /// How a connection begins, with the password as it is now.
    pub(super) fn settings(&self) -> RedisConnectionInfo {
        self.login.settings().set_db(self.database)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl RedisTarget {
    /// Whether `other` leads to the same data, however it is reached: they have a host in common, the database, and what
    /// the sentinels know the primary by.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        let common = self.seeds.iter().any(|seed| other.seeds.contains(seed));
        common && self.sentinel_master == other.sentinel_master && self.database == other.database
    }

    /// Access to the servers that hold data.
    pub(super) fn access(&self) -> Result<Arc<Access>, String> {
        self.access_with(&self.login, self.database)
    }

    /// Access to the sentinels.
    pub(super) fn sentinel_access(&self) -> Result<Arc<Access>, String> {
        self.access_with(&self.sentinel_login, 0)
    }

    fn access_with(&self, login: &Login, database: i64) -> Result<Arc<Access>, String> {
        let tls = match &self.tls {
            None => None,
            Some(tls) => {
                let name = match &tls.server_name {
                    None => None,
                    Some(name) => Some(
                        ServerName::try_from(name.clone())
                            .map_err(|error| format!("the server name {name:?}: {error}"))?,
                    ),
                };
                Some(TlsAccess {
                    source: tls.source.clone(),
                    name,
                })
            }
        };
        Ok(Arc::new(Access {
            login: login.clone(),
            database,
            tls,
            timeout: self.timeout,
        }))
    }
}

impl Login {
    fn settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.current().expose());
        }
        settings
    }
}
