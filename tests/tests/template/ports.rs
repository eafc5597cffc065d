//! Which ports a program uses, read from its source: the handlers and use cases that its `main` names, and the traits
//! that their signatures ask for. The compiler sees to it that they use no others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use syn::visit::Visit;

/// Folders with functions that programs may call.
const CALLED: &[&str] = &["shared/application/src", "functions", "shared/tools/src"];
/// The ports of a VM are one policy: they all speak to the VM's service with one key.
const VM: &[&str] =
    &["CreateVm", "FindVm", "ConnectVm", "EndVm", "RunCommands", "VmFiles", "VmAccess", "SetEgress"];
/// Ports whose adapter calls AWS, each with a policy of its name.
pub(crate) const PORTS: &[&str] = &[
    "ReadStore",
    "WriteStore",
    "PutObject",
    "GetObject",
    "DeleteObject",
    "PresignObject",
    "UploadParts",
    "StartExecution",
    "StopExecution",
    "SendTask",
    "RequestSave",
    "ReadSecrets",
    "KeepSecrets",
    "KnowModels",
    "CallModel",
    "Vm",
];

type Ports = BTreeSet<String>;

/// A function that a program may call.
struct Called {
    module: Vec<String>,
    ports: Ports,
}

static INDEX: LazyLock<BTreeMap<String, Vec<Called>>> = LazyLock::new(|| {
    let mut index: BTreeMap<String, Vec<Called>> = BTreeMap::new();
    for path in CALLED.iter().flat_map(|folder| crate::sources(folder)) {
        if path.components().any(|part| part.as_os_str() == "bin" || part.as_os_str() == "tests") {
            continue;
        }
        let module = module_of(&path);
        for item in parse(&path).items {
            if let syn::Item::Fn(function) = item {
                let ports = ports_of(&function.sig.generics, function.sig.inputs.iter());
                let called = Called { module: module.clone(), ports };
                index.entry(function.sig.ident.to_string()).or_default().push(called);
            }
        }
    }
    index
});

/// Traits of ours that stand for several ports: what their own bounds and those of their types name.
static BUNDLES: LazyLock<BTreeMap<String, BTreeSet<String>>> = LazyLock::new(|| {
    let mut bundles: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in CALLED.iter().flat_map(|folder| crate::sources(folder)) {
        for item in parse(&path).items {
            if let syn::Item::Trait(item) = item {
                let mut bounds = Bounds::default();
                item.supertraits.iter().for_each(|bound| bounds.visit_type_param_bound(bound));
                for part in &item.items {
                    if let syn::TraitItem::Type(part) = part {
                        part.bounds.iter().for_each(|bound| bounds.visit_type_param_bound(bound));
                    }
                }
                bundles.entry(item.ident.to_string()).or_default().extend(bounds.0);
            }
        }
    }
    bundles
});

/// Names of traits that bounds mention.
#[derive(Default)]
struct Bounds(BTreeSet<String>);

impl<'ast> Visit<'ast> for Bounds {
    fn visit_trait_bound(&mut self, bound: &'ast syn::TraitBound) {
        self.0.insert(bound.path.segments.last().unwrap().ident.to_string());
        syn::visit::visit_trait_bound(self, bound);
    }
}

/// What an implementation of `Tools` needs: its tools run over these ports.
static TOOLS: LazyLock<Ports> = LazyLock::new(|| {
    let mut found = Ports::new();
    for path in crate::sources("shared/tools/src") {
        for item in parse(&path).items {
            if let syn::Item::Impl(block) = item
                && block
                    .trait_
                    .as_ref()
                    .is_some_and(|(_, path, _)| path.segments.last().unwrap().ident == "Tools")
            {
                found.extend(ports_of(&block.generics, std::iter::empty()));
            }
        }
    }
    found
});

fn parse(path: &Path) -> syn::File {
    let text = std::fs::read_to_string(path).unwrap();
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `functions/api/src/projects/create.rs` -> `[pvm_api, projects, create]`.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.strip_prefix(crate::root()).unwrap().with_extension("");
    let parts = path.iter().skip(1).map(|part| part.to_str().unwrap());
    let parts = parts.filter(|part| !["src", "mod", "lib"].contains(part));
    let name = |(at, part): (usize, &str)| {
        if at == 0 { format!("pvm_{}", part.replace('-', "_")) } else { part.to_owned() }
    };
    parts.enumerate().map(name).collect()
}

/// The ports that bounds of a signature name, directly or through a bundle.
fn ports_of<'a>(generics: &syn::Generics, inputs: impl Iterator<Item = &'a syn::FnArg>) -> Ports {
    let mut bounds = Bounds::default();
    bounds.visit_generics(generics);
    inputs.for_each(|input| bounds.visit_fn_arg(input));
    let mut open: Vec<String> = bounds.0.into_iter().collect();
    let (mut seen, mut ports) = (BTreeSet::new(), Ports::new());
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        if VM.contains(&name.as_str()) {
            ports.insert("Vm".to_owned());
        } else if PORTS.contains(&name.as_str()) {
            ports.insert(name);
        } else if name == "Tools" {
            ports.extend(TOOLS.iter().cloned());
        } else if let Some(bundle) = BUNDLES.get(&name) {
            open.extend(bundle.iter().cloned());
        }
    }
    ports
}

/// Every path that a program names, with its `use` names written out.
struct Named {
    imports: BTreeMap<String, Vec<String>>,
    paths: BTreeSet<Vec<String>>,
}

impl<'ast> Visit<'ast> for Named {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        let full = match self.imports.get(&parts[0]) {
            Some(import) => import.iter().cloned().chain(parts[1..].iter().cloned()).collect(),
            None => parts,
        };
        self.paths.insert(full);
        syn::visit::visit_path(self, path);
    }
}

fn imports(tree: &syn::UseTree, prefix: &[String], into: &mut BTreeMap<String, Vec<String>>) {
    let with = |name: &syn::Ident| prefix.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
    match tree {
        syn::UseTree::Path(path) => imports(&path.tree, &with(&path.ident), into),
        syn::UseTree::Name(name) if name.ident == "self" => {
            into.insert(prefix.last().unwrap().clone(), prefix.to_vec());
        }
        syn::UseTree::Name(name) => {
            into.insert(name.ident.to_string(), with(&name.ident));
        }
        syn::UseTree::Rename(rename) => {
            into.insert(rename.rename.to_string(), with(&rename.ident));
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| imports(tree, prefix, into)),
        syn::UseTree::Glob(_) => {}
    }
}

/// The functions that a path may mean: those of its name whose module has the path's other parts, in their order.
fn meant<'a>(path: &[String]) -> Vec<&'a Called> {
    let Some((name, parts)) = path.split_last() else { return Vec::new() };
    if parts.first().is_none_or(|part| !part.starts_with("pvm_")) {
        return Vec::new();
    }
    let fits = |module: &[String]| {
        let mut rest = module.iter();
        parts.iter().all(|part| rest.any(|it| it == part))
    };
    INDEX.get(name).into_iter().flatten().filter(|called| fits(&called.module)).collect()
}

/// The ports of a program: those of every handler and use case that it names. Reading is part of writing.
pub(crate) fn of_program(path: &Path) -> Ports {
    let file = parse(path);
    let mut named = Named { imports: BTreeMap::new(), paths: BTreeSet::new() };
    for item in &file.items {
        if let syn::Item::Use(item) = item {
            imports(&item.tree, &[], &mut named.imports);
        }
    }
    named.visit_file(&file);
    let mut ports: Ports = named
        .paths
        .iter()
        .flat_map(|path| meant(path))
        .flat_map(|called| called.ports.iter().cloned())
        .collect();
    if ports.contains("WriteStore") {
        ports.remove("ReadStore");
    }
    ports
}

/// Programs that are Lambda functions, by name.
pub(crate) fn programs() -> BTreeMap<String, PathBuf> {
    /// Programs beside the functions that run on a user's machine.
    const ELSEWHERE: &[&str] = &["pvm-mcp-stdio", "generate-openapi"];
    let all = crate::sources("functions").into_iter();
    let bins = all.filter(|path| path.parent().unwrap().file_name().unwrap() == "bin");
    let named = bins.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path));
    named.filter(|(name, _)| !ELSEWHERE.contains(&name.as_str())).collect()
}
