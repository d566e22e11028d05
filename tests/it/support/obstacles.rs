//! Obstacles put in a server's way, and taken away when dropped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small file system of its own; unmounted when dropped, so it must outlive its server.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts it; None where mounting is not permitted.
    pub fn mount(size: &str) -> Option<Self> {
        let place = tempfile::tempdir().expect("a temporary directory");
        let option = format!("size={size}");
        run("mount", &["-t", "tmpfs", "-o", &option, "tmpfs"], &[place.path()]).then_some(SmallDisk(place))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !run("umount", &[], &[self.path()]) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

/// Files that nobody can write, root neither; writable again when dropped.
pub struct Frozen(Vec<PathBuf>);

impl Frozen {
    /// Freezes the files; None where the file system or the user cannot.
    pub fn freeze(files: &[PathBuf]) -> Option<Self> {
        let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let frozen = Frozen(files.to_vec());
        run("chattr", &["+i"], &paths).then_some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let paths: Vec<&Path> = self.0.iter().map(PathBuf::as_path).collect();
        run("chattr", &["-i"], &paths);
    }
}

fn run(program: &str, words: &[&str], paths: &[&Path]) -> bool {
    let mut command = Command::new(program);
    command.args(words).args(paths).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
