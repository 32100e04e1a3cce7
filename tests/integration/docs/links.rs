//! Every link of every document leads to a file and a heading that are there. Links to other servers are not followed: the
//! tests need no network.

use std::path::{Component, Path};

use super::markdown::{Document, documents};
use crate::repository::path;

/// The path that a link of this document means, below the repository's root; `None` if it leads out of it.
fn target(from: &Document, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(from.path.clone());
    }
    let mut parts: Vec<String> = Vec::new();
    let folder = Path::new(&from.path).parent()?;
    for part in folder.join(link).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() -> anyhow::Result<()> {
    let documents = documents()?;
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in &documents {
        for link in document.links() {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            checked += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let leads = target(document, file).filter(|target| path(target).exists());
            let heading = leads.is_some_and(|target| {
                let mut named = documents.iter();
                let named = named.find(|other| other.path == target);
                let known = named.is_some_and(|it| it.anchors().iter().any(|a| a == anchor));
                anchor.is_empty() || known
            });
            if !heading {
                broken.push(format!("{}: {link}", document.path));
            }
        }
    }
    assert!(checked > 200, "{checked}");
    assert!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

#[test]
fn every_document_is_reached_from_the_readme() -> anyhow::Result<()> {
    let documents = documents()?;
    let mut reached = vec!["README.md".to_owned()];
    let mut next = 0;
    while next < reached.len() {
        let here = documents.iter().find(|it| it.path == reached[next]);
        next += 1;
        for link in here.into_iter().flat_map(Document::links) {
            let file = link.split('#').next().unwrap_or_default();
            let leads = here.and_then(|here| target(here, file));
            reached.extend(leads.filter(|target| !reached.contains(target)));
        }
    }
    let lost = documents.iter().filter(|it| !reached.contains(&it.path));
    let lost: Vec<_> = lost.map(|document| &document.path).collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
    Ok(())
}
