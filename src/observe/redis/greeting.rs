//! The first commands on a new connection, before the driver takes over: AUTH, SELECT and one PING. They are sent here, not
//! by the driver, so that Redis's own message about a login is kept, an unneeded password is no failure, and a server that
//! is not Redis is noticed.

use redis::{RedisError, RedisResult, ServerError, ServerErrorKind, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::observation::Reason;
use crate::observe::redis::deployment::Access;
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::peer::Peer;
use crate::text::one_line;

/// The longest line that is read, in bytes. The message of protected mode has about a thousand.
pub(in crate::observe) const LONGEST_LINE: u64 = 4096;

/// How many bytes of an answer that is not Redis's are shown.
const SHOWN: usize = 40;

/// Logs in at `address` and chooses the database. Any answer to PING will do, if it is an answer of Redis.
pub(in crate::observe) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    access: &Access,
    address: &str,
) -> RedisResult<()> {
    log_in(stream, access, address).await?;
    if access.database != 0 {
        let database = access.database.to_string();
        if let Err(error) = ask(stream, &["SELECT", &database]).await? {
            return Err(refused(&format!("SELECT {database}"), error));
        }
    }
    match ask(stream, &["PING"]).await? {
        // Redis sends these to every new client before it hangs up.
        Err(error) if matches!(error.code(), "DENIED" | "ERR") => Err(error.into()),
        _ => Ok(()),
    }
}

async fn log_in(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    access: &Access,
    address: &str,
) -> RedisResult<()> {
    let Some((user, password)) = access.credentials() else {
        return Ok(());
    };
    let password = password.as_ref().map_or("", |password| password.expose());
    let with_user: Vec<&str> = ["AUTH"].into_iter().chain(user).chain([password]).collect();
    let mut answer = ask(stream, &with_user).await?;
    if user.is_some() && answer.as_ref().is_err_and(knows_no_users) {
        answer = ask(stream, &["AUTH", password]).await?;
    }
    match answer {
        Ok(()) => access.note_password_wanted(),
        Err(error) if wants_no_password(&error) => access.note_password_unwanted(address),
        Err(error) => return Err(without(password, &refused("AUTH", error))),
    }
    Ok(())
}

/// Redis before 6.0 has passwords, but no users.
fn knows_no_users(error: &ServerError) -> bool {
    says(error, "wrong number of arguments")
}

/// Whether Redis has no password: the message of 6.0 and later, or that of older versions.
fn wants_no_password(error: &ServerError) -> bool {
    says(error, "without any password configured") || says(error, "no password is set")
}

fn says(error: &ServerError, words: &str) -> bool {
    error.details().is_some_and(|said| said.contains(words))
}

/// The failure of the command `what`, with its reason.
fn refused(what: &str, error: ServerError) -> RedisError {
    let is_general = |kind| matches!(kind, ServerErrorKind::ResponseError);
    let login = what == "AUTH" && error.kind().is_none_or(is_general);
    // A message to every new client looks like the answer to the first command.
    let to_everybody = error.code() == "DENIED" || says(&error, "max number of clients");
    let error = RedisError::from(error);
    if to_everybody {
        return error;
    }
    let mut failure = RedisFailure::of(what, &error);
    if login {
        failure.reason = Reason::Auth;
    }
    failure.into()
}

/// Removes the password from the message: a server that does not know AUTH repeats its arguments.
fn without(password: &str, refused: &RedisError) -> RedisError {
    let mut failure = RedisFailure::of("", refused);
    let words = failure.message.trim_start_matches(": ");
    let words = words.split(", with args").next().unwrap_or_default();
    failure.message = if password.is_empty() {
        words.to_owned()
    } else {
        words.replace(password, "<secret>")
    };
    failure.into()
}

/// Sends one command and reads its answer, which is one line.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    words: &[&str],
) -> RedisResult<Result<(), ServerError>> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    stream.write_all(&command.get_packed_command()).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    let mut limited = stream.take(LONGEST_LINE);
    loop {
        match limited.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(error) if matches!(line.first(), None | Some(b'+' | b'-')) => {
                return Err(error.into());
            }
            Err(_) => break,
        }
        let is_binary = !matches!(line[0], b' '..=b'~');
        if line.ends_with(b"\n") || is_binary && line.len() >= 2 {
            break;
        }
    }
    match redis::parse_redis_value(&line) {
        Ok(Value::Okay | Value::SimpleString(_)) => Ok(Ok(())),
        Ok(Value::ServerError(error)) => Ok(Err(error)),
        _ => Err(no_redis(&line)),
    }
}

fn no_redis(answer: &[u8]) -> RedisError {
    let message = if let Some(peer @ (Peer::Http | Peer::Tls)) = Peer::of(answer) {
        peer.hint().to_owned()
    } else {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN)]);
        format!(
            "answered {:?}, which is not an answer of Redis",
            one_line(&shown)
        )
    };
    RedisFailure::new(Reason::RedisError, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> ServerError {
        match redis::parse_redis_value(line.as_bytes()) {
            Ok(Value::ServerError(error)) => error,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn a_refused_login_is_reported_with_redis_own_message() {
        for (line, reason, message) in [
            (
                "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
                Reason::Auth,
                "AUTH: WRONGPASS invalid username-password pair or user is disabled.",
            ),
            (
                "-ERR invalid password\r\n",
                Reason::Auth,
                "AUTH: ERR invalid password",
            ),
            ("-LOADING wait\r\n", Reason::Loading, "AUTH: LOADING wait"),
            (
                "-ERR max number of clients reached\r\n",
                Reason::RedisError,
                "ERR max number of clients reached",
            ),
        ] {
            let refused = refused("AUTH", error(line));
            let failure = RedisFailure::of("PING a:1", &refused);
            let expected = (reason, format!("PING a:1: {message}"));
            assert_eq!((failure.reason, failure.message), expected);
        }
    }

    #[test]
    fn a_server_that_repeats_the_password_does_not_leak_it() {
        for line in [
            "-ERR unknown command `AUTH`, with args beginning with: `open-ses\r\n",
            "-ERR no such thing as open-sesame\r\n",
        ] {
            let refused = without("open-sesame", &refused("AUTH", error(line)));
            let failure = RedisFailure::of("PING", &refused);
            assert!(!failure.message.contains("open-ses"), "{failure}");
            assert!(failure.message.starts_with("PING: AUTH: ERR "), "{failure}");
        }
    }

    #[test]
    fn an_unneeded_password_is_recognized_by_the_message_of_every_version() {
        for line in [
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?\r\n",
            "-ERR Client sent AUTH, but no password is set\r\n",
        ] {
            assert!(wants_no_password(&error(line)), "{line}");
        }
        assert!(!wants_no_password(&error("-ERR invalid password\r\n")));
        assert!(knows_no_users(&error(
            "-ERR wrong number of arguments for 'auth' command\r\n"
        )));
    }
}
