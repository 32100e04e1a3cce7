//! The arguments: parts of names, and flags.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};

use crate::applications::{APPLICATIONS, Application};
use crate::bugs::{BUGS, Bug};

/// How many run at once. They mostly wait.
const AT_ONCE: usize = 16;

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Case {
    /// An application goes through the whole course.
    Course(&'static Application),
    /// A bug of a library is reproduced.
    Bug(&'static Bug),
}

impl Case {
    /// The application that runs.
    pub(crate) fn application(self) -> &'static Application {
        match self {
            Self::Course(application) => application,
            Self::Bug(bug) => bug.application(),
        }
    }
}

/// The arguments.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// In the order of the table.
    pub(crate) cases: Vec<Case>,
    /// How many may run at once.
    pub(crate) at_once: usize,
    /// Whether the exporter watches. Without it, only the applications are tested, which helps when adding one.
    pub(crate) exporter: bool,
}

impl Arguments {
    /// An unknown word is an error: otherwise, an application could be left out unnoticed.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut wanted = Vec::new();
        let mut at_once = AT_ONCE;
        let mut exporter = true;
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--without-exporter" => exporter = false,
                "--at-once" => {
                    let number = words.next().and_then(|number| number.parse().ok());
                    at_once = number
                        .filter(|number| *number > 0)
                        .context("--at-once: expected a number above 0 behind it")?;
                }
                flag if flag.starts_with('-') => {
                    bail!("{flag}: expected --at-once N, --without-exporter or words of names")
                }
                _ => wanted.push(word),
            }
        }
        let courses = APPLICATIONS.iter().map(Case::Course);
        let bugs = BUGS.iter().filter(|_| exporter).map(Case::Bug);
        let cases: Vec<Case> = courses.chain(bugs).collect();
        for word in &wanted {
            let files = cases.iter().map(|case| case.application().file);
            if !files.clone().any(|file| file.contains(word)) {
                let files: BTreeSet<&str> = files.collect();
                let files: Vec<&str> = files.into_iter().collect();
                bail!("{word}: expected a word of {}", files.join(", "));
            }
        }
        let chosen = |case: &Case| {
            let file = case.application().file;
            wanted.is_empty() || wanted.iter().any(|word| file.contains(word))
        };
        Ok(Self {
            cases: cases.into_iter().filter(chosen).collect(),
            at_once,
            exporter,
        })
    }
}
