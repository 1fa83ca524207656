//! The ready file: where a broker listens, for whoever started it. It appears whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// What a program that started a broker must know.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    /// `ADDRESS:PORT`, with the real port when 0 was asked for.
    pub(crate) listen: String,
    /// Where health, metrics and the log's level are served, if anywhere.
    pub(crate) http: Option<String>,
    pub(crate) pid: u32,
    pub(crate) data_dir: PathBuf,
    /// Where this user's clients find the CA and the address, if it could be written.
    pub(crate) profile: Option<PathBuf>,
}

impl Ready {
    /// Writes it beside `path` and renames it into place. It need not survive a power cut: the broker does not either.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.tmp", self.pid));
        let beside = PathBuf::from(beside);
        let written = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|bytes| fs::write(&beside, [&bytes[..], b"\n"].concat()))
            .and_then(|()| fs::rename(&beside, path));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_json_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let ready = Ready { listen: "127.0.0.1:1".into(), http: None, pid: 7, data_dir: "/d".into(), profile: None };
        let path = dir.path().join("ready.json");
        ready.write(&path).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected =
            serde_json::json!({"listen": "127.0.0.1:1", "http": null, "pid": 7, "data_dir": "/d", "profile": null});
        assert_eq!(said, expected);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(ready.write(&dir.path().join("absent/ready.json")).is_err());
    }
}
