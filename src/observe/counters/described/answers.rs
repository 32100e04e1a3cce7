//! What a description asks, as commands of Redis, and what Redis said, as its answers. No I/O.

use redis::{Cmd, RedisError, RedisResult, Value};

use crate::limiters::{Answer, Ask, MOST_BYTES, MOST_ENTRIES};
use crate::observation::Reason;
use crate::observe::redis::errors::reason_of;

/// The key that `ask` is about, and the command.
pub(super) fn command(ask: &Ask) -> (Vec<u8>, Cmd) {
    let (name, key) = match ask {
        Ask::Type(key) => ("TYPE", key),
        Ask::Pttl(key) => ("PTTL", key),
        Ask::Exists(key) => ("EXISTS", key),
        Ask::Get(key) => ("GETRANGE", key),
        Ask::Fields(key, _) => ("HMGET", key),
        Ask::AllFields(key) => ("HGETALL", key),
        Ask::Head(key) | Ask::Last(key) => ("LRANGE", key),
        Ask::Length(key) => ("LLEN", key),
        Ask::Count { key, .. } => ("ZCOUNT", key),
        Ask::Members { key, .. } => ("ZRANGEBYSCORE", key),
    };
    let mut command = redis::cmd(name);
    command.arg(key);
    match ask {
        Ask::Get(_) => {
            command.arg(0).arg(MOST_BYTES);
        }
        Ask::Fields(_, fields) => {
            command.arg(fields);
        }
        Ask::Head(_) => {
            command.arg(0).arg(MOST_ENTRIES - 1);
        }
        Ask::Last(_) => {
            command.arg(-1).arg(-1);
        }
        Ask::Count { min, max, .. } => {
            command.arg(score(*min)).arg(score(*max));
        }
        Ask::Members { min, .. } => {
            command.arg(score(*min)).arg("+inf");
            command.arg("LIMIT").arg(0).arg(MOST_ENTRIES);
        }
        Ask::Type(_) | Ask::Pttl(_) | Ask::Exists(_) | Ask::AllFields(_) | Ask::Length(_) => {}
    }
    (key.clone(), command)
}

/// How many fields a hash has, asked before all of them are read.
pub(super) fn size(ask: &Ask) -> Option<(Vec<u8>, Cmd)> {
    let Ask::AllFields(key) = ask else {
        return None;
    };
    let mut command = redis::cmd("HLEN");
    command.arg(key);
    Some((key.clone(), command))
}

/// Whether a hash of the size that was answered is read.
pub(super) fn is_read(size: &RedisResult<Value>) -> bool {
    let most = i64::try_from(MOST_ENTRIES).unwrap_or(i64::MAX);
    !matches!(size, Ok(Value::Int(fields)) if *fields > most)
}

fn score(value: f64) -> String {
    // As Redis reads it: never with an exponent, and infinite as inf.
    format!("{value}")
}

/// What `said` means as an answer to `ask`; an error where the server or the way to it is at fault.
pub(super) fn answer(ask: &Ask, said: RedisResult<Value>) -> Result<Answer, RedisError> {
    let said = match said {
        Ok(said) => said,
        Err(error) if reason_of(&error) == Reason::WrongType => return Ok(Answer::WrongType),
        Err(error) => return Err(error),
    };
    Ok(match (ask, said) {
        (Ask::Type(_), Value::SimpleString(kind)) => Answer::Type(kind),
        // A list that is empty is not there.
        (Ask::Length(_), Value::Int(0)) => Answer::Missing,
        (_, Value::Int(number)) => Answer::Integer(number),
        (Ask::Get(_), Value::BulkString(text)) if text.is_empty() => Answer::Missing,
        (Ask::Get(_), Value::BulkString(text)) if text.len() > MOST_BYTES => Answer::TooLarge,
        (Ask::Get(_), Value::BulkString(text)) => Answer::Text(text),
        (Ask::Head(_) | Ask::Last(_) | Ask::AllFields(_), Value::Array(values))
            if values.is_empty() =>
        {
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

    fn packed(ask: &Ask) -> String {
        let (_, command) = command(ask);
        let words = command.args_iter().map(|arg| match arg {
            redis::Arg::Simple(word) => String::from_utf8_lossy(word).into_owned(),
            _ => "?".to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_asked_only_reads_and_no_more_than_is_used() {
        let key = || b"k".to_vec();
        for (ask, expected) in [
            (Ask::Get(key()), "GETRANGE k 0 65536"),
            (Ask::Head(key()), "LRANGE k 0 4095"),
            (Ask::Last(key()), "LRANGE k -1 -1"),
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

    #[test]
    fn what_is_empty_is_missing_and_what_is_long_is_not_read() {
        let get = Ask::Get(b"k".to_vec());
        let text = |length| Ok(Value::BulkString(vec![b'1'; length]));
        assert_eq!(answer(&get, text(0)).unwrap(), Answer::Missing);
        assert_eq!(
            answer(&get, text(MOST_BYTES + 1)).unwrap(),
            Answer::TooLarge
        );
        let head = Ask::Head(b"k".to_vec());
        let empty = Ok(Value::Array(Vec::new()));
        assert_eq!(answer(&head, empty).unwrap(), Answer::Missing);
        let length = Ask::Length(b"k".to_vec());
        assert_eq!(answer(&length, Ok(Value::Int(0))).unwrap(), Answer::Missing);
    }
}
