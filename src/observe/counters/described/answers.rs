//! Translates the asks of a description into Redis commands, and Redis replies into its answers. No I/O.

use redis::{Cmd, RedisError, RedisResult, Value};

use crate::limiters::{Answer, Ask, MOST_BYTES, MOST_ENTRIES};
use crate::observation::Reason;
use crate::observe::redis::errors::{breaks, reason_of};

/// A command and its key.
pub(super) type Keyed<'a> = (&'a [u8], Cmd);

pub(super) fn keyed<'a>(name: &str, key: &'a [u8]) -> Keyed<'a> {
    // Room for the usual words besides the key.
    let mut command = Cmd::with_capacity(4, 32 + key.len());
    command.arg(name).arg(key);
    (key, command)
}

/// The command for `ask`.
pub(super) fn command(ask: &Ask) -> Keyed<'_> {
    let name = match ask {
        Ask::Type(_) => "TYPE",
        Ask::Pttl(_) => "PTTL",
        Ask::Exists(_) => "EXISTS",
        Ask::Get(_) => "GETRANGE",
        Ask::HasField(..) => "HEXISTS",
        Ask::Fields(..) => "HMGET",
        Ask::AllFields(_) => "HGETALL",
        Ask::List(_) => "LRANGE",
        Ask::Count { .. } => "ZCOUNT",
        Ask::Members { .. } => "ZRANGEBYSCORE",
    };
    let (key, mut command) = keyed(name, ask.key());
    match ask {
        Ask::Get(_) => {
            command.arg(0).arg(MOST_BYTES);
        }
        Ask::HasField(_, field) => {
            command.arg(field);
        }
        Ask::Fields(_, fields) => {
            command.arg(fields);
        }
        Ask::List(_) => {
            command.arg(0).arg(MOST_ENTRIES - 1);
        }
        Ask::Count { min, max, .. } => {
            command.arg(score(*min)).arg(score(*max));
        }
        Ask::Members { min, .. } => {
            command.arg(score(*min)).arg("+inf");
            command.arg("LIMIT").arg(0).arg(MOST_ENTRIES);
        }
        Ask::Type(_) | Ask::Pttl(_) | Ask::Exists(_) | Ask::AllFields(_) => {}
    }
    (key, command)
}

/// The most memory that Redis takes for an entry of a list, hash or sorted set, without long values.
const ENTRY_BYTES: u64 = 160;

/// The commands that go before `ask` if its answer could be of any size: they return the size. `measured`: whether Redis reports
/// the memory of a key.
pub(super) fn guards(ask: &Ask, measured: bool) -> Vec<Keyed<'_>> {
    let (key, count) = match ask {
        Ask::Fields(key, fields) => {
            let length = |field: &Vec<u8>| {
                let (key, mut command) = keyed("HSTRLEN", key);
                command.arg(field);
                (key, command)
            };
            return fields.iter().map(length).collect();
        }
        Ask::AllFields(key) => (key, "HLEN"),
        Ask::List(key) => (key, "LLEN"),
        Ask::Members { key, .. } => (key, "ZCARD"),
        Ask::Type(_)
        | Ask::Pttl(_)
        | Ask::Exists(_)
        | Ask::Get(_)
        | Ask::HasField(..)
        | Ask::Count { .. } => return Vec::new(),
    };
    let mut guards = vec![keyed(count, key)];
    if measured {
        let mut memory = redis::cmd("MEMORY");
        memory.arg("USAGE").arg(key);
        // Samples as many entries as would be read, and no more.
        memory.arg("SAMPLES").arg(MOST_ENTRIES);
        guards.push((key, memory));
    }
    guards
}

/// Whether `said` shows that MEMORY USAGE is not available: the user may not run it, or the server does not have it.
pub(super) fn is_unmeasured(ask: &Ask, said: &[RedisResult<Value>]) -> bool {
    !matches!(ask, Ask::Fields(..))
        && matches!(said, [Ok(_), Err(error)] if reason_of(error) != Reason::WrongType && !breaks(error))
}

/// Whether `ask` may be sent, by the replies of its guards.
pub(super) fn is_read(ask: &Ask, said: &[RedisResult<Value>]) -> bool {
    let number = |said: &RedisResult<Value>| match said {
        Ok(Value::Int(number)) => u64::try_from(*number).ok(),
        // The key is missing or has another type: the command itself will report that.
        _ => None,
    };
    let most = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    if matches!(ask, Ask::Fields(..)) {
        let lengths = said.iter().filter_map(number);
        return lengths.fold(0, u64::saturating_add) <= most(MOST_BYTES);
    }
    let Some(entries) = said.first().and_then(number) else {
        return true;
    };
    // A list is ordered: of a long one, only the last entry is read.
    let few = matches!(ask, Ask::List(_)) || entries <= most(MOST_ENTRIES);
    let used = said.get(1).and_then(number).unwrap_or(0);
    let allowed = most(MOST_BYTES).saturating_add(ENTRY_BYTES.saturating_mul(entries));
    few && used <= allowed
}

/// The length of the list that `ask` reads, if it is longer than the exporter reads, by the replies of its guards.
pub(super) fn long(ask: &Ask, said: &[RedisResult<Value>]) -> Option<u64> {
    let (Ask::List(_), Some(Ok(Value::Int(length)))) = (ask, said.first()) else {
        return None;
    };
    let length = u64::try_from(*length).ok()?;
    (length > MOST_ENTRIES as u64).then_some(length)
}

/// The command that reads the last entry of the list `key`.
pub(super) fn last_of(key: &[u8]) -> Keyed<'_> {
    let (key, mut command) = keyed("LRANGE", key);
    command.arg(-1).arg(-1);
    (key, command)
}

fn score(value: f64) -> String {
    // The form that Redis reads: no exponent, and `inf` for infinity.
    format!("{value}")
}

/// The answer to `ask` from the reply `said`. An error if the server or the connection failed.
pub(super) fn answer(ask: &Ask, said: RedisResult<Value>) -> Result<Answer, RedisError> {
    let said = match said {
        Ok(said) => said,
        Err(error) if reason_of(&error) == Reason::WrongType => return Ok(Answer::WrongType),
        Err(error) => return Err(error),
    };
    Ok(match (ask, said) {
        (Ask::Type(_), Value::SimpleString(kind)) => Answer::Type(kind),
        (_, Value::Int(number)) => Answer::Integer(number),
        // Or an empty string: `name_batch` distinguishes them.
        (Ask::Get(_), Value::BulkString(text)) if text.is_empty() => Answer::Missing,
        (Ask::Get(_), Value::BulkString(text)) if text.len() > MOST_BYTES => Answer::TooLarge,
        (Ask::Get(_), Value::BulkString(text)) => Answer::Text(text),
        (Ask::List(_) | Ask::AllFields(_), Value::Array(values)) if values.is_empty() => {
            Answer::Missing
        }
        (Ask::AllFields(_), Value::Map(pairs)) => pairs_of(
            pairs
                .into_iter()
                .flat_map(|(field, value)| [field, value])
                .collect(),
        ),
        (Ask::AllFields(_), Value::Array(values)) => pairs_of(values),
        (_, Value::Array(values)) => fields_of(values),
        _ => Answer::Missing,
    })
}

fn pairs_of(values: Vec<Value>) -> Answer {
    let texts: Vec<Vec<u8>> = values.into_iter().filter_map(text).collect();
    if texts.iter().any(|text| text.len() > MOST_BYTES) {
        return Answer::TooLarge;
    }
    let mut texts = texts.into_iter();
    let mut pairs = Vec::new();
    while let (Some(field), Some(value)) = (texts.next(), texts.next()) {
        pairs.push((field, value));
    }
    Answer::Pairs(pairs)
}

fn fields_of(values: Vec<Value>) -> Answer {
    let fields: Vec<Option<Vec<u8>>> = values.into_iter().map(text).collect();
    let too_large = |field: &Option<Vec<u8>>| {
        let length = field.as_ref().map_or(0, Vec::len);
        length > MOST_BYTES
    };
    if fields.iter().any(too_large) {
        return Answer::TooLarge;
    }
    Answer::Fields(fields)
}

fn text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(text) => Some(text),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::{
        Counter, CounterReading, Description, Expires, Limits, Matched, NameContext, NameReader,
        Outcome, PlainLog, built_in, never_fell,
    };
    use crate::observe::counters::closer::{CLOCK_TOLERANCE_MS, Closer};
    use crate::observe::counters::requests::{hmget, zcount};

    fn packed(ask: &Ask) -> String {
        words(&command(ask).1)
    }

    fn words(command: &Cmd) -> String {
        let words = command.args_iter().map(|arg| match arg {
            redis::Arg::Simple(word) => String::from_utf8_lossy(word).into_owned(),
            _ => "?".to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn commands_only_read_and_only_as_much_as_is_used() {
        let key = || b"k".to_vec();
        for (ask, expected) in [
            (Ask::Get(key()), "GETRANGE k 0 65536"),
            (Ask::List(key()), "LRANGE k 0 4095"),
            (Ask::HasField(key(), b"a".to_vec()), "HEXISTS k a"),
            (Ask::Fields(key(), vec![b"a".to_vec()]), "HMGET k a"),
            (
                Ask::Count {
                    key: key(),
                    min: 1_795_691_687_250.5,
                    max: f64::INFINITY,
                },
                "ZCOUNT k 1795691687250.5 inf",
            ),
            (
                Ask::Members {
                    key: key(),
                    min: -1e20,
                },
                "ZRANGEBYSCORE k -100000000000000000000 +inf LIMIT 0 4096",
            ),
        ] {
            assert_eq!(packed(&ask), expected);
        }
    }

    /// The reading of `ratelimit:k` step by step, and its commands.
    fn described(count: i64, left_ms: i64, future: i64) -> (CounterReading, Vec<String>) {
        let description = Description::parse(built_in("reference").unwrap()).unwrap();
        let none = |_: &Counter, _: &Matched| Limits::default();
        let known = NameContext {
            rules: &none,
            api: &|_, _| Limits::default(),
            former: &never_fell,
            now_ms: 1_700_000_000_000,
            tolerance_ms: CLOCK_TOLERANCE_MS,
            sampled: true,
        };
        let mut reader = NameReader::begin(&description, known, b"ratelimit:k", None);
        let mut asked = Vec::new();
        let limit = [&b"10"[..], b"60000"].map(|field| Some(field.to_vec()));
        for answers in [
            vec![Answer::Fields(limit.to_vec())],
            vec![Answer::Integer(count)],
            vec![Answer::Integer(left_ms), Answer::Integer(future)],
        ] {
            asked.extend(reader.asks().iter().map(packed));
            reader.feed(&answers);
        }
        let Some(Outcome::Counted(reading)) = reader.finding().map(|it| it.outcome.clone()) else {
            panic!("{:?}", reader.finding());
        };
        (reading, asked)
    }

    #[test]
    fn the_requests_of_a_plain_log_are_those_of_its_description() {
        let now_ms = 1_700_000_000_000;
        let [left, future] = Closer::commands(b"ratelimit:k", now_ms);
        let log = Description::parse(built_in("reference").unwrap()).unwrap();
        let log = PlainLog::of(&log).unwrap();
        let count = zcount(log.counter_name(b"k"), now_ms, 60_000);
        let own = [hmget(&log, b"k"), count, left, future];
        let own = own.map(|command| words(&command).replace("+inf", "inf"));
        // The same bound, written as an inclusive one.
        let own = own.map(|words| words.replace("(1700000002000", "1700000002001"));
        assert_eq!(described(3, 60_000, 0).1, own);
    }

    #[test]
    fn the_states_of_a_plain_log_are_judged_as_its_description_says() {
        let description = Description::parse(built_in("reference").unwrap()).unwrap();
        for count in [1, 10, 11] {
            for left_ms in [-1, 1, 61_000, 63_000, 63_001, i64::MAX] {
                for future in [0, 1] {
                    let (reading, _) = described(count, left_ms, future);
                    let closer = [Ok(Value::Int(left_ms)), Ok(Value::Int(future))];
                    let closer = Closer::of(&closer).unwrap();
                    let counter = &description.counters[0];
                    let invalid = closer.invalid(counter, reading.count, &reading.limits);
                    assert_eq!(invalid, reading.invalid, "{count} {left_ms} {future}");
                    assert_eq!(
                        closer.is_without_expiry(),
                        matches!(reading.expiry, Some(Expires::Never(_)))
                    );
                }
            }
        }
    }

    #[test]
    fn values_of_unbounded_size_are_measured_before_they_are_read() {
        let key = || b"k".to_vec();
        let fields = Ask::Fields(key(), vec![b"a".to_vec(), b"b".to_vec()]);
        let members = Ask::Members {
            key: key(),
            min: 0.0,
        };
        for (ask, expected) in [
            (Ask::Get(key()), ""),
            (fields, "HSTRLEN k a, HSTRLEN k b"),
            (Ask::AllFields(key()), "HLEN k, MEMORY USAGE k SAMPLES 4096"),
            (Ask::List(key()), "LLEN k, MEMORY USAGE k SAMPLES 4096"),
            (members, "ZCARD k, MEMORY USAGE k SAMPLES 4096"),
        ] {
            let guards = guards(&ask, true);
            let guards: Vec<String> = guards.iter().map(|(_, guard)| words(guard)).collect();
            assert_eq!(guards.join(", "), expected);
        }
        assert_eq!(guards(&Ask::List(key()), false).len(), 1);
    }

    #[test]
    fn values_that_are_too_large_are_not_read() {
        let key = || b"k".to_vec();
        let is_read = |ask: &Ask, said: &[i64]| {
            let said: Vec<_> = said.iter().map(|number| Ok(Value::Int(*number))).collect();
            is_read(ask, &said)
        };
        let fields = Ask::Fields(key(), vec![b"a".to_vec(), b"b".to_vec()]);
        assert!(is_read(&fields, &[10, 0]) && is_read(&fields, &[65_536, 0]));
        assert!(!is_read(&fields, &[65_536, 1]) && !is_read(&fields, &[0, i64::MAX]));
        let (all, head) = (Ask::AllFields(key()), Ask::List(key()));
        assert!(is_read(&all, &[4_096, 500_000]) && is_read(&all, &[1, 65_000]));
        assert!(!is_read(&all, &[4_097, 0]) && !is_read(&all, &[1, 70_000]));
        // Without MEMORY USAGE, the number of entries decides.
        assert!(is_read(&all, &[4_096]) && !is_read(&all, &[4_097]));
        assert!(is_read(&head, &[1_000_000, 20_000_000]) && !is_read(&head, &[2, 1_000_000]));
    }

    #[test]
    fn empty_values_are_missing_and_long_values_are_not_read() {
        let get = Ask::Get(b"k".to_vec());
        let text = |length| Ok(Value::BulkString(vec![b'1'; length]));
        assert_eq!(answer(&get, text(0)).unwrap(), Answer::Missing);
        assert_eq!(
            answer(&get, text(MOST_BYTES + 1)).unwrap(),
            Answer::TooLarge
        );
        let list = Ask::List(b"k".to_vec());
        let empty = Ok(Value::Array(Vec::new()));
        assert_eq!(answer(&list, empty).unwrap(), Answer::Missing);
        let long = |length| long(&list, &[Ok(Value::Int(length))]);
        assert_eq!((long(4_096), long(4_097)), (None, Some(4_097)));
    }
}
