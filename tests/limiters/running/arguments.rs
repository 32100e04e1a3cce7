//! What was asked for: words of names, and two flags.

use anyhow::{Context as _, bail};

use crate::applications::{APPLICATIONS, Application};

/// How many applications run at once: they mostly wait.
const AT_ONCE: usize = 12;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// In the order of the table.
    pub(crate) applications: Vec<&'static Application>,
    /// How many may run at once.
    pub(crate) at_once: usize,
    /// Whether the exporter watches. Without it, only the applications are tried: for whoever adds one.
    pub(crate) exporter: bool,
}

impl Arguments {
    /// An error names what is not known: an application that is left out by mistake would look sound.
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
        for word in &wanted {
            if !APPLICATIONS.iter().any(|one| one.file.contains(word)) {
                let names: Vec<&str> = APPLICATIONS.iter().map(|one| one.file).collect();
                bail!("{word}: expected a word of {}", names.join(", "));
            }
        }
        let chosen = |one: &&Application| {
            wanted.is_empty() || wanted.iter().any(|word| one.file.contains(word))
        };
        Ok(Self {
            applications: APPLICATIONS.iter().filter(chosen).collect(),
            at_once,
            exporter,
        })
    }
}
