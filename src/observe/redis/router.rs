//! Sends commands to the servers that hold their keys: all to one, or by slot to the primaries of a cluster, and on to
//! where a key has moved. Decides nothing about what the answers mean.

use std::collections::BTreeMap;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::task::JoinSet;

use crate::observe::redis::address::host_of;
use crate::observe::redis::errors::breaks;

/// How often an answer that a key is elsewhere is followed: once to where it is on its way to, once more from there.
const MOST_HOPS: usize = 3;

/// One server that holds keys, and the connection to it, or why there is none.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Link {
    /// The primary's `host:port`, by which redirects name it.
    pub(in crate::observe) primary: String,
    pub(in crate::observe) connection: Result<MultiplexedConnection, RedisError>,
}

/// Which link serves which slots: ranges in rising order, both ends included. Empty if there are no slots.
pub(in crate::observe) type Slots = Vec<(u16, u16, usize)>;

/// Where each key is asked for.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct Router {
    links: Vec<Link>,
    slots: Option<Slots>,
}

/// Answers in the order of the commands, and the links that broke on the way.
#[derive(Debug, Default)]
pub(in crate::observe) struct Answers {
    pub(in crate::observe) each: Vec<RedisResult<Value>>,
    pub(in crate::observe) broken: BTreeMap<usize, RedisError>,
}

/// A command on its way: its place in the order, where to, and whether it follows a redirect.
struct Routed {
    place: usize,
    link: usize,
    redirected: bool,
}

impl Router {
    /// With `slots`, keys go by their slots; without, all go to the only link.
    pub(in crate::observe) fn new(links: Vec<Link>, slots: Option<Slots>) -> Self {
        Self { links, slots }
    }

    pub(in crate::observe) fn links(&self) -> &[Link] {
        &self.links
    }

    /// Whether keys go by their slots.
    pub(in crate::observe) fn is_cluster(&self) -> bool {
        self.slots.is_some()
    }

    /// The link that `key` (the whole name) is asked for at.
    pub(in crate::observe) fn link_of(&self, key: &[u8]) -> Option<usize> {
        let Some(slots) = &self.slots else {
            return (!self.links.is_empty()).then_some(0);
        };
        let slot = slot_of(key);
        let after = slots.partition_point(|(first, ..)| *first <= slot);
        let (_, last, link) = slots.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(*link)
    }

    /// Asks each command about its key.
    pub(in crate::observe) async fn ask(&self, commands: Vec<(Vec<u8>, Cmd)>) -> Answers {
        let mut answers = Answers::default();
        let mut batch = Vec::with_capacity(commands.len());
        for (place, (key, _)) in commands.iter().enumerate() {
            let link = self.link_of(key);
            answers.each.push(Err(unserved()));
            batch.extend(link.map(|link| Routed {
                place,
                link,
                redirected: false,
            }));
        }
        for _ in 0..MOST_HOPS {
            if batch.is_empty() {
                break;
            }
            let mut redirected = Vec::new();
            for (routed, answer) in self.send(&commands, batch).await {
                if let Err(error) = &answer {
                    if breaks(error) {
                        answers.broken.insert(routed.link, error.clone());
                    } else if let Some(link) = self.redirect(error, routed.link) {
                        redirected.push(Routed {
                            place: routed.place,
                            link,
                            redirected: true,
                        });
                    }
                }
                answers.each[routed.place] = answer;
            }
            batch = redirected;
        }
        answers
    }

    /// One pipeline to each link that has commands, all at once.
    async fn send(
        &self,
        commands: &[(Vec<u8>, Cmd)],
        batch: Vec<Routed>,
    ) -> Vec<(Routed, RedisResult<Value>)> {
        let mut by_link: BTreeMap<usize, (Pipeline, Vec<Routed>)> = BTreeMap::new();
        for routed in batch {
            let (pipe, batch) = by_link.entry(routed.link).or_default();
            if routed.redirected {
                // Without it, a server refuses a key that is still on its way to it; otherwise it does nothing.
                pipe.cmd("ASKING");
            }
            pipe.add_command(commands[routed.place].1.clone());
            batch.push(routed);
        }
        let mut asked = JoinSet::new();
        for (link, (mut pipe, batch)) in by_link {
            pipe.ignore_errors();
            let connection = self.links[link].connection.clone();
            asked.spawn(async move {
                let answers: RedisResult<Vec<RedisResult<Value>>> = match connection {
                    Ok(mut connection) => pipe.query_async(&mut connection).await,
                    Err(error) => Err(error),
                };
                (batch, answers)
            });
        }
        let mut answered = Vec::new();
        while let Some(done) = asked.join_next().await {
            // A task of ours neither panics nor is aborted while the set lives.
            let Ok((batch, answers)) = done else {
                continue;
            };
            match answers {
                Ok(answers) => {
                    let mut answers = answers.into_iter();
                    for routed in batch {
                        if routed.redirected {
                            answers.next();
                        }
                        let answer = answers.next().unwrap_or_else(|| Err(unserved()));
                        answered.push((routed, answer));
                    }
                }
                Err(error) => {
                    answered.extend(batch.into_iter().map(|routed| (routed, Err(error.clone()))));
                }
            }
        }
        answered
    }

    /// The link that `error` sends us to. An address without a host is on the host that said so.
    fn redirect(&self, error: &RedisError, from: usize) -> Option<usize> {
        let (address, _) = error.redirect_node()?;
        let address = match address.strip_prefix(':') {
            Some(port) => format!("{}:{port}", host_of(&self.links[from].primary)),
            None => address.to_owned(),
        };
        self.links.iter().position(|link| link.primary == address)
    }
}

fn unserved() -> RedisError {
    let kind = ErrorKind::Server(ServerErrorKind::ClusterDown);
    (kind, "no primary serves the key's slot").into()
}

/// The slot of a key: CRC16 of what stands between the first braces, if anything does, else of the whole key.
pub(in crate::observe) fn slot_of(key: &[u8]) -> u16 {
    const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);
    let tag = key.iter().position(|&c| c == b'{').and_then(|open| {
        let inside = &key[open + 1..];
        let close = inside.iter().position(|&c| c == b'}')?;
        (close > 0).then(|| &inside[..close])
    });
    CRC.checksum(tag.unwrap_or(key)) % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_cluster_keyslot() {
        // As Redis 7.0 answers CLUSTER KEYSLOT.
        for (key, slot) in [
            ("123456789", 12739),
            ("foo", 12182),
            ("{foo}bar", 12182),
            ("a{foo}{bar}", 12182),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}", 4015),
            ("", 0),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn keys_go_by_their_slots_and_unserved_slots_to_nobody() {
        let link = |primary: &str| Link {
            primary: primary.to_owned(),
            connection: Err(unserved()),
        };
        let links = vec![link("a:1"), link("b:1")];
        let router = Router::new(links, Some(vec![(0, 100, 0), (8000, 16383, 1)]));
        assert_eq!(router.link_of(b""), Some(0));
        assert_eq!(router.link_of(b"foo"), Some(1));
        assert_eq!(router.link_of(b"foo{{bar}}"), None);
        let single = Router::new(vec![link("a:1")], None);
        assert_eq!(single.link_of(b"foo{{bar}}"), Some(0));
        assert_eq!(Router::default().link_of(b"foo"), None);
    }
}
