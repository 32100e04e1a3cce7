//! What cargo passes on: names to filter by, and the flags of the usual test harness, of which few mean anything here.

/// How many scenarios run at once. They mostly wait: each takes about a twentieth of a core.
const AT_ONCE: usize = 17;

/// The arguments.
#[derive(Debug)]
pub(crate) struct Arguments {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    ignored_only: bool,
    /// Only name the scenarios.
    pub(crate) list: bool,
    /// How many may run at once.
    pub(crate) at_once: usize,
}

impl Arguments {
    /// Never fails: it skips flags that it does not know.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Self {
        let mut arguments = Self {
            filters: Vec::new(),
            skip: Vec::new(),
            exact: false,
            ignored_only: false,
            list: false,
            at_once: AT_ONCE,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with('-') => {
                    (flag.to_owned(), Some(value.to_owned()))
                }
                _ => (word.clone(), None),
            };
            let mut value = || value.clone().or_else(|| words.next());
            match flag.as_str() {
                "--test-threads" => {
                    let threads = value().and_then(|text| text.parse().ok());
                    arguments.at_once = threads.unwrap_or(AT_ONCE).max(1);
                }
                "--skip" => arguments.skip.extend(value()),
                "--color" | "--format" | "--logfile" | "--report-time" | "-Z"
                | "--shuffle-seed" => {
                    value();
                }
                "--exact" => arguments.exact = true,
                "--list" => arguments.list = true,
                "--ignored" => arguments.ignored_only = true,
                flag if flag.starts_with('-') => {}
                name => arguments.filters.push(name.to_owned()),
            }
        }
        arguments
    }

    /// Whether the scenario of this name is to run.
    pub(crate) fn selects(&self, name: &str) -> bool {
        let matches = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        !self.ignored_only
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skip.iter().any(matches)
    }
}
