//! Who imports whom: read off the code, and held against the table in docs/ARCHITECTURE.md. A circle between two files or
//! two rooms fails, and so does an arrow that the table does not have.
//!
//! Left out: tests, and the arrows between a module and the modules inside it, which are one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Every module of `src` by its path, `observe::redis::router`, and its text without tests.
fn modules() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of src") {
            let path = entry.expect("an entry of src").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path
                .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
                .expect("it is below src")
                .with_extension("");
            let name = name
                .to_str()
                .expect("a module's name is text")
                .replace('/', "::");
            if !name.ends_with("tests") && name != "lib" {
                found.insert(
                    name,
                    code(&fs::read_to_string(&path).expect("a source is text")),
                );
            }
        }
    }
    assert!(found.len() > 50, "these are not the sources: {found:?}");
    found
}

/// The text without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests");
    let text = &text[..tests.unwrap_or(text.len())];
    let lines = text.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path that the code of `module` names, in full: `use` trees are taken apart.
fn paths(module: &str, code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let bytes = code.as_bytes();
    for root in ["crate::", "super::", "ratelimiter_exporter::"] {
        for (at, _) in code.match_indices(root) {
            let before = at.checked_sub(1).map(|before| bytes[before]);
            let inside =
                before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
            // In `super::super::a` the second is read with the first.
            if !inside {
                tree(&code[at..], "", &mut found);
            }
        }
    }
    found
        .iter()
        .filter_map(|path| absolute(module, path))
        .collect()
}

/// Reads one path or `use` tree at the beginning of `text`; returns what is behind it.
fn tree<'a>(text: &'a str, prefix: &str, found: &mut BTreeSet<String>) -> &'a str {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..end]);
    let rest = &text[end..];
    let Some(mut rest) = rest.strip_prefix('{').filter(|_| path.ends_with("::")) else {
        found.insert(path.trim_end_matches(':').to_owned());
        return rest;
    };
    loop {
        rest = tree(rest.trim_start(), &path, found).trim_start();
        match rest.strip_prefix(',') {
            Some(more) if !more.trim_start().starts_with('}') => rest = more,
            Some(more) => return more.trim_start().strip_prefix('}').unwrap_or_default(),
            None => return rest.strip_prefix('}').unwrap_or(rest),
        }
    }
}

fn absolute(module: &str, path: &str) -> Option<String> {
    let mut here: Vec<&str> = module.split("::").collect();
    let mut parts = path.split("::").peekable();
    match *parts.peek()? {
        "crate" | "ratelimiter_exporter" => {
            parts.next();
            here.clear();
        }
        _ => {
            while parts.next_if_eq(&"super").is_some() {
                here.pop()?;
            }
        }
    }
    here.extend(parts);
    Some(here.join("::"))
}

/// The arrows between files.
fn arrows() -> Arrows {
    let modules = modules();
    let mut arrows = Arrows::new();
    for (module, code) in &modules {
        let targets = paths(module, code).into_iter().filter_map(|path| {
            let mut path = path.as_str();
            while !modules.contains_key(path) {
                path = path.rsplit_once("::")?.0;
            }
            Some(path.to_owned())
        });
        let apart = |target: &String| !within(target, module) && !within(module, target);
        arrows.insert(module.clone(), targets.filter(apart).collect());
    }
    arrows
}

fn within(inner: &str, outer: &str) -> bool {
    inner == outer
        || inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// The first `depth` parts of each end; arrows inside one place are left out.
fn between_rooms(arrows: &Arrows, depth: usize) -> Arrows {
    let room = |module: &str| {
        let parts: Vec<&str> = module.split("::").take(depth).collect();
        parts.join("::")
    };
    let mut rooms = Arrows::new();
    for (from, targets) in arrows {
        let targets = targets.iter().map(|target| room(target));
        let others = targets.filter(|target| {
            let from = room(from);
            !within(target, &from) && !within(&from, target)
        });
        rooms.entry(room(from)).or_default().extend(others);
    }
    rooms
}

/// The circles: groups in which every module leads to every other.
fn circles(arrows: &Arrows) -> BTreeSet<Vec<&str>> {
    let leads_to = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = arrows[from].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module.as_str()) {
                next.extend(arrows.get(module).into_iter().flatten());
            }
        }
        reached
    };
    let reached: BTreeMap<&str, _> = arrows
        .keys()
        .map(|from| (from.as_str(), leads_to(from)))
        .collect();
    let group = |from: &str| -> Vec<&str> {
        let there = reached[from].iter().copied();
        there
            .filter(|to| reached.get(to).is_some_and(|back| back.contains(from)))
            .collect()
    };
    let groups = reached.keys().map(|from| group(from));
    groups.filter(|group| !group.is_empty()).collect()
}

#[test]
fn no_import_leads_back_to_where_it_began() {
    let files = arrows();
    let rooms = between_rooms(&files, 1);
    let inner = between_rooms(&files, 2);
    let found = [circles(&rooms), circles(&inner), circles(&files)];
    assert!(found.iter().all(BTreeSet::is_empty), "{found:#?}");
}

/// The table "Who may import whom" of docs/ARCHITECTURE.md: module, and what it may import.
fn allowed() -> Arrows {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let table = text.split("\n## Who may import whom\n").nth(1);
    let table = table.expect("docs/ARCHITECTURE.md has the section \"Who may import whom\"");
    let rows = table
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2);
    let names = |cell: &str| {
        let names = cell.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let mut allowed = Arrows::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        for module in names(cells[1]) {
            allowed.insert(module, names(cells[2]));
        }
    }
    allowed
}

#[test]
fn every_arrow_between_modules_is_in_the_table() {
    let allowed = allowed();
    let rooms = between_rooms(&arrows(), 1);
    let mut wrong = Vec::new();
    for (from, targets) in &rooms {
        let Some(allowed) = allowed.get(from) else {
            wrong.push(format!("{from} is not in the table"));
            continue;
        };
        let others = targets.iter().filter(|target| !allowed.contains(*target));
        wrong.extend(others.map(|target| format!("{from} -> {target}")));
        let idle = allowed.iter().filter(|target| !targets.contains(*target));
        wrong.extend(
            idle.map(|target| format!("{from} -> {target} is in the table, not in the code")),
        );
    }
    let gone = allowed.keys().filter(|module| !rooms.contains_key(*module));
    wrong.extend(gone.map(|module| format!("{module} is in the table, not in the code")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn use_trees_are_read_to_their_ends() {
    let code = "use crate::a::{b::{self, C}, d::E,};\nuse super::f;\nlet x = super::super::g::h();";
    let found = paths("m::n::o", code);
    let expected = ["a::b::self", "a::b::C", "a::d::E", "m::n::f", "m::g::h"];
    assert_eq!(found, expected.map(str::to_owned).into());
}
