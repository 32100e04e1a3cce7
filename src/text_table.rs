//! Tables on a terminal, and text of others in them.

use std::fmt::Write as _;

use crate::text::shortened;

/// The most characters of a cell.
const MOST: usize = 100;

/// Text of others, shortened to fit into a cell.
pub(crate) fn shown(text: &str) -> String {
    shortened(text, MOST)
}

/// Writes `rows` one below the other, each column as wide as its widest cell. The first row is the head.
pub(crate) fn write_table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing into a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
