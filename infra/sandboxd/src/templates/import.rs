//! Root file systems from archives, such as `docker export` or a distribution's own rootfs tarball.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use super::definition::Definition;
use super::fixups::{self, Tree};

/// Unpacks `archive` into the new folder `root` and applies the fix-ups.
pub(super) fn unpack(archive: &Path, root: &Path) -> io::Result<()> {
    fixups::make_folders(root)?;
    // The library refuses members that would land outside, by `..` or through a link.
    let mut reader = tar::Archive::new(open(archive)?);
    reader.set_preserve_permissions(true);
    reader.set_preserve_ownerships(true);
    reader.set_unpack_xattrs(true);
    reader.set_overwrite(true);
    reader.unpack(root)?;
    if !root.join("etc").is_dir() {
        return Err(io::Error::other("the archive is no root file system: it has no /etc"));
    }
    let definition = Definition::load()?;
    let tree = Tree { root, usr: None };
    fixups::apply(&definition, tree)?;
    fixups::trust_host_authorities(tree)?;
    Ok(())
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
