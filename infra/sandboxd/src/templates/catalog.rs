//! Names to root file systems: the built-in templates, and the snapshots and built templates of this server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use pvm_e2b_wire::launch::LaunchLimits;

use super::Templates;
use super::record::{DEFAULT_TAG, Origin, StartCommand, TemplateRecord};
use crate::store::{Layout, read_json, write_json};

/// Most parts a root is made of: `/`, and `/usr` where that is the host's.
pub(crate) const MAX_PARTS: usize = 2;
/// The tag that images have when nobody names one.
const LATEST_TAG: &str = "latest";
/// User of processes that name none.
const DEFAULT_USER: &str = "user";

/// A template as a sandbox needs it.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// As answered to clients.
    pub(crate) template_id: String,
    /// Its name.
    pub(crate) alias: Option<String>,
    /// What its root is made of.
    pub(crate) origin: Origin,
    /// Variables that its sandboxes start with.
    pub(crate) env: BTreeMap<String, String>,
    /// Limits of its own.
    pub(crate) limits: Option<LaunchLimits>,
    /// Command that its sandboxes start with, and the one that tells when that is ready.
    pub(crate) start: Option<StartCommand>,
}

/// One part of a sandbox's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Absolute path inside.
    pub(crate) target: String,
    /// Read-only folders, topmost first.
    pub(crate) lower: Vec<PathBuf>,
}

/// All templates that this server knows.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) roots: Templates,
    layout: Layout,
    records: RwLock<HashMap<String, TemplateRecord>>,
    /// Held while a record is read, changed and stored.
    changing: Mutex<()>,
    has_unreadable: bool,
}

/// The right to change stored templates. While somebody has it, nobody else reads one in order to change it.
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    catalog: &'a Catalog,
    _turn: MutexGuard<'a, ()>,
}

impl Edit<'_> {
    /// A template as it is now; see [`Catalog::record`].
    pub(crate) fn record(&self, wanted: &str, owner: &str) -> Option<TemplateRecord> {
        self.catalog.record(wanted, owner)
    }

    /// Stores a template.
    pub(crate) fn save(&self, record: TemplateRecord) -> io::Result<()> {
        write_json(&self.catalog.layout.template(&record.id), &record)?;
        let mut records = self.catalog.records.write().unwrap_or_else(PoisonError::into_inner);
        records.insert(record.id.clone(), record);
        Ok(())
    }

    /// Forgets a template; its layers stay until no sandbox needs them.
    pub(crate) fn delete(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.catalog.layout.template(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.catalog.records.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }
}

impl Catalog {
    /// Reads the stored templates.
    pub(crate) fn open(roots: Templates, layout: &Layout) -> io::Result<Self> {
        let mut records = HashMap::new();
        let mut has_unreadable = false;
        for entry in fs::read_dir(layout.templates())? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_json::<TemplateRecord>(&path) {
                Ok(Some(record)) => drop(records.insert(record.id.clone(), record)),
                Ok(None) => {}
                Err(error) => {
                    has_unreadable = true;
                    tracing::error!(%error, "a template's record cannot be read; it is left alone");
                }
            }
        }
        let (layout, records, changing) = (layout.clone(), RwLock::new(records), Mutex::default());
        Ok(Self { roots, layout, records, changing, has_unreadable })
    }

    /// Finds a template by id or name, as `owner` may use it. A name may carry a namespace and a tag.
    pub(crate) fn resolve(&self, wanted: &str, owner: &str) -> Option<Resolved> {
        if let Some(record) = self.record(wanted, owner) {
            let build = record.build(tag_of(wanted))?.clone();
            return Some(Resolved {
                template_id: record.id,
                alias: record.names.into_iter().next(),
                origin: build.origin,
                env: build.env,
                limits: build.limits,
                start: build.start,
            });
        }
        let name = plain_name(wanted);
        // Built-in templates have one build, the default one; as images are named, it is the latest too.
        if tag_of(wanted).is_some_and(|tag| tag != DEFAULT_TAG && tag != LATEST_TAG) {
            return None;
        }
        let root = match name {
            // Until `base` is built, the host stands in for it.
            "base" => self.roots.find("base").or_else(|| self.roots.find("host")),
            other => self.roots.find(other),
        }?;
        Some(Resolved {
            template_id: name.to_owned(),
            alias: Some(name.to_owned()),
            origin: Origin { root, layers: Vec::new(), user: DEFAULT_USER.into(), workdir: None },
            env: BTreeMap::new(),
            limits: None,
            start: None,
        })
    }

    /// A stored template of `owner`, by id or name; of several with the same name the newest.
    pub(crate) fn record(&self, wanted: &str, owner: &str) -> Option<TemplateRecord> {
        let name = plain_name(wanted);
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get(wanted).or_else(|| records.get(name)) {
            return (record.owner == owner).then(|| record.clone());
        }
        records
            .values()
            .filter(|record| record.owner == owner && record.names.iter().any(|known| known == name))
            .max_by_key(|record| record.created_at_ms)
            .cloned()
    }

    /// All stored templates of `owner`, oldest first.
    pub(crate) fn records(&self, owner: &str) -> Vec<TemplateRecord> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let mut own: Vec<_> = records.values().filter(|record| record.owner == owner).cloned().collect();
        own.sort_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        own
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change of stored templates.
    pub(crate) fn edit(&self) -> Edit<'_> {
        Edit { catalog: self, _turn: self.turn() }
    }

    /// Counts a sandbox that was made of a template. Only kept in memory until the template changes next: the
    /// number is for people.
    pub(crate) fn count_spawn(&self, id: &str, now_ms: u64) {
        let _turn = self.turn();
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(id) {
            record.spawn_count += 1;
            record.last_spawned_at_ms = Some(now_ms);
        }
    }

    /// Whether there are stored templates that could not be read, so that it is not known what they need.
    pub(crate) fn has_unreadable(&self) -> bool {
        self.has_unreadable
    }

    /// The layers that templates need.
    pub(crate) fn layers_in_use(&self) -> BTreeSet<String> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let builds = records.values().flat_map(|record| &record.builds);
        builds.flat_map(|build| build.origin.layers.iter().cloned()).collect()
    }

    /// The parts of a sandbox's root.
    pub(crate) fn parts(&self, origin: &Origin) -> io::Result<Vec<Part>> {
        let parts =
            self.roots.lower(&origin.root)?.into_iter().enumerate().map(|(index, (target, lower))| {
                let above =
                    origin.layers.iter().map(|layer| self.layout.layer(layer).join(index.to_string()));
                Part { target: target.into(), lower: above.chain(lower).collect() }
            });
        Ok(parts.collect())
    }
}

/// A name without namespace and tag: `team/name:tag` is `name`.
pub(crate) fn plain_name(wanted: &str) -> &str {
    let name = wanted.rsplit_once('/').map_or(wanted, |(_, name)| name);
    name.split_once(':').map_or(name, |(name, _)| name)
}

/// The tag of a name that has one.
pub(crate) fn tag_of(wanted: &str) -> Option<&str> {
    let name = wanted.rsplit_once('/').map_or(wanted, |(_, name)| name);
    name.split_once(':').map(|(_, tag)| tag).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::record::{TemplateBuild, TemplateKind};
    use super::*;

    #[test]
    fn namespace_and_tag_are_no_part_of_a_name() {
        assert_eq!(plain_name("team/base:v2"), "base");
        assert_eq!(plain_name("base"), "base");
    }

    #[test]
    fn a_template_belongs_to_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("state")).unwrap();
        let roots = Templates::open(&folder.path().join("roots")).unwrap();
        let catalog = Catalog::open(roots.clone(), &layout).unwrap();
        let origin =
            Origin { root: "r".into(), layers: vec!["l".into()], user: "user".into(), workdir: None };
        let build = |id: &str, at| TemplateBuild {
            id: id.into(),
            created_at_ms: at,
            origin: origin.clone(),
            env: BTreeMap::new(),
            limits: None,
            start: None,
        };
        let record = |id: &str, at| {
            let (name, kind) = (Some("mine".to_owned()), TemplateKind::Built);
            TemplateRecord::new(id.into(), "ann".into(), name, kind, build("b1", at), &["v1".into()])
        };
        catalog.edit().save(record("t1", 1)).unwrap();
        catalog.edit().save(record("t2", 2)).unwrap();
        assert_eq!(catalog.resolve("mine", "ann").unwrap().template_id, "t2");
        assert!(catalog.resolve("t1", "bob").is_none());
        let reopened = Catalog::open(roots, &layout).unwrap();
        reopened.edit().delete("t2").unwrap();
        assert_eq!(reopened.resolve("team/mine:v1", "ann").unwrap().template_id, "t1");
        assert!(reopened.resolve("team/mine:v2", "ann").is_none(), "no build has that tag");
        assert!(reopened.layers_in_use().contains("l"));
    }

    #[test]
    fn changes_of_a_template_happen_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("state")).unwrap();
        let roots = Templates::open(&folder.path().join("roots")).unwrap();
        let catalog = Catalog::open(roots, &layout).unwrap();
        let origin = Origin { root: "r".into(), layers: Vec::new(), user: "user".into(), workdir: None };
        let build = TemplateBuild {
            id: "b".into(),
            created_at_ms: 1,
            origin,
            env: BTreeMap::new(),
            limits: None,
            start: None,
        };
        let record = TemplateRecord::new("t".into(), "ann".into(), None, TemplateKind::Built, build, &[]);
        catalog.edit().save(record).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let catalog = &catalog;
                scope.spawn(move || {
                    for step in 0..20 {
                        let edit = catalog.edit();
                        let mut record = edit.record("t", "ann").unwrap();
                        record.assign(&format!("tag-{number}-{step}"), "b", 1);
                        edit.save(record).unwrap();
                        drop(edit);
                        catalog.count_spawn("t", 2);
                    }
                });
            }
        });
        let record = catalog.record("t", "ann").unwrap();
        assert_eq!((record.tags.len(), record.spawn_count), (8 * 20 + 1, 8 * 20));
    }
}
