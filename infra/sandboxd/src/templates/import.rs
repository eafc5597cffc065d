//! Root file systems from archives, such as `docker export` or a distribution's own rootfs tarball.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use super::definition::Definition;
use super::fixups::{self, Tree};
use crate::isolation::mode::Isolation;

/// Unpacks `archive` into the new folder `root` and applies the fix-ups.
pub(super) fn unpack(archive: &Path, root: &Path) -> io::Result<()> {
    fixups::make_folders(root)?;
    // The library refuses members that would land outside, by `..` or through a link.
    let mut reader = tar::Archive::new(open(archive)?);
    reader.set_preserve_permissions(true);
    reader.set_preserve_ownerships(Isolation::current().is_root());
    reader.set_unpack_xattrs(Isolation::current().is_root());
    reader.set_overwrite(true);
    if Isolation::current().is_root() {
        reader.unpack(root)?;
    } else {
        unpack_without_devices(&mut reader, root)?;
    }
    if !root.join("etc").is_dir() {
        return Err(io::Error::other("the archive is no root file system: it has no /etc"));
    }
    let definition = Definition::load()?;
    let tree = Tree { root, usr: None };
    fixups::apply(&definition, tree)?;
    fixups::trust_host_authorities(tree)?;
    Ok(())
}

/// For a plain user, who can make no device nodes; every sandbox has its own in /dev. Folders are made writable first
/// and closed last, as their modes are.
fn unpack_without_devices(reader: &mut tar::Archive<Box<dyn Read>>, root: &Path) -> io::Result<()> {
    let mut folders = Vec::new();
    for entry in reader.entries()? {
        let mut entry = entry?;
        match entry.header().entry_type() {
            tar::EntryType::Block | tar::EntryType::Char => {}
            tar::EntryType::Directory => folders.push(entry),
            _ => drop(entry.unpack_in(root)?),
        }
    }
    // The innermost first: a closed folder lets nobody change what is in it.
    folders.sort_by_key(|entry| std::cmp::Reverse(entry.path_bytes().len()));
    folders.into_iter().try_for_each(|mut entry| entry.unpack_in(root).map(|_| ()))
}

/// Opens an archive by what it starts with.
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut file = File::open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut start)?;
    file.rewind()?;
    if start.starts_with(&GZIP) {
        Ok(Box::new(flate2::read::GzDecoder::new(file)))
    } else if start.starts_with(&ZSTD) {
        Ok(Box::new(zstd::Decoder::new(file)?))
    } else {
        Ok(Box::new(file))
    }
}
