//! Repeated tables: in one place of a terminal, elsewhere one after the other.

use std::io::{self, IsTerminal as _, Write};

use rustix::termios::tcgetwinsize;

/// Switches to the alternate screen, without a cursor.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";

/// Switches back.
const END: &str = "\x1b[?25h\x1b[?1049l";

/// Where the tables are drawn. When it is dropped, the terminal shows again what it showed before.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    last: String,
}

impl Screen {
    /// Standard output.
    pub(super) fn new() -> io::Result<Self> {
        let terminal = io::stdout().is_terminal();
        if terminal {
            write(BEGIN)?;
        }
        Ok(Self {
            terminal,
            last: String::new(),
        })
    }

    /// Shows `text` instead of what is shown.
    pub(super) fn draw(&mut self, text: &str) -> io::Result<()> {
        text.clone_into(&mut self.last);
        if !self.terminal {
            return write(&format!("{text}\n"));
        }
        // A terminal that does not know its size gets all of it.
        let size = tcgetwinsize(io::stdout())
            .ok()
            .filter(|size| size.ws_row > 1);
        let (rows, columns) = size.map_or((usize::MAX, usize::MAX), |size| {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        });
        write(&drawn(text, rows, columns))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            // The last tables stay readable. It does not matter if the terminal is gone.
            let _ = write(&format!("{END}{}", self.last));
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// `text` over what is there, cut to the terminal, so that nothing scrolls away.
fn drawn(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let fits = lines.len() < rows;
    let shown = if fits {
        lines.len()
    } else {
        rows.saturating_sub(2)
    };
    let mut drawn: Vec<String> = Vec::new();
    for (number, line) in lines[..shown].iter().enumerate() {
        let cut: String = line.chars().take(columns).collect();
        // Bold: the first line, and what is violated.
        if number == 0 || line.contains("  VIOLATED  ") {
            drawn.push(format!("\x1b[1m{cut}\x1b[0m"));
        } else {
            drawn.push(cut);
        }
    }
    if !fits {
        drawn.push(format!("… {} lines more", lines.len() - shown));
    }
    // From the top, with the rest of each line and of the screen erased.
    format!("\x1b[H{}\x1b[K\r\n\x1b[J", drawn.join("\x1b[K\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_do_not_fit_are_cut_or_counted() {
        let text = "verdict\na  VIOLATED  b\nthree\nfour\nfive\n";
        let whole = drawn(text, 6, 80);
        assert_eq!(whole.matches("\r\n").count(), 5);
        assert!(whole.contains("\x1b[1mverdict\x1b[0m\x1b[K"));
        assert!(whole.contains("\x1b[1ma  VIOLATED  b\x1b[0m"));
        let small = drawn(text, 4, 3);
        assert_eq!(
            small,
            "\x1b[H\x1b[1mver\x1b[0m\x1b[K\r\n\x1b[1ma  \x1b[0m\x1b[K\r\n… 3 lines more\x1b[K\r\n\x1b[J"
        );
    }
}
