use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `data/log.head`: instance and number of the newest commit, outside the database.
///
/// Written after each commit and before anybody sees what it committed. A database that is behind
/// its file has been restored from a backup, and its log would give known numbers to new events.
#[derive(Debug)]
pub(super) struct HeadFile {
    file: File,
}

/// The newest commit that a process has shown to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Which database.
    pub instance: String,
    /// Which of its commits.
    pub number: i64,
}

impl HeadFile {
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(data_dir.join("log.head"))?;
        Ok(HeadFile { file })
    }

    /// None when the file is new or unreadable.
    pub fn read(&mut self) -> io::Result<Option<Head>> {
        let mut text = String::new();
        if self.file.read_to_string(&mut text).is_err() {
            return Ok(None);
        }
        let head = text.trim().split_once(' ');
        Ok(head.and_then(|(instance, number)| {
            Some(Head { instance: instance.to_owned(), number: number.trim().parse().ok()? })
        }))
    }

    /// One small write in place; not synced, because only a surviving machine can have shown more.
    pub fn write(&self, head: &Head) -> io::Result<()> {
        self.file.write_all_at(format!("{} {:020}\n", head.instance, head.number).as_bytes(), 0)
    }
}

/// Whether the database was replaced by an older state of itself, or by another one.
///
/// A database without commits is judged as well: its tenants' epochs may have been stored, and shown with
/// numbers by a later state of it.
pub(super) fn is_restored(database: &Head, file: Option<&Head>) -> bool {
    file.is_none_or(|file| file.instance != database.instance || file.number > database.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_behind_its_file_is_a_restored_backup() {
        let head = |instance: &str, number| Head { instance: instance.into(), number };
        assert!(!is_restored(&head("a", 0), Some(&head("a", 0))));
        assert!(!is_restored(&head("a", 5), Some(&head("a", 5))));
        assert!(!is_restored(&head("a", 6), Some(&head("a", 5))));
        assert!(is_restored(&head("a", 4), Some(&head("a", 5))));
        assert!(is_restored(&head("a", 0), Some(&head("a", 5))));
        assert!(is_restored(&head("a", 0), Some(&head("b", 0))));
        assert!(is_restored(&head("a", 0), None));
        assert!(is_restored(&head("a", 5), None));
        assert!(is_restored(&head("b", 9), Some(&head("a", 5))));
    }

    #[test]
    fn the_file_holds_the_last_write() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = HeadFile::open(dir.path()).unwrap();
        assert_eq!(file.read().unwrap(), None);
        for number in [999, 1000, 1001] {
            file.write(&Head { instance: "abc".into(), number }).unwrap();
        }
        let read = HeadFile::open(dir.path()).unwrap().read().unwrap();
        assert_eq!(read, Some(Head { instance: "abc".into(), number: 1001 }));
    }
}
