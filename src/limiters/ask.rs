//! Redis commands for one name, and their answers, as data. No I/O.

/// The most bytes that are read of one value.
pub const MOST_BYTES: usize = 64 * 1024;

/// The most entries that are read of one list, sorted set or hash.
pub const MOST_ENTRIES: usize = 4096;

/// One command. No command writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// `TYPE key`, answered by [`Answer::Type`].
    Type(Vec<u8>),
    /// `PTTL key`, answered by [`Answer::Integer`]: -1 without expiry, -2 without the key.
    Pttl(Vec<u8>),
    /// `EXISTS key`, answered by [`Answer::Integer`].
    Exists(Vec<u8>),
    /// `GETRANGE key 0 MOST_BYTES`, which returns one byte more than is used.
    Get(Vec<u8>),
    /// `HEXISTS key field`, answered by [`Answer::Integer`].
    HasField(Vec<u8>, Vec<u8>),
    /// `HMGET key field …`, answered by [`Answer::Fields`], one for each field, or by [`Answer::TooLarge`].
    Fields(Vec<u8>, Vec<Vec<u8>>),
    /// All fields of a hash that has at most [`MOST_ENTRIES`], answered by [`Answer::Pairs`] or [`Answer::TooLarge`].
    AllFields(Vec<u8>),
    /// `LRANGE key 0 MOST_ENTRIES-1`, answered by [`Answer::Fields`] or [`Answer::TooLarge`]. Of a list that is longer,
    /// `LRANGE key -1 -1`, answered by [`Answer::Long`].
    List(Vec<u8>),
    /// `ZCOUNT key min max`, both ends included, answered by [`Answer::Integer`].
    Count {
        /// The sorted set.
        key: Vec<u8>,
        /// The lowest score.
        min: f64,
        /// The highest score.
        max: f64,
    },
    /// `ZRANGEBYSCORE key min +inf LIMIT 0 MOST_ENTRIES`, answered by [`Answer::Fields`].
    Members {
        /// The sorted set.
        key: Vec<u8>,
        /// The lowest score.
        min: f64,
    },
}

impl Ask {
    /// The key.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Type(key)
            | Self::Pttl(key)
            | Self::Exists(key)
            | Self::Get(key)
            | Self::HasField(key, _)
            | Self::Fields(key, _)
            | Self::AllFields(key)
            | Self::List(key)
            | Self::Count { key, .. }
            | Self::Members { key, .. } => key,
        }
    }

    /// Whether Redis refuses the command for a key of another type than the command is for.
    pub(super) fn shows_type(&self) -> bool {
        !matches!(self, Self::Type(_) | Self::Pttl(_) | Self::Exists(_))
    }
}

/// What Redis answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// There is no such key.
    Missing,
    /// The key holds another type.
    WrongType,
    /// The value is longer, or has more entries, than the exporter reads.
    TooLarge,
    /// A type's name as Redis writes it.
    Type(String),
    /// A number.
    Integer(i64),
    /// A value.
    Text(Vec<u8>),
    /// Values, `None` for each that is missing.
    Fields(Vec<Option<Vec<u8>>>),
    /// The length of a list that is longer than the exporter reads, and its last entry.
    Long(u64, Vec<u8>),
    /// Fields and their values.
    Pairs(Vec<(Vec<u8>, Vec<u8>)>),
}

/// The types of keys that limiters use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A string.
    String,
    /// A list.
    List,
    /// A sorted set.
    Zset,
    /// A hash.
    Hash,
}

impl Type {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::String, Self::List, Self::Zset, Self::Hash];

    /// As Redis writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Zset => "zset",
            Self::Hash => "hash",
        }
    }
}
