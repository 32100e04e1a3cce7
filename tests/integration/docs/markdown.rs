//! The documents of the repository as the tests read them: prose, blocks of code, headings and links. It reads the Markdown
//! that is written here, not all that there is: no reference links, no headings underlined.

use std::path::Path;

use crate::repository::{path, text};

/// A document in Markdown.
#[derive(Debug)]
pub(super) struct Document {
    /// Below the repository's root.
    pub(super) path: String,
    pub(super) text: String,
}

/// A block between fences.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) language: String,
    pub(super) text: String,
}

/// Every document of the repository, in the order of their paths.
pub(super) fn documents() -> anyhow::Result<Vec<Document>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(path(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let below = format!("{folder}{name}");
            if entry.file_type()?.is_dir() {
                // What is built and installed has documents of others.
                if !name.starts_with('.') && name != "target" && name != "node_modules" {
                    folders.push(format!("{below}/"));
                }
            } else if Path::new(&name).extension().is_some_and(|it| it == "md") {
                let text = text(&below)?;
                found.push(Document { path: below, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    anyhow::ensure!(found.len() > 40, "these are not the documents: {found:?}");
    Ok(found)
}

impl Document {
    /// The lines outside of blocks.
    pub(super) fn prose(&self) -> Vec<&str> {
        let mut inside = false;
        let lines = self.text.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        });
        lines.collect()
    }

    /// The blocks between fences.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, open.as_mut()) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => {
                    let language = language.to_owned();
                    let text = String::new();
                    open = Some(Block { language, text });
                }
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        blocks
    }

    /// What a link can lead to behind `#`, as GitHub makes it of the headings.
    pub(super) fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        for line in self.prose() {
            let heading = line.trim_start_matches('#');
            let level = line.len() - heading.len();
            if !(1..=6).contains(&level) || !heading.starts_with(' ') {
                continue;
            }
            let name = slug(&shown(heading.trim()));
            let before = anchors.iter().filter(|it| **it == name).count();
            anchors.push(match before {
                0 => name,
                again => format!("{name}-{again}"),
            });
        }
        anchors
    }

    /// Where the links and pictures lead to, as written.
    pub(super) fn links(&self) -> Vec<String> {
        let mut links = Vec::new();
        let prose = self.prose().join("\n");
        for (begin, end) in [("](", &[')', ' ', '\n'][..]), ("<img src=\"", &['"'])] {
            for (at, _) in prose.match_indices(begin) {
                let target = &prose[at + begin.len()..];
                let end = target.find(end).unwrap_or(target.len());
                links.push(target[..end].to_owned());
            }
        }
        links
    }

    /// What the spans between backticks hold, outside of blocks.
    pub(super) fn spans(&self) -> Vec<String> {
        let prose = self.prose().join("\n");
        let paragraphs = prose.split("\n\n").flat_map(|paragraph| {
            // A row of a table has its own spans: one that is not closed does not reach into the next.
            let rows: Vec<&str> = if paragraph.starts_with('|') {
                paragraph.lines().collect()
            } else {
                vec![paragraph]
            };
            rows
        });
        let spans = paragraphs.flat_map(|text| text.split('`').skip(1).step_by(2));
        spans.map(str::to_owned).collect()
    }

    /// Every run of these characters in the whole text, blocks included.
    pub(super) fn words(&self, of: fn(char) -> bool) -> impl Iterator<Item = &str> {
        let words = self.text.split(move |c| !of(c));
        words.filter(|word| !word.is_empty())
    }
}

/// A heading as it is shown: links are their text.
fn shown(heading: &str) -> String {
    let mut shown = String::new();
    let mut rest = heading;
    while let Some(at) = rest.find("](") {
        shown.push_str(&rest[..at]);
        rest = rest[at..].split_once(')').unwrap_or_default().1;
    }
    shown + rest
}

fn slug(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The blocks of YAML below this heading, up to the next one.
pub(super) fn yaml_below(document: &Document, heading: &str) -> Vec<String> {
    let begins = format!("\n{heading}\n");
    let below = document.text.split(&begins).nth(1).unwrap_or_default();
    let section = below.split("\n##").next().unwrap_or_default();
    let blocks = section.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    blocks.map(str::to_owned).collect()
}

#[test]
fn anchors_are_those_of_github() {
    let document = Document {
        path: String::new(),
        text: "# A `b_c`: d, e\n\n## [Links](x.md#y) are text\n\n```sh\n# no heading\n```\n## Twice\n## Twice\n".to_owned(),
    };
    let expected = ["a-b_c-d-e", "links-are-text", "twice", "twice-1"];
    assert_eq!(document.anchors(), expected);
    assert_eq!(document.links(), ["x.md#y"]);
    assert_eq!(document.spans(), ["b_c"]);
    assert_eq!(document.blocks()[0].text, "# no heading\n");
}
