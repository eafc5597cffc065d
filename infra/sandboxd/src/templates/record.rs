//! Snapshots and built templates, as stored: their builds, and the tags that name them.

use std::collections::BTreeMap;

use pvm_e2b_wire::launch::LaunchLimits;
use serde::{Deserialize, Serialize};

/// What a sandbox's root is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Folder name of the root file system below the template folder.
    pub(crate) root: String,
    /// Layers above it, the topmost first.
    #[serde(default)]
    pub(crate) layers: Vec<String>,
    /// User of processes that name none.
    pub(crate) user: String,
    /// Working directory of processes that name none; absent means the user's home.
    #[serde(default)]
    pub(crate) workdir: Option<String>,
}

/// What a built template starts in each of its sandboxes; one of the two at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartCommand {
    /// Run in the background.
    #[serde(default)]
    pub(crate) start: Option<String>,
    /// Waited for until it succeeds.
    #[serde(default)]
    pub(crate) ready: Option<String>,
}

/// How a template came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TemplateKind {
    /// From a sandbox, by `POST /sandboxes/{id}/snapshots`.
    Snapshot {
        /// The sandbox.
        sandbox_id: String,
    },
    /// By a template build.
    Built,
}

/// The tag of a build when nobody names one.
pub(crate) const DEFAULT_TAG: &str = "default";
/// Builds of one template that are kept; of older ones without a tag the layers go.
const MAX_BUILDS: usize = 100;

/// A snapshot or built template, as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TemplateRecord {
    pub(crate) id: String,
    pub(crate) owner: String,
    /// Its names, without tags.
    pub(crate) names: Vec<String>,
    pub(crate) kind: TemplateKind,
    pub(crate) created_at_ms: u64,
    /// Whether its owner said that everybody may use it. On this server nobody else can; it is only kept and told.
    #[serde(default)]
    pub(crate) public: bool,
    /// How often a sandbox was made of it.
    #[serde(default)]
    pub(crate) spawn_count: u64,
    /// When one was last made.
    #[serde(default)]
    pub(crate) last_spawned_at_ms: Option<u64>,
    /// Its builds, oldest first; never empty.
    pub(crate) builds: Vec<TemplateBuild>,
    /// Which build each tag means.
    pub(crate) tags: BTreeMap<String, TagAssignment>,
}

/// One build of a template: what its sandboxes are made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TemplateBuild {
    /// A UUID, as E2B's clients expect it.
    pub(crate) id: String,
    pub(crate) created_at_ms: u64,
    pub(crate) origin: Origin,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) limits: Option<LaunchLimits>,
    #[serde(default)]
    pub(crate) start: Option<StartCommand>,
}

/// That a tag means a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagAssignment {
    /// A UUID.
    pub(crate) id: String,
    pub(crate) build_id: String,
    pub(crate) at_ms: u64,
}

impl TemplateRecord {
    /// A template with its first build.
    pub(crate) fn new(
        id: String,
        owner: String,
        name: Option<String>,
        kind: TemplateKind,
        build: TemplateBuild,
        tags: &[String],
    ) -> Self {
        let mut record = Self {
            id,
            owner,
            names: name.into_iter().collect(),
            kind,
            created_at_ms: build.created_at_ms,
            public: false,
            spawn_count: 0,
            last_spawned_at_ms: None,
            builds: Vec::new(),
            tags: BTreeMap::new(),
        };
        record.add_build(build, tags);
        record
    }

    /// Adds a build under tags, or under the usual one when there are none.
    pub(crate) fn add_build(&mut self, build: TemplateBuild, tags: &[String]) {
        let (id, at_ms) = (build.id.clone(), build.created_at_ms);
        self.builds.push(build);
        if tags.is_empty() {
            self.assign(DEFAULT_TAG, &id, at_ms);
        }
        for tag in tags {
            self.assign(tag, &id, at_ms);
        }
        self.forget_old_builds();
    }

    /// Makes a tag mean a build.
    pub(crate) fn assign(&mut self, tag: &str, build_id: &str, at_ms: u64) {
        let assignment = TagAssignment { id: new_uuid(), build_id: build_id.to_owned(), at_ms };
        self.tags.insert(tag.to_owned(), assignment);
    }

    /// The build that a tag means; without a tag the default one, or the newest where none is tagged so.
    pub(crate) fn build(&self, tag: Option<&str>) -> Option<&TemplateBuild> {
        let of =
            |assignment: &TagAssignment| self.builds.iter().find(|build| build.id == assignment.build_id);
        match tag {
            Some(tag) => self.tags.get(tag).and_then(of),
            None => self.tags.get(DEFAULT_TAG).and_then(of).or_else(|| self.builds.last()),
        }
    }

    /// The newest build.
    pub(crate) fn latest(&self) -> Option<&TemplateBuild> {
        self.builds.last()
    }

    /// Each name with each tag.
    pub(crate) fn tagged_names(&self) -> Vec<String> {
        let pairs =
            self.names.iter().flat_map(|name| self.tags.keys().map(move |tag| format!("{name}:{tag}")));
        pairs.collect()
    }

    fn forget_old_builds(&mut self) {
        while self.builds.len() > MAX_BUILDS {
            let is_tagged = |build: &TemplateBuild| self.tags.values().any(|tag| tag.build_id == build.id);
            let Some(oldest) = self.builds.iter().position(|build| !is_tagged(build)) else { return };
            self.builds.remove(oldest);
        }
    }
}

/// A random UUID.
pub(crate) fn new_uuid() -> String {
    let mut bytes = rand::random::<[u8; 16]>();
    // Version 4, variant 1.
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_means_one_build_and_no_tag_the_default_one() {
        let origin = Origin { root: "r".into(), layers: Vec::new(), user: "user".into(), workdir: None };
        let build = |id: &str, at| TemplateBuild {
            id: id.into(),
            created_at_ms: at,
            origin: origin.clone(),
            env: BTreeMap::new(),
            limits: None,
            start: None,
        };
        let mut record =
            TemplateRecord::new("t".into(), "ann".into(), None, TemplateKind::Built, build("1", 1), &[]);
        record.add_build(build("2", 2), &["v2".into()]);
        let id = |tag: Option<&str>| record.build(tag).map(|build| build.id.as_str());
        assert_eq!((id(None), id(Some("v2")), id(Some("v3"))), (Some("1"), Some("2"), None));
        for at in 3..200 {
            record.add_build(build(&at.to_string(), at), &["latest".into()]);
        }
        assert_eq!(record.builds.len(), MAX_BUILDS);
        assert!(record.build(None).is_some() && record.build(Some("v2")).is_some());
    }

    #[test]
    fn uuids_have_their_form() {
        let id = new_uuid();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert_eq!(id.matches('-').count(), 4);
    }
}
