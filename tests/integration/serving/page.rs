//! The page at `/` in a real browser: in health, with violations, and blind. Its pictures in docs/ are taken here and
//! copied by `make screenshots`.

mod states;

use std::path::PathBuf;

use super::browser::Browser;
use states::{EVIL_KEY, State};

/// The ratio of two colours' luminances that WCAG 2 (AA) asks of text, measured for every piece of text that is shown.
/// Answers with those that have less.
const LOW_CONTRAST: &str = r#"(() => {
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const seen = walker.currentNode.data.trim() && element.getClientRects().length > 0;
    if (!seen || element.closest("script, style")) continue;
    const [x, y] = [luminance(rgb(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    if (ratio < 4.5) low.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return low;
})()"#;

/// Coloured states whose colour says more than a sign and their words or figures: there must be none.
const COLOUR_ALONE: &str = r#"[...document.querySelectorAll(".ok, .bad, .pending, .unknown")]
  .filter((element) => !/[a-z]{2}|\d/i.test(element.tagName === "I" ? element.parentElement.textContent : element.textContent)
    || !/[✓✕◔?]/.test(element.textContent))
  .map((element) => element.outerHTML)"#;

#[tokio::test]
async fn it_shows_the_state_to_every_reader() -> anyhow::Result<()> {
    let mut browser = Browser::start().await?;
    for (name, verdict, state) in [
        (
            "healthy",
            "✓ All 6 invariants hold",
            State::healthy().await?,
        ),
        (
            "violated",
            "✕ 5 critical: node_down, ghost_allowing ×4",
            State::violated().await?,
        ),
        (
            "blind",
            "? Not known: 5 of 6 invariants could not be evaluated",
            State::blind().await?,
        ),
    ] {
        browser.size(1280, 900).await?;
        browser.prefers("light").await?;
        browser.open(&state.url()).await?;
        let line = browser
            .value("document.querySelector('h1').textContent")
            .await?;
        assert_eq!(line, verdict);
        browser.screenshot(&picture(name)).await?;
        for scheme in ["light", "dark"] {
            browser.prefers(scheme).await?;
            for width in [1280, 800, 360] {
                let at = format!("{name}, {scheme}, {width} pixels");
                browser.size(width, 800).await?;
                let fits = "document.documentElement.scrollWidth <= window.innerWidth";
                assert_eq!(
                    browser.value(fits).await?,
                    true,
                    "{at}: wider than the window"
                );
                let low = browser.value(LOW_CONTRAST).await?;
                assert_eq!(
                    low,
                    serde_json::json!([]),
                    "{at}: text that is hard to read"
                );
                let alone = browser.value(COLOUR_ALONE).await?;
                assert_eq!(alone, serde_json::json!([]), "{at}: nothing but colour");
            }
            browser
                .screenshot(&picture(&format!("{name}-{scheme}-phone")))
                .await?;
        }
        browser.size(1280, 900).await?;
        browser
            .screenshot(&picture(&format!("{name}-dark")))
            .await?;
    }
    Ok(())
}

/// Where a picture is put.
fn picture(name: &str) -> PathBuf {
    let mut folder = lab::exporter_binary();
    folder.pop();
    folder.join("screenshots").join(format!("{name}.png"))
}

#[tokio::test]
async fn text_of_others_is_escaped_and_runs_no_script() -> anyhow::Result<()> {
    let state = State::violated().await?;
    let answer = state.cluster.exporter.get("/").await?;
    let policy = answer.headers["content-security-policy"].to_str()?;
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let mut browser = Browser::start().await?;
    browser.open(&state.url()).await?;
    let keys = "[...document.querySelectorAll('bdi')].map((bdi) => bdi.textContent)";
    let keys: Vec<String> = serde_json::from_value(browser.value(keys).await?)?;
    assert!(keys.iter().any(|key| key == EVIL_KEY), "{keys:?}");
    let made = "document.querySelectorAll('main script, main img, main b[onclick]').length";
    assert_eq!(browser.value(made).await?, 0);
    // A script that got past the escaping would not run.
    browser
        .value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')")
        .await?;
    browser
        .value("{ const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s) }")
        .await?;
    let owned = "new Promise((done) => setTimeout(() => done(window.owned === undefined), 200))";
    assert_eq!(browser.value(owned).await?, true);
    Ok(())
}

#[tokio::test]
async fn it_refreshes_itself_and_keeps_the_readers_place() -> anyhow::Result<()> {
    let mut state = State::violated().await?;
    let mut browser = Browser::start().await?;
    browser.size(900, 500).await?;
    browser.open(&state.url()).await?;
    // The reader opens the evidence of the last violation, scrolls to it, and selects a word in the table of nodes.
    let last = "document.querySelector('#violated li:last-child')";
    browser
        .value(&format!("{last}.querySelector('details').open = true"))
        .await?;
    browser
        .value(&format!("{last}.querySelector('summary').focus()"))
        .await?;
    browser
        .value(&format!("window.scrollTo(0, {last}.offsetTop - 20)"))
        .await?;
    browser
        .value("getSelection().selectAllChildren(document.querySelector('#nodes bdi'))")
        .await?;
    let name = browser.value(&format!("{last}.id")).await?;
    let name = name.as_str().unwrap_or_default();
    let place = format!("document.getElementById('{name}').getBoundingClientRect().top");
    let before = browser.value(&place).await?.as_f64();
    // Another violation, above it.
    let line = "document.querySelector('h1').textContent";
    assert_eq!(
        browser.value(line).await?,
        "✕ 5 critical: node_down, ghost_allowing ×4"
    );
    state.one_more().await?;
    browser
        .until(&format!("{line}.startsWith('✕ 6 critical')"))
        .await?;
    let after = browser.value(&place).await?.as_f64();
    let (Some(before), Some(after)) = (before, after) else {
        anyhow::bail!("{before:?}, {after:?}");
    };
    assert!(
        (before - after).abs() < 2.0,
        "moved from {before} to {after}"
    );
    let open = format!("document.getElementById('{name}-evidence').open");
    assert_eq!(browser.value(&open).await?, true);
    assert_eq!(browser.value("getSelection().toString()").await?, "node-1");
    let focused = "document.activeElement.id";
    assert_eq!(browser.value(focused).await?, format!("{name}-summary"));
    // An exporter that is gone is said to be gone, and what it said stays.
    state.cluster.exporter.process.kill();
    browser
        .until("!document.getElementById('lost').hidden")
        .await?;
    assert_eq!(browser.value(&open).await?, true);
    Ok(())
}

#[tokio::test]
async fn it_works_without_javascript() -> anyhow::Result<()> {
    let mut state = State::violated().await?;
    let mut browser = Browser::start().await?;
    let off = serde_json::json!({"value": true});
    browser
        .call("Emulation.setScriptExecutionDisabled", off)
        .await?;
    browser.open(&state.url()).await?;
    // The page loads itself anew, at any moment.
    let line = "document.querySelector('h1').textContent";
    browser
        .until(&format!(
            "{line} === '✕ 5 critical: node_down, ghost_allowing ×4'"
        ))
        .await?;
    let summary =
        "document.querySelector('summary').click(); document.querySelector('details').open";
    browser.until(summary).await?;
    state.one_more().await?;
    browser
        .until(&format!("{line}.startsWith('✕ 6 critical')"))
        .await
}
