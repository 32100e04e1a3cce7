//! `--redis.*`: the URL, logins, and TLS. The URL may name several hosts, which no URL parser accepts as a whole.

use percent_encoding::percent_decode_str;
use reqwest::Url;
use rustls::pki_types::ServerName;

use super::ConfigError;
use super::reader::{Kind, SWITCH, TIMEOUT};
use super::settings::Values;
use crate::credentials::{Secret, SecretSource};
use crate::observe::{Login, RedisDeployment, Tls};

const EXPECTED: &str = "redis://[USER@]HOST:PORT[,HOST:PORT…][/DB], redis+sentinel://[USER@]HOST:PORT[,HOST:PORT…]/NAME[/DB] \
     or redis+unix://[USER@]/PATH[?db=DB], with rediss for TLS, or valkey and valkeys, the password in \
     --redis.password-file";

const SERVER_NAME: Kind<ServerName<'static>> = ("a host name or an IP address", |name| {
    ServerName::try_from(name.to_owned()).ok()
});

impl Values {
    pub(super) fn redis(&self) -> Result<RedisDeployment, ConfigError> {
        let typed = self.typed("redis.url").unwrap_or_default();
        let url = RedisUrl::parse(typed.text()).ok_or_else(|| typed.refused_url(EXPECTED))?;
        let password = self.secret("redis.password-file")?;
        let tls = self.redis_tls(url.tls)?;
        Ok(RedisDeployment {
            seeds: url.seeds,
            sentinel_master: url.master,
            database: url.database,
            login: Login {
                username: self.text("redis.username").or(url.username),
                password: password.or(url.password.map(SecretSource::fixed)),
            },
            sentinel_login: Login {
                username: self.text("redis.sentinel-username"),
                password: self.secret("redis.sentinel-password-file")?,
            },
            tls,
            timeout: self.get("redis.timeout", TIMEOUT)?,
            prefer_replica: self.get("redis.prefer-replica", SWITCH)?,
        })
    }

    fn redis_tls(&self, wanted: bool) -> Result<Option<Tls>, ConfigError> {
        let [authorities, chain, key] = [
            "redis.tls-ca-file",
            "redis.tls-cert-file",
            "redis.tls-key-file",
        ];
        if !wanted {
            let mut given = [authorities, chain, key, "redis.tls-server-name"].into_iter();
            // A user who gives certificates would not notice that they are not used.
            if let Some(typed) = given.find_map(|flag| self.given(flag)) {
                let expected = "a URL of rediss:// or rediss+sentinel:// in --redis.url with it";
                return Err(typed.refused(expected));
            }
            return Ok(None);
        }
        let identity = match (self.given(chain), self.given(key)) {
            (Some(_), Some(_)) => Some([chain, key]),
            (None, None) => None,
            (Some(alone), None) | (None, Some(alone)) => {
                let expected = "both --redis.tls-cert-file and --redis.tls-key-file";
                return Err(alone.refused(expected));
            }
        };
        let server_name = self.optional("redis.tls-server-name", SERVER_NAME)?;
        Ok(Some(Tls {
            source: self.tls_source(authorities, identity)?,
            server_name,
        }))
    }
}

/// The parts of `--redis.url`.
#[derive(Debug, Default)]
struct RedisUrl {
    tls: bool,
    seeds: Vec<String>,
    master: Option<String>,
    database: i64,
    username: Option<String>,
    password: Option<Secret>,
}

impl RedisUrl {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (server, way) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match server {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return None,
        };
        let sentinel = match way {
            "" => false,
            "sentinel" => true,
            "unix" if !tls => return Self::of_socket(rest),
            _ => return None,
        };
        if rest.contains(['?', '#']) {
            return None;
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let mut url = Self {
            tls,
            ..Self::default()
        };
        let usual_port = if sentinel { 26379 } else { 6379 };
        for host in hosts.split(',') {
            let parsed = Url::parse(&format!("redis://{}", host.trim())).ok()?;
            let name = parsed.host_str().filter(|name| !name.is_empty())?;
            let bare = matches!(parsed.path(), "" | "/") && parsed.username().is_empty();
            let port = parsed.port().unwrap_or(usual_port);
            bare.then(|| url.seeds.push(format!("{name}:{port}")))?;
        }
        url.set_user(user);
        let mut parts = path.trim_end_matches('/').split('/');
        if sentinel {
            let master = percent_decode_str(parts.next()?).decode_utf8().ok()?;
            url.master = Some(master.into_owned()).filter(|master| !master.is_empty());
            url.master.as_ref()?;
        }
        url.database = match parts.next() {
            None | Some("") => 0,
            Some(number) => i64::from(number.parse::<u32>().ok()?),
        };
        parts.next().is_none().then_some(url)
    }

    /// `[USER@]/PATH[?db=DB]`: other clients of Redis write the database this way, too.
    fn of_socket(rest: &str) -> Option<Self> {
        let (user, path) = rest.split_at(rest.find('/')?);
        let (path, database) = path.split_once("?db=").unwrap_or((path, "0"));
        if path.contains(['?', '#']) || path.len() < 2 {
            return None;
        }
        let path = percent_decode_str(path).decode_utf8().ok()?.into_owned();
        let mut url = Self {
            seeds: vec![path],
            database: i64::from(database.parse::<u32>().ok()?),
            ..Self::default()
        };
        match user {
            "" => {}
            user => url.set_user(Some(user.strip_suffix('@')?)),
        }
        Some(url)
    }

    /// Sets user and password to what is before the at sign.
    fn set_user(&mut self, user: Option<&str>) {
        let Some(user) = user else { return };
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        self.username = Some(decoded(name)).filter(|name| !name.is_empty());
        self.password = Some(decoded(password))
            .filter(|password| !password.is_empty())
            .map(Secret::new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_one_server_several_nodes_or_sentinels() {
        for (text, shown) in [
            ("redis://h", "h:6379 db 0"),
            ("redis://h:1/2", "h:1 db 2"),
            ("redis://h:1/2/", "h:1 db 2"),
            ("rediss://a:1,b,[::1]:3", "tls a:1 b:6379 [::1]:3 db 0"),
            ("redis+sentinel://a,b:5/prime", "a:26379 b:5 of prime db 0"),
            (
                "rediss+sentinel://me@a/prime/7",
                "tls a:26379 of prime db 7 as me",
            ),
            ("valkey://h:1/2", "h:1 db 2"),
            ("valkeys://h", "tls h:6379 db 0"),
            ("valkeys+sentinel://a/prime", "tls a:26379 of prime db 0"),
            ("redis+unix:///run/redis.sock", "/run/redis.sock db 0"),
            ("valkey+unix:///run/a%20b?db=3", "/run/a b db 3"),
            ("redis+unix://me:x@/run/@:sock", "/run/@:sock db 0 as me"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            let mut parts: Vec<String> = Vec::new();
            parts.extend(url.tls.then(|| "tls".to_owned()));
            parts.extend(url.seeds);
            parts.extend(url.master.map(|master| format!("of {master}")));
            parts.push(format!("db {}", url.database));
            parts.extend(url.username.map(|name| format!("as {name}")));
            assert_eq!(parts.join(" "), shown, "{text}");
        }
        for wrong in [
            "h:1",
            "http://h",
            "redis://",
            "redis://a,,b",
            "redis://a:1:2",
            "redis://a/x",
            "redis://a/1/2",
            "redis://a?x=1",
            "redis+sentinel://a",
            "redis+sentinel:///prime",
            "redis+unix://",
            "redis+unix:///",
            "redis+unix://run/redis.sock",
            "redis+unix:///run/redis.sock?db=x",
            "redis+unix:///run/redis.sock?password=x",
            "rediss+unix:///run/redis.sock",
            "redis+http://h",
            "keydb://h",
        ] {
            assert!(RedisUrl::parse(wrong).is_none(), "{wrong}");
        }
    }
}
