//! Tables on a terminal, and text of others in them.

use std::fmt::Write as _;

use crate::text::shortened;

/// The most characters of a cell.
const MOST: usize = 100;

/// Text of others, shortened to fit into a cell.
pub(crate) fn shown(text: &str) -> String {
    shortened(text, MOST)
}

/// Writes `rows`, each column as wide as its widest cell. The first row is the head.
pub(crate) fn write_table<R: AsRef<[String]>>(out: &mut String, rows: &[R]) {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        let row = row.as_ref();
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            // Writing into a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
