//! What a tour waits for: values in `/metrics`, and pages where there is a pager. Once that takes too long, it goes on without
//! them, and the record shows that.

use std::time::Duration;

use tokio::sync::watch;

use super::record::Record;
use super::screen::Screen;
use super::view::View;
use crate::webhook::Status;

/// From the moment an invariant is seen violated to its page: `for`, `group_wait`, a scrape and an
/// evaluation are 65 s at the most.
const PAGE: Duration = Duration::from_secs(90);

/// What a tour waits for.
pub(super) struct Seen<'a> {
    pub(super) view: watch::Receiver<View>,
    pub(super) pages: Option<watch::Receiver<Record>>,
    pub(super) screen: &'a Screen,
}

impl Seen<'_> {
    /// Waits until `/metrics` says so, and then for the page.
    pub(super) async fn until_violated(&self, name: &str, patience: Duration) {
        let what = format!("{name} is violated");
        self.until(&what, patience, |view| view.is_violated(name))
            .await;
        self.until_paged(name, Status::Firing, PAGE).await;
    }

    /// Waits for the page, or its end, where there is a pager.
    pub(super) async fn until_paged(&self, name: &str, status: Status, patience: Duration) {
        let Some(mut pages) = self.pages.clone() else {
            return;
        };
        let told = pages.wait_for(|record| record.was_told(name, status));
        let told = tokio::time::timeout(patience, told).await.is_ok();
        self.go_on(
            told,
            &format!("{name} is {status:?} at the pager"),
            patience,
        );
    }

    pub(super) async fn until_holds(&self, name: &str, patience: Duration) {
        let what = format!("{name} holds again");
        let holds = |view: &View| view.is_read() && !view.is_violated(name);
        self.until(&what, patience, holds).await;
    }

    pub(super) async fn until(
        &self,
        what: &str,
        patience: Duration,
        condition: impl Fn(&View) -> bool,
    ) {
        let mut view = self.view.clone();
        let seen = view.wait_for(|view| condition(view));
        let seen = tokio::time::timeout(patience, seen).await.is_ok();
        self.go_on(seen, what, patience);
    }

    fn go_on(&self, happened: bool, what: &str, patience: Duration) {
        if !happened {
            let seconds = patience.as_secs();
            self.screen.say(format!(
                "        going on after waiting {seconds} s until {what}"
            ));
        }
    }
}
