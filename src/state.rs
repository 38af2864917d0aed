//! The learned state as a file: read with suspicion, written whole or not at all.
//!
//! A file is written beside its place, forced to the disk, and renamed over the old one, so that whoever reads sees
//! the old state or the new one and never a part. What cannot be read is refused with its reason and moved aside before
//! the first save: it may be somebody else's, and it is what explains the refusal.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::learn::{Snapshot, SnapshotError};

/// The file in `adaptive.state_dir`.
pub const FILE: &str = "model.json";

/// The largest file that is read: four times what the largest fleet takes.
const BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Why a state was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is a file, but not one to learn from.
    #[error("{}: {error}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: SnapshotError,
    },
}

/// Reads a snapshot; `None` where there is no file.
///
/// # Errors
/// It cannot be read, or is no sound snapshot of this schema.
pub fn read(path: &Path) -> Result<Option<Snapshot>, StateError> {
    let failed = |error| StateError::Io { path: path.to_path_buf(), error };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let refused = |error| StateError::Refused { path: path.to_path_buf(), error };
    if bytes.len() as u64 > BYTES_MAX {
        return Err(refused(SnapshotError::Unreadable(format!("larger than {BYTES_MAX} bytes"))));
    }
    Snapshot::from_bytes(&bytes).map(Some).map_err(refused)
}

/// Writes `snapshot` in place of what `path` holds; missing directories are made.
///
/// # Errors
/// It cannot be written; what was there is then still there.
pub fn write(path: &Path, snapshot: &Snapshot) -> Result<(), StateError> {
    let bytes = snapshot.to_bytes().map_err(|error| StateError::Refused { path: path.to_path_buf(), error })?;
    replace(path, &bytes).map_err(|error| StateError::Io { path: path.to_path_buf(), error })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let beside = beside(path, &format!(".{}.tmp", std::process::id()));
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // What is left of it is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    // The new name is on the disk when the directory is.
    File::open(dir)?.sync_all()
}

/// Moves a refused file aside, over an earlier one; returns where it is now.
///
/// # Errors
/// It cannot be moved.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, ".refused");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// The path with `suffix` at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fleet::Fleet;
    use crate::learn::Learner;

    fn snapshot() -> Snapshot {
        Learner::new(Arc::default()).snapshot(&Fleet::default(), |_| String::new())
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep").join(FILE);
        assert!(read(&path).expect("no file is no mistake").is_none());
        for _ in 0..2 {
            write(&path, &snapshot()).expect("written");
            assert_eq!(read(&path).expect("sound"), Some(snapshot()));
        }
        let names = fs::read_dir(dir.path().join("deep")).expect("there").count();
        assert_eq!(names, 1, "no temporary file stays");
    }

    #[test]
    fn a_damaged_file_is_refused_by_name_and_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        write(&path, &snapshot()).expect("written");
        let text = fs::read_to_string(&path).expect("text");
        let damaged = [
            (text[..text.len() / 2].to_owned(), "not a snapshot"),
            (text.replace("bellwether-model", "somebody-elses"), "the format is \"somebody-elses\""),
            (text.replacen("\"checksum\": \"", "\"checksum\": \"0", 1), "the checksum is"),
        ];
        for (text, reason) in damaged {
            fs::write(&path, text).expect("written");
            let message = read(&path).expect_err("refused").to_string();
            assert!(message.starts_with(&path.display().to_string()) && message.contains(reason), "{message}");
        }
        let aside = set_aside(&path).expect("moved");
        assert!(aside.exists() && !path.exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        // A directory in the place of the file cannot be renamed over.
        fs::create_dir(&path).expect("made");
        assert!(matches!(write(&path, &snapshot()), Err(StateError::Io { .. })));
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "the temporary file is gone");
    }
}
