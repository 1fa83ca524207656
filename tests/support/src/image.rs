//! A file system in a file, mounted through a loop device, whose power can be cut.
//!
//! The cut is the file system's own shutdown (`EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`: one number for both) without flushing
//! its log: what was not synced is gone with the page cache, and what is written afterwards fails. It needs root, a loop
//! device and the file system's `mkfs`. What it does not show: a drive that loses what it was told to flush.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// How large an image is, bytes: the least that XFS takes is 300 MiB. The file is sparse.
const IMAGE_BYTES: u64 = 512 << 20;

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4, with its journal.
    Ext4,
    /// XFS.
    Xfs,
}

impl Kind {
    /// Its name, as `mount` and `mkfs` know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// A mounted file system. Dropping it unmounts it, and removes the file.
#[derive(Debug)]
pub struct Image {
    kind: Kind,
    folder: TempDir,
    mounted: bool,
}

impl Image {
    /// Makes an empty file system and mounts it.
    ///
    /// # Errors
    /// Without root, a loop device or `mkfs`; with what is missing.
    pub fn new(kind: Kind) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a power cut needs root, to mount a file system of its own: run this test as root"
        );
        let folder = tempfile::Builder::new().prefix("millstream-power-").tempdir()?;
        let mut image = Self { kind, folder, mounted: false };
        File::create(image.file())?.set_len(IMAGE_BYTES)?;
        std::fs::create_dir(image.root())?;
        let quiet = if kind == Kind::Ext4 { ["-q", "-F"] } else { ["-q", "-f"] };
        run(Command::new(format!("mkfs.{}", kind.name())).args(quiet).arg(image.file())).with_context(|| {
            format!("making a file system needs mkfs.{}: see platform/xtask/src/setup.rs", kind.name())
        })?;
        image.mount()?;
        Ok(image)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// The handle through which the power is cut: to be had before, since the cut may not wait for anything.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn switch(&self) -> anyhow::Result<Switch> {
        Ok(Switch(File::open(self.root())?))
    }

    /// Makes it read-only as a running system does it: an error is found (here, one that the kernel lets root claim), and the
    /// file system writes no more. (`mount -o remount,ro` refuses while a file is open for writing.) ext4 only.
    ///
    /// # Errors
    /// When it is not mounted, or the kernel cannot be asked for it.
    pub fn fail_to_read_only(&self) -> anyhow::Result<()> {
        let root = self.root().display().to_string();
        run(Command::new("mount").args(["-o", "remount,errors=remount-ro", &root]))?;
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let device = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let device = words.next()?.strip_prefix("/dev/")?;
            (words.next()? == root).then_some(device)
        });
        let device = device.with_context(|| format!("{root} is not mounted"))?;
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "by a test")
            .with_context(|| format!("having {root} fail needs ext4's trigger_fs_error in /sys"))
    }

    /// Mounts it again after a cut, as a machine does that has power again: its own recovery runs. Whoever has files in it must
    /// be gone.
    ///
    /// # Errors
    /// When it is still in use or cannot be mounted.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(self.root()))?;
        self.mounted = false;
        self.mount()
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let kind = self.kind.name();
        run(Command::new("mount").args(["-t", kind, "-o", "loop"]).arg(self.file()).arg(self.root()))
            .with_context(|| format!("a power cut needs a loop device and {kind} in the kernel"))?;
        self.mounted = true;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // The loop device goes with the last who uses it. Where somebody still does, the name goes at once all the same.
        let unmount = |how: &[&str]| run(Command::new("umount").args(how).arg(self.root()));
        if self.mounted
            && unmount(&[]).is_err()
            && let Err(error) = unmount(&["--lazy"])
        {
            eprintln!("{} stays mounted: {error:#}", self.root().display());
        }
    }
}

/// Cuts the power of one mounted [`Image`].
#[derive(Debug)]
pub struct Switch(File);

impl Switch {
    /// The power fails: nothing is flushed, not even the file system's own log, and nothing is written any more.
    ///
    /// # Errors
    /// When the file system cannot be shut down so.
    #[expect(unsafe_code, reason = "an ioctl that no library wraps; see the comment")]
    pub fn cut(self) -> anyhow::Result<()> {
        /// `_IOR('X', 125, __u32)`, which reads in spite of its name.
        const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
        /// Flag 0 would sync first, and prove nothing.
        const NO_LOG_FLUSH: u32 = 2;
        // SAFETY: both file systems take a pointer to 32 bits with this number, and only read them. `ioctl` does not keep it.
        unsafe { rustix::ioctl::ioctl(&self.0, rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }
            .context("shutting the file system down")
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {}", output.status, said.trim());
    Ok(())
}
