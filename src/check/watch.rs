//! Shows repeated tables: on a terminal in one place, elsewhere one after the other.

use std::io::{self, IsTerminal as _, Write};

use rustix::termios::tcgetwinsize;

/// Switches to the alternate screen, without a cursor.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";

/// Switches back.
const END: &str = "\x1b[?25h\x1b[?1049l";

/// Draws the tables. When it is dropped, the terminal shows its previous content again.
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

    /// Replaces what is shown by `text`.
    pub(super) fn draw(&mut self, text: &str) -> io::Result<()> {
        text.clone_into(&mut self.last);
        if !self.terminal {
            return write(&format!("{text}\n"));
        }
        // If the terminal does not report its size, it gets the whole text.
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

/// The output that replaces the screen by `text`, cut to the size of the terminal so that nothing scrolls away.
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
    // Starts at the top, and erases the rest of each line and of the screen.
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
