//! The table: a line for each figure, with what is wanted of it, and whether that is missed.

/// What is wanted of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// Nothing: it is there to be seen.
    Nothing,
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Wanted {
    fn missed_by(self, figure: f64) -> bool {
        match self {
            Self::Nothing => false,
            Self::AtMost(most) => figure > most,
            Self::AtLeast(least) => figure < least,
        }
    }

    fn text(self, figure: f64) -> String {
        let wanted = match self {
            Self::Nothing => return "–".to_owned(),
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
        };
        if self.missed_by(figure) {
            format!("{wanted} **MISSED**")
        } else {
            wanted
        }
    }
}

/// The lines so far. Each is printed at once: a whole run takes long.
#[derive(Debug)]
pub(crate) struct Figures {
    judged: usize,
    missed: Vec<String>,
}

impl Figures {
    /// Prints the head of the table.
    pub(crate) fn start() -> Self {
        println!("| keys | what | figure | wanted | from |");
        println!("|---|---|---|---|---|");
        Self {
            judged: 0,
            missed: Vec::new(),
        }
    }

    /// One figure; `from` says what it was computed from.
    pub(crate) fn add(&mut self, keys: u64, what: &str, figure: f64, wanted: Wanted, from: &str) {
        let line = format!(
            "| {keys} | {what} | {} | {} | {from} |",
            rounded(figure),
            wanted.text(figure)
        );
        println!("{line}");
        self.judged += usize::from(!matches!(wanted, Wanted::Nothing));
        if wanted.missed_by(figure) {
            self.missed.push(line);
        }
    }

    /// Prints what was missed once more.
    pub(crate) fn end(self) {
        println!("\nMISSED: {} of {}", self.missed.len(), self.judged);
        for line in self.missed {
            println!("{line}");
        }
    }
}

/// Three digits that count, and no more.
fn rounded(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
