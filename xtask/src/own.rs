//! What a command writes for itself: a second one at the same time has other files.

use crate::fail::usage;
use anyhow::{Context, Result, bail};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that are one command's alone.
pub(crate) struct Own {
    /// Its folder.
    pub(crate) folder: PathBuf,
    output: PathBuf,
    suffix: String,
    /// Locked as long as the command lasts.
    _lock: File,
    /// Shared as long.
    _gate: File,
}

impl Own {
    /// Takes the first folder below `output` that nobody has: `name`, `name-2` and so on.
    pub(crate) fn take(output: &Path, name: &str) -> Result<Self> {
        const MOST: u32 = 64;
        let gate = keep(output)?;
        for n in 1..=MOST {
            let suffix = if n == 1 { String::new() } else { format!("-{n}") };
            let folder = output.join(format!("{name}{suffix}"));
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let path = folder.join(LOCK);
            let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            // Where nothing can be locked nothing is.
            if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
                return Ok(Self {
                    folder,
                    output: output.to_owned(),
                    suffix,
                    _lock: lock,
                    _gate: gate,
                });
            }
        }
        Err(usage(format!(
            "{MOST} runs are going on in {}; end some of them first",
            output.display()
        )))
    }

    /// Its file beside the folder: `console.log`, or `console-2.log` in the second run.
    pub(crate) fn file(&self, stem: &str, ending: &str) -> PathBuf {
        self.output.join(format!("{stem}{}.{ending}", self.suffix))
    }
}

/// As long as this lasts nobody removes what is below `output`. Waits while somebody does.
pub(crate) fn keep(output: &Path) -> Result<File> {
    let gate = gate(output, |gate| {
        // Where nothing can be locked nothing is.
        let _ = gate.lock_shared();
        true
    })?;
    gate.with_context(|| format!("cannot keep {}: it is removed again and again", output.display()))
}

/// The file in `output` that lets commands begin there, once `lock` has locked it; `None` if that fails. Whoever removed `output` meanwhile
/// took with it the file that was waited for, and another is there or none.
fn gate(output: &Path, lock: impl Fn(&File) -> bool) -> Result<Option<File>> {
    const TRIES: u32 = 100;
    let path = output.join(LOCK);
    for _ in 0..TRIES {
        std::fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
        let gate = match File::options().append(true).create(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            gate => gate.with_context(|| format!("cannot write {}", path.display()))?,
        };
        if !lock(&gate) {
            return Ok(None);
        }
        let same = |there: std::fs::Metadata| {
            gate.metadata()
                .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        };
        if path.metadata().is_ok_and(same) {
            return Ok(Some(gate));
        }
    }
    Ok(None)
}

/// All that commands have written below a folder, while no command has any of it and none can begin.
pub(crate) struct All {
    output: PathBuf,
    _gate: File,
}

impl All {
    /// Takes it, or names what a command has: nothing there may go. `None`: there is nothing.
    pub(crate) fn take(output: &Path) -> Result<Option<Self>> {
        let Ok(folders) = std::fs::read_dir(output) else {
            return Ok(None);
        };
        let free = |lock: &File| !matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
        let gate = gate(output, free)?;
        for folder in folders.flatten().map(|folder| folder.path()) {
            if File::open(folder.join(LOCK)).is_ok_and(|lock| !free(&lock)) {
                return Err(usage(format!("a run is going on in {}; end it first", folder.display())));
            }
        }
        match gate {
            Some(gate) => Ok(Some(Self {
                output: output.to_owned(),
                _gate: gate,
            })),
            None => Err(usage(format!("another command begins or ends in {}; try again", output.display()))),
        }
    }

    /// Removes it. The file that lets commands begin goes last: one that begins then finds nothing, and what it makes stays.
    pub(crate) fn remove(self) -> Result<()> {
        let removed = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&self.output)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else if entry.file_name() != LOCK {
                    std::fs::remove_file(entry.path())?;
                }
            }
            std::fs::remove_file(self.output.join(LOCK))
        };
        removed().with_context(|| format!("cannot remove {}", self.output.display()))?;
        match std::fs::remove_dir(&self.output) {
            Err(error) if !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {
                bail!("cannot remove {}: {error}", self.output.display())
            }
            _ => Ok(()),
        }
    }
}

/// The file in a folder that is locked.
const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_at_the_same_time_have_files_of_their_own() {
        let output = tempfile::tempdir().expect("a folder");
        let take = |name| Own::take(output.path(), name).expect("files");
        let names = |own: &Own| {
            [own.folder.clone(), own.file("console", "log")]
                .map(|path| path.strip_prefix(output.path()).expect("inside").display().to_string())
        };
        let (first, second, other) = (take("run"), take("run"), take("test"));
        assert_eq!(names(&first), ["run", "console.log"]);
        assert_eq!(names(&second), ["run-2", "console-2.log"]);
        assert_eq!(names(&other), ["test", "console.log"]);
        let refused = || All::take(output.path()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused().contains("a run is going on in"));
        drop((second, other));
        assert!(refused().contains("/run;"), "{}", refused());
        drop(first);
        let all = All::take(output.path()).expect("nothing goes on").expect("something");
        assert!(refused().contains("another command begins or ends in"), "{}", refused());
        all.remove().expect("removed");
        assert!(!output.path().exists() && All::take(output.path()).expect("nothing goes on").is_none());
        assert_eq!(names(&take("run")), ["run", "console.log"]);
    }

    #[test]
    fn what_a_command_writes_stays_whoever_removes_what_was_there() {
        let output = tempfile::tempdir().expect("a folder");
        let over = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        let write = |n: u32| -> Result<()> {
            let own = Own::take(output.path(), "run")?;
            let (file, text) = (own.folder.join("file"), n.to_string());
            std::fs::write(&file, &text)?;
            anyhow::ensure!(std::fs::read_to_string(&file)? == text, "another's");
            Ok(())
        };
        let (wrong, removed) = std::thread::scope(|scope| {
            let remover = scope.spawn(|| {
                let mut removed = 0;
                while !over.load(order) {
                    // `None` once it is removed, until the other begins again.
                    if let Ok(Some(all)) = All::take(output.path()) {
                        removed += u32::from(all.remove().is_ok());
                    }
                    std::thread::yield_now();
                }
                removed
            });
            let wrong = (0..500).find_map(|n| write(n).err());
            over.store(true, order);
            (wrong, remover.join())
        });
        assert!(wrong.is_none(), "{wrong:?}");
        let removed = removed.expect("a number");
        assert!(removed > 0, "never removed");
    }
}
