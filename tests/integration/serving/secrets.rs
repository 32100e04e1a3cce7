//! No secret shows anywhere: canaries in every place that takes one are looked for in every place that shows something.

use hyper::Method;
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::certificates;
use crate::harness::{Exporter, client, run, said};

/// Part of every secret here.
const CANARY: &str = "tr0ub4dor-and-3";

/// What part of a canary shows as, where a login was encoded: `me:` and the canary, in base64.
const ENCODED: &str = "bWU6dHIwdWI0ZG9y";

fn assert_hidden(what: &str, shown: &str) {
    for secret in [CANARY, ENCODED, "$2b$04$", "PRIVATE KEY"] {
        assert!(!shown.contains(secret), "{what} shows {secret}: {shown}");
    }
}

/// A server that refuses every request and repeats it in its answer, as some do to help.
async fn echo() -> anyhow::Result<(String, AbortOnDropHandle<()>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            // The secret comes first in the request, so that an answer which quotes it shows it.
            let told = head.lines().find(|line| line.starts_with("authorization"));
            let body = told.unwrap_or("nothing");
            let answer = format!(
                "HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((address, AbortOnDropHandle::new(task)))
}

/// Everything that a running exporter shows, to clients that are logged in and to others, and what it leaves on the disk.
async fn shown(flags: &[String], login: Option<(&str, &str)>) -> anyhow::Result<String> {
    let folder = TempDir::new("shown")?;
    let state = format!("--state.file={}", folder.path().join("state").display());
    let mut exporter = Exporter::start_quietly(&[flags, &[state]].concat()).await?;
    let client = client()?;
    let mut shown = String::new();
    let url_for_a_name = format!("/probe?target=redis://me:{CANARY}@h");
    for path in [
        "/metrics",
        "/probe",
        "/probe?target=default",
        "/probe?target=other",
        "/probe?target=nobody",
        &url_for_a_name,
        "/",
        "/-/healthy",
        "/-/ready",
        "/api/v1/violations",
        "/api/v1/violations?subject=redis",
        "/api/v1/observation",
        "/api/v1/actions",
        "/nowhere",
        "/?password=none",
    ] {
        let url = format!("http://{}{path}", exporter.address);
        for (method, body) in [(Method::GET, ""), (Method::POST, "{}")] {
            let mut request = client.request(method, &url).body(body);
            if let Some((user, password)) = login {
                request = request.basic_auth(user, Some(password));
            }
            let answer = request.send().await?;
            for value in answer.headers().values() {
                shown += value.to_str()?;
            }
            shown += &answer.text().await?;
        }
    }
    let reset = format!("http://{}/api/v1/actions/reset_counter", exporter.address);
    let request = client
        .post(reset)
        .header("content-type", "application/json");
    let (user, password) = login.unwrap_or(("", ""));
    let request = request.basic_auth(user, Some(password));
    shown += &request.body("{\"key\":\"k\"}").send().await?.text().await?;
    let wrong = client.get(format!("http://{}/metrics", exporter.address));
    let wrong = wrong.basic_auth(CANARY, Some(CANARY)).send().await?;
    shown += &wrong.text().await?;
    // The state of the last collection is written before the end.
    exporter.process.terminate().await?;
    shown += &exporter.log();
    for file in std::fs::read_dir(folder.path())? {
        shown += &std::fs::read_to_string(file?.path())?;
    }
    Ok(shown)
}

/// Everything that is shown of a limiter that these flags are about, when it is one of several: a target of a file.
async fn shown_as_target(folder: &TempDir, flags: &[String]) -> anyhow::Result<String> {
    let settings = flags.iter().filter_map(|flag| flag[2..].split_once('='));
    let mut own: Vec<String> = settings
        .map(|(name, value)| format!("    {name}: {value}"))
        .collect();
    // Of the default one, and of what a target must have, nothing is there.
    let nobody = format!("127.0.0.1:{}", lab::ports::free_port());
    let urls = [
        format!("redis.url: redis://{nobody}"),
        format!("ratelimiter.url: http://{nobody}"),
    ];
    for url in &urls {
        let name = url.split(' ').next().unwrap_or_default();
        if !own.iter().any(|line| line.contains(name)) {
            own.push(format!("    {url}"));
        }
    }
    let text = format!(
        "{}\ntargets:\n  other:\n{}\n",
        urls.join("\n"),
        own.join("\n")
    );
    let file = folder.path().join("targets.yml");
    std::fs::write(&file, text)?;
    let config = format!("--config.file={}", file.display());
    shown(&[config, "--log.level=trace".to_owned()], None).await
}

#[tokio::test]
async fn secrets_show_nowhere() -> anyhow::Result<()> {
    let folder = TempDir::new("secrets")?;
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let redis = RedisServer::start(&["--requirepass", CANARY]).await?;
    // It repeats what it does not understand, as proxies for Redis do.
    let renamed = [
        "--rename-command",
        "AUTH",
        "",
        "--rename-command",
        "HELLO",
        "",
    ];
    let deaf = RedisServer::start(&renamed).await?;
    let right = file("right", &format!("{CANARY}\n"))?;
    let wrong = file("wrong", &format!("{CANARY}-wrong\n"))?;
    let (echo, _echo) = echo().await?;
    let nobody = format!("127.0.0.1:{}", lab::ports::free_port());
    let redis_at = |password: &str| {
        vec![
            format!("--redis.url={}", redis.url()),
            format!("--redis.password-file={password}"),
        ]
    };
    let token = |who: &str, address: &str| {
        vec![
            format!("--{who}.url=http://{address}"),
            format!("--{who}.bearer-token-file={right}"),
        ]
    };
    let user = |who: &str, address: &str| {
        vec![
            format!("--{who}.url=http://{address}"),
            format!("--{who}.username=me"),
            format!("--{who}.password-file={right}"),
        ]
    };
    let inside =
        |who: &str, address: &str| vec![format!("--{who}.url=http://me:{CANARY}@{address}")];
    let port = redis.port();
    let cases = [
        redis_at(&right),
        redis_at(&wrong),
        vec![
            format!("--redis.url={}", deaf.url()),
            format!("--redis.password-file={right}"),
        ],
        vec![format!(
            "--redis.url=redis://me:{CANARY}@127.0.0.1:{}",
            deaf.port()
        )],
        vec![format!("--redis.url=redis://:{CANARY}@127.0.0.1:{port}")],
        vec![format!(
            "--redis.url=redis://:{CANARY}-wrong@127.0.0.1:{port}"
        )],
        vec![format!("--redis.url=redis://me:{CANARY}@{nobody}")],
        vec![
            format!("--redis.url=redis+sentinel://me:{CANARY}@127.0.0.1:{port}/prime"),
            format!("--redis.sentinel-password-file={wrong}"),
        ],
        [token("ratelimiter", &echo), token("prometheus", &echo)].concat(),
        [user("ratelimiter", &echo), user("prometheus", &echo)].concat(),
        [inside("ratelimiter", &echo), inside("prometheus", &echo)].concat(),
        [inside("ratelimiter", &nobody), token("prometheus", &nobody)].concat(),
        // Redis is no HTTP server, and says so.
        inside("ratelimiter", &format!("127.0.0.1:{port}")),
    ];
    let admin = ["--web.enable-admin-api", "--web.admin-api-insecure"].map(str::to_owned);
    for flags in &cases {
        for mode in ["--log.level=trace", "--log.format=json"] {
            let all = [flags, &admin[..], &[mode.to_owned()]].concat();
            let shown = shown(&all, None).await?;
            assert_hidden(&all.join(" "), &shown);
            if mode.ends_with("trace") && all.iter().any(|flag| flag.contains(&echo)) {
                assert!(shown.contains("<secret>"), "not even quoted: {shown}");
            }
            assert!(shown.contains("saved_wall"), "no state: {shown}");
        }
        let shown = shown_as_target(&folder, flags).await?;
        assert_hidden(&format!("a target with {flags:?}"), &shown);
        assert_eq!(shown.matches("saved_wall").count(), 2, "no state: {shown}");
        for words in [
            &["check", "--latency-sample=0s"][..],
            &["check", "--latency-sample=0s", "--output=json"],
            &["check", "--latency-sample=0s", "--output=jsonl"],
            &["check", "--latency-sample=0s", "--explain=redis"],
            &["reset-counter", "k"],
            &["--config.check"],
            &["--redis.timeout=soon"],
        ] {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let output = run([&flags[..], &["--log.level=trace".to_owned()], &words].concat());
            let output = output.await?;
            let shown = said(&output) + &String::from_utf8_lossy(&output.stdout);
            assert_hidden(&words.join(" "), &shown);
        }
    }
    Ok(())
}

#[tokio::test]
async fn passwords_of_users_show_nowhere() -> anyhow::Result<()> {
    let folder = TempDir::new("users")?;
    let web = folder.path().join("web.yml");
    let hash = bcrypt::hash(CANARY, 4)?;
    std::fs::write(&web, format!("basic_auth_users: {{me: {hash}}}\n"))?;
    let nobody = format!("127.0.0.1:{}", lab::ports::free_port());
    for level in ["error", "warn", "info", "debug", "trace"] {
        let flags = [
            format!("--log.level={level}"),
            format!("--web.config.file={}", web.display()),
            "--web.enable-admin-api".to_owned(),
            format!("--ratelimiter.url=http://{nobody}"),
        ];
        for login in [("me", CANARY), ("me", "guess"), (CANARY, "guess")] {
            assert_hidden(level, &shown(&flags, Some(login)).await?);
        }
    }
    Ok(())
}

#[tokio::test]
async fn mistakes_do_not_quote_secrets() -> anyhow::Result<()> {
    let folder = TempDir::new("mistakes")?;
    let [_, cert, key] = certificates(folder.path(), "own")?;
    let path = folder.path().join("file.yml");
    for mistake in [
        format!("--redis.url=redis://:{CANARY}@h:1/not-a-number"),
        format!("--redis.url=http://:{CANARY}@h"),
        format!("--ratelimiter.url=ftp://me:{CANARY}@h"),
        format!("--ratelimiter.url=http://a,ftp://me:{CANARY}@h"),
        format!("--prometheus.url=me:{CANARY}@h"),
    ] {
        let output = run(vec![mistake, "check".to_owned()]).await?;
        assert_eq!(output.status.code(), Some(2));
        assert_hidden("a mistake", &said(&output));
    }
    // In the wrong place.
    let url = format!("redis://me:{CANARY}@h:1");
    for words in [
        &["--redis.timeout", &url][..],
        &["--log.level", &url],
        &["check", &url],
        &["check", "--output", &url],
        &["check", "--target", &url],
        &["check", "--every", &url],
        &[&url],
    ] {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let output = run(words.clone()).await?;
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_hidden(&format!("{words:?}"), &said(&output));
    }
    let hash = bcrypt::hash(CANARY, 4)?;
    for text in [
        format!("basic_auth_users:\n  me: {CANARY}\n"),
        format!("basic_auth_users:\n  me: {hash}\n  me: {hash}\n"),
        format!("basic_auth_users:\n  me: [{hash}]\n"),
        format!("basic_auth_users: {hash}\n"),
        format!("basic_auth_users:\n  me: {hash}\nmore: {hash}\n"),
        format!("basic_auth_users:\n  me: {hash}x\n"),
        // The files exchanged.
        format!("tls_server_config: {{cert_file: {key}, key_file: {cert}}}\n"),
        format!("tls_server_config: {{cert_file: {key}, key_file: {key}}}\n"),
    ] {
        std::fs::write(&path, &text)?;
        let output = run(vec![format!("--web.config.file={}", path.display())]).await?;
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_hidden(&text, &said(&output));
    }
    let default = "redis.url: redis://h\nratelimiter.url: http://h\ntargets:";
    for text in [
        "redis: {url: 'redis://:CANARY@h:1/x'}".to_owned(),
        "redis: redis://:CANARY@h:1".to_owned(),
        "redis: 'redis://:CANARY@h:1".to_owned(),
        "redis: {url: 'redis://:CANARY@h:1', url: 'redis://:CANARY@h:1'}".to_owned(),
        "redis: {'redis://:CANARY@h:1': url}".to_owned(),
        "redis://:CANARY@h:1".to_owned(),
        "redis.password: CANARY".to_owned(),
        "redis.timeout: redis://:CANARY@h:1".to_owned(),
        "limits: [redis://:CANARY@h:1]".to_owned(),
        format!("{default} redis://:CANARY@h:1"),
        format!("{default} {{'redis://:CANARY@h:1': {{}}}}"),
        format!("{default} {{eu: 'redis://:CANARY@h:1'}}"),
        format!("{default} {{eu: {{redis: 'redis://:CANARY@h:1'}}}}"),
        format!(
            "{default} {{eu: {{redis.url: 'redis://:CANARY@h:1/x', ratelimiter.url: http://h}}}}"
        ),
        format!("{default} {{eu: {{redis.url: redis://h, ratelimiter.url: 'me:CANARY@h'}}}}"),
        format!("{default} {{eu: {{redis.url: redis://h, redis.password: CANARY}}}}"),
    ] {
        std::fs::write(&path, text.replace("CANARY", CANARY))?;
        let output = run(vec![format!("--config.file={}", path.display())]).await?;
        assert_eq!(output.status.code(), Some(2), "{text}: {}", said(&output));
        assert_hidden(&text, &said(&output));
    }
    Ok(())
}
