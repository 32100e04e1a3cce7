//! Sends each command to the server that holds its key: to the only server, or in a cluster to the primary of the key's
//! slot. Follows redirects. Does not interpret the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use crate::observe::redis::address::host_of;
use crate::observe::redis::errors::breaks;
use crate::observe::redis::timed::TimedPipeline;

/// How often one command is sent at most: to the slot's primary, to the server that a redirect names, and once more from
/// there.
const MOST_HOPS: usize = 3;

/// One server that holds keys, and the connection to it, or why there is none.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Link {
    /// The primary's `host:port`, by which redirects name it.
    pub(in crate::observe) primary: String,
    pub(in crate::observe) connection: Result<MultiplexedConnection, RedisError>,
    /// Whether the server measures how long commands take: the Redis user may run TIME.
    pub(in crate::observe) timed: bool,
}

/// Which link serves which slots: ranges in rising order, both ends included. Empty if there are no slots.
pub(in crate::observe) type Slots = Vec<(u16, u16, usize)>;

/// Routes commands to the servers that hold their keys.
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
    /// How long the slowest server took, if all servers measured that.
    pub(in crate::observe) took: Option<Duration>,
}

/// A command under way: its place in the order, its link, and whether it follows a redirect.
struct Routed {
    place: usize,
    link: usize,
    redirected: bool,
}

impl Router {
    /// With `slots`, each key goes to the link of its slot. Without, all keys go to the only link.
    pub(in crate::observe) fn new(links: Vec<Link>, slots: Option<Slots>) -> Self {
        Self { links, slots }
    }

    pub(in crate::observe) fn links(&self) -> &[Link] {
        &self.links
    }

    /// Whether keys are routed by slot.
    pub(in crate::observe) fn is_cluster(&self) -> bool {
        self.slots.is_some()
    }

    /// The link that holds `key` (the whole name).
    pub(in crate::observe) fn link_of(&self, key: &[u8]) -> Option<usize> {
        let Some(slots) = &self.slots else {
            return (!self.links.is_empty()).then_some(0);
        };
        let slot = slot_of(key);
        let after = slots.partition_point(|(first, ..)| *first <= slot);
        let (_, last, link) = slots.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(*link)
    }

    /// Sends each command to the link of its key, and follows redirects.
    pub(in crate::observe) async fn ask(
        &self,
        mut commands: Vec<(impl AsRef<[u8]>, Cmd)>,
    ) -> Answers {
        let mut answers = Answers {
            took: Some(Duration::ZERO),
            ..Answers::default()
        };
        let mut batch = Vec::with_capacity(commands.len());
        for (place, (key, _)) in commands.iter().enumerate() {
            let link = self.link_of(key.as_ref());
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
            let (answered, took) = self.send(&mut commands, batch).await;
            answers.took = answers.took.zip(took).map(|(one, other)| one + other);
            for (routed, answer) in answered {
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

    /// Sends one pipeline to each link that has commands, all at the same time. Returns how long the slowest server took, if all
    /// servers measured that.
    async fn send(
        &self,
        commands: &mut [(impl Sized, Cmd)],
        batch: Vec<Routed>,
    ) -> (Vec<(Routed, RedisResult<Value>)>, Option<Duration>) {
        let mut by_link: BTreeMap<usize, (TimedPipeline, Vec<Routed>)> = BTreeMap::new();
        for routed in batch {
            let link = by_link.entry(routed.link);
            let new = || {
                (
                    TimedPipeline::new(self.links[routed.link].timed),
                    Vec::new(),
                )
            };
            let (pipe, batch) = link.or_insert_with(new);
            if routed.redirected {
                // Without ASKING, a server refuses a key that is still being moved to it. For other keys it changes
                // nothing.
                pipe.add(redis::cmd("ASKING"));
            }
            let command = &mut commands[routed.place].1;
            // Only a cluster redirects.
            pipe.add(match self.slots {
                Some(_) => command.clone(),
                None => std::mem::take(command),
            });
            batch.push(routed);
        }
        let asked = by_link.into_iter().map(|(link, (pipe, batch))| async move {
            let answers = match self.links[link].connection.clone() {
                Ok(mut connection) => pipe.send(&mut connection).await,
                Err(error) => Err(error),
            };
            (batch, answers)
        });
        let (mut answered, mut slowest) = (Vec::new(), Some(Duration::ZERO));
        for (batch, answers) in join_all(asked).await {
            match answers {
                Ok((answers, took)) => {
                    slowest = slowest.zip(took).map(|(one, other)| one.max(other));
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
                    slowest = None;
                    answered.extend(batch.into_iter().map(|routed| (routed, Err(error.clone()))));
                }
            }
        }
        (answered, slowest)
    }

    /// The link that `error` redirects to. An address without a host means the host of the server that answered.
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

/// The slot of a key: CRC16 of its hash tag (the text in the first braces) unless that is empty, else of the whole key.
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
    fn keys_are_routed_by_slot_and_unserved_slots_have_no_link() {
        let link = |primary: &str| Link {
            primary: primary.to_owned(),
            connection: Err(unserved()),
            timed: false,
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
