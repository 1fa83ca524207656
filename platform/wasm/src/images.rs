//! The images: compiled modules on disk, in `images/<engine hash>-<module digest>`, a cache that may be lost at any time.
//!
//! ```text
//! 0 8 bytes "MSIMAGE1"   8 sha256 of all that follows   40 engine hash   72 module digest   104 the image
//! ```
//!
//! An image is native code that the broker will run: one is taken only from a file that this broker's user wrote (the
//! directory is private), whose checksum is right, and never from a client.

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_env::{Env, SyncScope, read_file, replace_file};
use millstream_model::Digest;
use sha2::{Digest as _, Sha256};

/// Largest image, bytes.
pub(crate) const IMAGE_BYTES_MAX: u64 = 512 << 20;
const IMAGE_MAGIC: &[u8; 8] = b"MSIMAGE1";
const IMAGE_HEADER_BYTES: usize = 104;

/// The images on disk. Calls block.
#[derive(Clone)]
pub(crate) struct ImageCache {
    /// None: nothing is kept.
    dir: Option<PathBuf>,
    engine: Digest,
    env: Env,
}

impl ImageCache {
    /// Opens the directory, made where missing and private; removes images of other engines. What cannot be removed is told of.
    pub(crate) fn open(dir: &Path, engine: Digest, env: &Env) -> io::Result<Self> {
        env.disk.create_dir_all(dir)?;
        if let Err(error) = env.disk.make_private(dir) {
            tracing::warn!(dir = %dir.display(), %error, "the directory of compiled modules could not be made private");
        }
        let own = format!("{engine}-");
        for path in env.disk.read_dir(dir)? {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&own))
                && let Err(error) = env.disk.remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "not a compiled module of this build, and it cannot be removed");
            }
        }
        Ok(Self { dir: Some(dir.to_owned()), engine, env: env.clone() })
    }

    /// A cache that keeps nothing.
    pub(crate) fn nowhere(engine: Digest, env: &Env) -> Self {
        Self { dir: None, engine, env: env.clone() }
    }

    fn path(&self, module: Digest) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(format!("{}-{module}", self.engine)))
    }

    /// The image of a module, if a whole one is there.
    pub(crate) fn read(&self, module: Digest) -> Option<Vec<u8>> {
        let bytes_max = IMAGE_BYTES_MAX + IMAGE_HEADER_BYTES as u64;
        let mut bytes = read_file(&*self.env.disk, &self.path(module)?, bytes_max).ok()??;
        let whole = bytes.len() >= IMAGE_HEADER_BYTES
            && bytes[..8] == *IMAGE_MAGIC
            && bytes[8..40] == Sha256::digest(&bytes[40..])[..]
            && bytes[40..72] == self.engine.0
            && bytes[72..104] == module.0;
        whole.then(|| bytes.split_off(IMAGE_HEADER_BYTES))
    }

    /// Keeps an image. Not durable: what is lost is compiled again.
    pub(crate) fn write(&self, module: Digest, image: &[u8]) -> io::Result<()> {
        let (Some(dir), Some(path)) = (&self.dir, self.path(module)) else { return Ok(()) };
        let mut sum = Sha256::new();
        for part in [&self.engine.0[..], &module.0, image] {
            sum.update(part);
        }
        let sum = sum.finalize();
        let temporary = dir.join(format!("tmp-{:016x}", self.env.rng.next_u64()));
        let parts: [&[u8]; 5] = [IMAGE_MAGIC, &sum, &self.engine.0, &module.0, image];
        let written = replace_file(&*self.env.disk, &temporary, &path, &parts, SyncScope::Nothing);
        if written.is_err() {
            let _ = self.env.disk.remove_file(&temporary);
        }
        written?;
        Ok(())
    }

    /// Removes the images of all modules but those that are needed.
    pub(crate) fn retain(&self, is_needed: impl Fn(Digest) -> bool) {
        let Some(dir) = &self.dir else { return };
        let own = format!("{}-", self.engine);
        for path in self.env.disk.read_dir(dir).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let module = name.strip_prefix(&own).and_then(|digest| digest.parse().ok());
            if !module.is_some_and(&is_needed) {
                let _ = self.env.disk.remove_file(&path);
            }
        }
    }

    pub(crate) fn remove(&self, module: Digest) {
        // A cache: what is not there is not missed.
        let _ = self.path(module).map(|path| self.env.disk.remove_file(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_or_foreign_image_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let env = millstream_env::real::env();
        let (engine, module) = (Digest([1; 32]), Digest([2; 32]));
        let cache = ImageCache::open(dir.path(), engine, &env).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(dir.path()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700, "other users are kept out");
        assert_eq!(cache.read(module), None);
        cache.write(module, b"image").unwrap();
        assert_eq!(cache.read(module).unwrap(), b"image");

        let path = cache.path(module).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in [0, 8, 40, 72, 104, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(cache.read(module), None, "byte {at}");
        }
        std::fs::write(&path, &good[..50]).unwrap();
        assert_eq!(cache.read(module), None);
        // A file under another module's name.
        std::fs::write(cache.path(Digest([3; 32])).unwrap(), &good).unwrap();
        assert_eq!(cache.read(Digest([3; 32])), None);

        // An upgrade of the engine leaves the old images behind.
        std::fs::write(&path, &good).unwrap();
        ImageCache::open(dir.path(), Digest([9; 32]), &env).unwrap();
        assert!(!path.exists());
    }
}
