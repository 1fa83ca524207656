//! The names of the simulated disk: directories as they are seen, as they are on the medium, and the changes between.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    io,
    path::{Component, Path},
};

use super::content::File;
use crate::{OpenMode, Rng, disk::not_a_file, sim::rng::below};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InodeId(pub(super) u64);

const ROOT: InodeId = InodeId(0);

type Names = BTreeMap<OsString, InodeId>;

#[derive(Debug)]
enum Kind {
    File(File),
    Directory { live: Names, durable: Names },
}

#[derive(Debug)]
struct Inode {
    kind: Kind,
    /// Open handles, the lock's included.
    handles: u32,
    locked: bool,
    /// Whether a directory shows it.
    linked: bool,
}

/// A name that changed and is not durable yet. The parts of one step survive a crash together, unless one of them was synced.
#[derive(Debug)]
struct Change {
    step: u64,
    directory: InodeId,
    name: OsString,
    /// What it stands for now; none if it was removed.
    to: Option<InodeId>,
}

#[derive(Debug)]
pub(super) struct Tree {
    inodes: BTreeMap<InodeId, Inode>,
    next: u64,
    changes: Vec<Change>,
    step: u64,
    /// Bytes of space of all files that are linked or open.
    used: u64,
}

fn error(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

/// The names of a path from the root. Relative paths begin there, too.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(error(io::ErrorKind::InvalidInput, path)),
        }
    }
    Ok(names)
}

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self { inodes: BTreeMap::new(), next: 0, changes: Vec::new(), step: 0, used: 0 };
        tree.add(Kind::Directory { live: Names::new(), durable: Names::new() });
        tree
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<InodeId> {
        let mut id = ROOT;
        for name in names(path)? {
            id = *self.directory(id, path)?.get(name).ok_or_else(|| error(io::ErrorKind::NotFound, path))?;
        }
        Ok(id)
    }

    /// What a directory shows, sorted.
    pub(super) fn names(&self, id: InodeId, path: &Path) -> io::Result<impl Iterator<Item = &OsString>> {
        Ok(self.directory(id, path)?.keys())
    }

    /// The bytes of a file that is open or linked.
    pub(super) fn file_mut(&mut self, id: InodeId) -> io::Result<&mut File> {
        match self.inodes.get_mut(&id).map(|inode| &mut inode.kind) {
            Some(Kind::File(file)) => Ok(file),
            Some(Kind::Directory { .. }) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Changes a file, and keeps account of its space.
    pub(super) fn file_changes<T>(&mut self, id: InodeId, change: impl FnOnce(&mut File) -> T) -> io::Result<T> {
        let file = self.file_mut(id)?;
        let before = file.space();
        let result = change(file);
        let after = file.space();
        self.used = self.used + after - before;
        Ok(result)
    }

    pub(super) fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<InodeId> {
        let (parent, name) = self.parent(path)?;
        let id = match (self.directory(parent, path)?.get(name).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(error(io::ErrorKind::AlreadyExists, path)),
            (Some(id), _) => id,
            (None, OpenMode::Read | OpenMode::Write) => return Err(error(io::ErrorKind::NotFound, path)),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                let id = self.add(Kind::File(File::default()));
                self.change(&[(parent, name, Some(id))]);
                id
            }
        };
        match self.inodes.get_mut(&id) {
            Some(inode) if matches!(inode.kind, Kind::File(_)) => inode.handles += 1,
            _ => return Err(not_a_file("a directory")),
        }
        Ok(id)
    }

    pub(super) fn close(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.handles -= 1;
            if inode.handles == 0 && !inode.linked {
                self.collect();
            }
        }
    }

    /// Takes the lock of an open file; false if it is taken.
    pub(super) fn lock(&mut self, id: InodeId) -> bool {
        self.inodes.get_mut(&id).is_some_and(|inode| !std::mem::replace(&mut inode.locked, true))
    }

    pub(super) fn unlock(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.locked = false;
        }
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut id = ROOT;
        for name in names(path)? {
            id = match self.directory(id, path)?.get(name) {
                Some(there) => *there,
                None => {
                    let new = self.add(Kind::Directory { live: Names::new(), durable: Names::new() });
                    self.change(&[(id, name, Some(new))]);
                    new
                }
            };
        }
        self.directory(id, path).map(drop)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        let id = self.find(from)?;
        match self.directory(to_parent, to)?.get(to_name).copied() {
            Some(there) if there == id => return Ok(()),
            Some(there) => match (self.is_directory(id), self.is_directory(there)) {
                (_, true) => return Err(error(io::ErrorKind::IsADirectory, to)),
                (true, false) => return Err(error(io::ErrorKind::NotADirectory, to)),
                (false, false) => {}
            },
            None => {}
        }
        if self.is_directory(id) && to.starts_with(from) {
            return Err(error(io::ErrorKind::InvalidInput, to));
        }
        self.change(&[(from_parent, from_name, None), (to_parent, to_name, Some(id))]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let id = self.find(path)?;
        if self.is_directory(id) {
            return Err(error(io::ErrorKind::IsADirectory, path));
        }
        self.change(&[(parent, name, None)]);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let id = self.find(path)?;
        if !self.directory(id, path)?.is_empty() {
            return Err(error(io::ErrorKind::DirectoryNotEmpty, path));
        }
        self.change(&[(parent, name, None)]);
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let id = self.find(path)?;
        self.empty(id, path)?;
        self.change(&[(parent, name, None)]);
        Ok(())
    }

    fn empty(&mut self, id: InodeId, path: &Path) -> io::Result<()> {
        let entries = self.directory(id, path)?.clone();
        for (name, inner) in entries {
            if self.is_directory(inner) {
                self.empty(inner, path)?;
            }
            self.change(&[(id, &name, None)]);
        }
        Ok(())
    }

    /// Makes the names in a directory durable; with `fails`, some of them, and forgets about the others.
    pub(super) fn sync_dir(&mut self, id: InodeId, fails: Option<&dyn Rng>) {
        let (here, others) = std::mem::take(&mut self.changes).into_iter().partition(|change| change.directory == id);
        self.changes = others;
        for change in here {
            if fails.is_none_or(|rng| below(rng, 2) == 0) {
                self.make_durable(change);
            }
        }
        self.collect();
    }

    /// The machine stops: changes of names survive step by step or not, and without `rng` not at all.
    pub(super) fn crash(&mut self, rng: Option<&dyn Rng>) {
        let changes = std::mem::take(&mut self.changes);
        if let Some(rng) = rng {
            // All, none, or each on its own.
            let mode = below(rng, 3);
            let mut last = None;
            for change in changes {
                let kept = match (mode, last) {
                    (0, _) => false,
                    (1, _) => true,
                    (_, Some((step, kept))) if step == change.step => kept,
                    _ => below(rng, 2) == 0,
                };
                last = Some((change.step, kept));
                if kept {
                    self.make_durable(change);
                }
            }
        }
        for inode in self.inodes.values_mut() {
            match &mut inode.kind {
                Kind::File(file) => file.crash(rng),
                Kind::Directory { live, durable } => live.clone_from(durable),
            }
        }
        self.close_all();
    }

    /// Every handle and lock is gone.
    pub(super) fn close_all(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
            inode.locked = false;
        }
        self.collect();
    }

    /// The directory that holds a path's last name, and the name.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(InodeId, &'p OsStr)> {
        let names = names(path)?;
        let Some((name, above)) = names.split_last() else {
            return Err(error(io::ErrorKind::IsADirectory, path));
        };
        let mut id = ROOT;
        for name in above {
            id = *self.directory(id, path)?.get(*name).ok_or_else(|| error(io::ErrorKind::NotFound, path))?;
        }
        self.directory(id, path)?;
        Ok((id, name))
    }

    fn directory(&self, id: InodeId, path: &Path) -> io::Result<&Names> {
        match self.inodes.get(&id).map(|inode| &inode.kind) {
            Some(Kind::Directory { live, .. }) => Ok(live),
            _ => Err(error(io::ErrorKind::NotADirectory, path)),
        }
    }

    fn is_directory(&self, id: InodeId) -> bool {
        matches!(self.inodes.get(&id), Some(Inode { kind: Kind::Directory { .. }, .. }))
    }

    fn add(&mut self, kind: Kind) -> InodeId {
        let id = InodeId(self.next);
        self.next += 1;
        self.inodes.insert(id, Inode { kind, handles: 0, locked: false, linked: true });
        id
    }

    /// Changes names as one step: seen at once, durable later.
    fn change(&mut self, parts: &[(InodeId, &OsStr, Option<InodeId>)]) {
        self.step += 1;
        for (directory, name, to) in parts {
            let Some(Inode { kind: Kind::Directory { live, .. }, .. }) = self.inodes.get_mut(directory) else {
                continue;
            };
            let before = match to {
                Some(id) => live.insert((*name).into(), *id),
                None => live.remove(*name),
            };
            if let Some(before) = before {
                self.link(before, false);
            }
            if let Some(id) = to {
                self.link(*id, true);
            }
            let change = Change { step: self.step, directory: *directory, name: (*name).into(), to: *to };
            self.changes.push(change);
        }
        self.count_space();
    }

    fn link(&mut self, id: InodeId, linked: bool) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.linked = linked;
        }
    }

    fn count_space(&mut self) {
        let space = |inode: &Inode| match &inode.kind {
            Kind::File(file) if inode.linked || inode.handles > 0 => file.space(),
            _ => 0,
        };
        self.used = self.inodes.values().map(space).sum();
    }

    fn make_durable(&mut self, change: Change) {
        if let Some(Inode { kind: Kind::Directory { durable, .. }, .. }) = self.inodes.get_mut(&change.directory) {
            match change.to {
                Some(id) => durable.insert(change.name, id),
                None => durable.remove(&change.name),
            };
        }
    }

    /// Everything that can be reached from `ids`: through names as they are seen, and as they are on the medium if `with_durable`.
    fn reach(&self, mut ids: Vec<InodeId>, with_durable: bool) -> BTreeSet<InodeId> {
        let mut reached = BTreeSet::new();
        while let Some(id) = ids.pop() {
            if !reached.insert(id) {
                continue;
            }
            if let Some(Inode { kind: Kind::Directory { live, durable }, .. }) = self.inodes.get(&id) {
                ids.extend(live.values());
                if with_durable {
                    ids.extend(durable.values());
                }
            }
        }
        reached
    }

    /// Drops what no name (seen, durable or changing) and no handle leads to any more.
    fn collect(&mut self) {
        let linked = self.reach(vec![ROOT], false);
        let open = self.inodes.iter().filter(|(_, inode)| inode.handles > 0).map(|(id, _)| *id);
        let roots = open.chain(self.changes.iter().filter_map(|change| change.to)).chain([ROOT]).collect();
        let kept = self.reach(roots, true);
        self.inodes.retain(|id, inode| {
            inode.linked = linked.contains(id);
            kept.contains(id)
        });
        self.count_space();
    }
}
