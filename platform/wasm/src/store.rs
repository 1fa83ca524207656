//! The modules on disk: `modules/<sha256>`, one immutable file each, named by what it holds.
//!
//! Write: temporary file, fdatasync, rename, sync of the directory; only then is a module stored. Read: the digest is
//! computed again, so that a damaged file is an error and never a module.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use millstream_env::{Env, OpenMode, SyncScope, read_file, replace_file};
use millstream_model::{Digest, limits::MODULE_BYTES_MAX};
use sha2::{Digest as _, Sha256};

const TEMPORARY: &str = "tmp-";

/// The digest of a module's bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Why a module's file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed.
    #[error("{step} {path}: {source}")]
    Io {
        /// What was attempted.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// There is no such module.
    #[error("there is no module with the digest {digest}")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// The file does not hold what its name says.
    #[error("{path} is damaged: its digest is {actual}; restore it from a copy or push the module again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest of what it holds.
        actual: Digest,
    },
    /// The runtime was made without files.
    #[error("nothing is kept of modules here")]
    Nowhere,
    /// The work was abandoned: the process is ending.
    #[error("the module store was stopped")]
    Stopped,
}

/// The directory of modules. Calls block, as the disk does: run them where blocking is allowed.
#[derive(Clone)]
pub struct ModuleStore {
    /// None: nothing is ever there, and nothing is taken.
    dir: Option<PathBuf>,
    env: Env,
}

impl ModuleStore {
    /// Opens the directory, made where missing; removes what an interrupted write left behind.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(dir: &Path, env: &Env) -> Result<Self, StoreError> {
        let store = Self { dir: Some(dir.to_owned()), env: env.clone() };
        let disk = &env.disk;
        disk.create_dir_all(dir).map_err(|source| store.failed("make", dir, source))?;
        for path in disk.read_dir(dir).map_err(|source| store.failed("list", dir, source))? {
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(TEMPORARY)) {
                disk.remove_file(&path).map_err(|source| store.failed("remove", &path, source))?;
            }
        }
        Ok(store)
    }

    /// A store that keeps nothing: [`StoreError::Nowhere`] is what its calls come to, but for [`ModuleStore::list`].
    pub(crate) fn nowhere(env: &Env) -> Self {
        Self { dir: None, env: env.clone() }
    }

    fn failed(&self, step: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io { step, path: path.to_owned(), source }
    }

    fn dir(&self) -> Result<&Path, StoreError> {
        self.dir.as_deref().ok_or(StoreError::Nowhere)
    }

    fn path(&self, digest: Digest) -> Result<PathBuf, StoreError> {
        Ok(self.dir()?.join(digest.to_string()))
    }

    /// Stores a module and returns its digest. Durable when this returns; does nothing if it is there already and whole.
    ///
    /// # Errors
    /// [`StoreError::Io`]: nothing was stored.
    pub fn put(&self, bytes: &Bytes) -> Result<Digest, StoreError> {
        let digest = digest_of(bytes);
        match self.read(digest) {
            Ok(_) => return Ok(digest),
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let disk = &self.env.disk;
        let path = self.path(digest)?;
        let temporary = self.dir()?.join(format!("{TEMPORARY}{:016x}", self.env.rng.next_u64()));
        let written = replace_file(&**disk, &temporary, &path, &[bytes], SyncScope::BytesAndName);
        written.map_err(|error| {
            // Best effort: opening the store removes it otherwise.
            let _ = disk.remove_file(&temporary);
            self.failed("write", &path, error.source)
        })?;
        Ok(digest)
    }

    /// Reads a module and checks that it is the one.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn read(&self, digest: Digest) -> Result<Bytes, StoreError> {
        let path = self.path(digest)?;
        let bytes = read_file(&*self.env.disk, &path, MODULE_BYTES_MAX as u64)
            .map_err(|source| self.failed("read", &path, source))?
            .ok_or(StoreError::Missing { digest })?;
        match digest_of(&bytes) {
            actual if actual == digest => Ok(bytes.into()),
            actual => Err(StoreError::Damaged { path, actual }),
        }
    }

    /// Reads a part of a module, at most `bytes_max` bytes from `offset` on; nothing at its end. What it reads is not checked: whoever has
    /// all of the parts computes the digest.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`].
    pub fn read_part(&self, digest: Digest, offset: u64, bytes_max: usize) -> Result<Bytes, StoreError> {
        let path = self.path(digest)?;
        let file = self.env.disk.open(&path, OpenMode::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing { digest },
            _ => self.failed("open", &path, error),
        })?;
        let mut bytes = vec![0; bytes_max];
        let read = file.read_at(&mut bytes, offset).map_err(|source| self.failed("read", &path, source))?;
        bytes.truncate(read);
        Ok(bytes.into())
    }

    /// Removes a module's file. Not finding it is no error.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.path(digest)?;
        match self.env.disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", &path, error)),
            _ => {
                let dir = self.dir()?;
                self.env.disk.sync_dir(dir).map_err(|source| self.failed("sync", dir, source))
            }
        }
    }

    /// The digests of what is there, sorted, without looking into the files.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let paths = self.env.disk.read_dir(dir).map_err(|source| self.failed("list", dir, source))?;
        Ok(paths.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> ModuleStore {
        ModuleStore::open(&dir.join("modules"), &millstream_env::real::env()).unwrap()
    }

    #[tokio::test]
    async fn what_was_stored_is_read_back_by_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let module = Bytes::from_static(b"a module");
        let digest = store(dir.path()).put(&module).unwrap();
        assert_eq!(store(dir.path()).read(digest).unwrap(), module);
        assert_eq!(store(dir.path()).list().unwrap(), [digest]);
        assert!(dir.path().join("modules").join(digest.to_string()).is_file());
        store(dir.path()).remove(digest).unwrap();
        store(dir.path()).remove(digest).unwrap();
        assert!(matches!(store(dir.path()).read(digest), Err(StoreError::Missing { .. })));
    }

    #[tokio::test]
    async fn a_damaged_module_is_never_served_and_can_be_stored_again() {
        let dir = tempfile::tempdir().unwrap();
        let module = Bytes::from_static(b"a module");
        let digest = store(dir.path()).put(&module).unwrap();
        let path = dir.path().join("modules").join(digest.to_string());
        for damage in [b"a mOdule".as_slice(), b"a mod", b""] {
            std::fs::write(&path, damage).unwrap();
            assert!(matches!(store(dir.path()).read(digest), Err(StoreError::Damaged { .. })), "{damage:?}");
            store(dir.path()).put(&module).unwrap();
            assert_eq!(store(dir.path()).read(digest).unwrap(), module);
        }
    }

    #[tokio::test]
    async fn a_module_is_read_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let digest = store.put(&Bytes::from_static(b"a module")).unwrap();
        let parts = [(0, 3, "a m"), (3, 100, "odule"), (7, 1, "e"), (8, 1, ""), (1 << 40, 9, "")];
        for (offset, bytes_max, expected) in parts {
            assert_eq!(store.read_part(digest, offset, bytes_max).unwrap(), expected, "from {offset}");
        }
        assert!(matches!(store.read_part(Digest([1; 32]), 0, 1), Err(StoreError::Missing { .. })));
    }

    #[tokio::test]
    async fn what_an_interrupted_write_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        let left = dir.path().join("modules/tmp-0123");
        std::fs::write(&left, b"half").unwrap();
        assert!(store(dir.path()).list().unwrap().is_empty());
        assert!(!left.exists());
    }
}
