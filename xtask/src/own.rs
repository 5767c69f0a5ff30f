//! What a command writes for itself: a second one at the same time has other files.

use crate::fail::usage;
use crate::setup;
use anyhow::{Context, Result, bail};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
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
    /// Takes the first folder below `output` that nobody has: `name`, `name-2` and so on. Wherever that is, Umbra's image is below the tool's
    /// own folder, and stays.
    pub(crate) fn take(output: &Path, name: &str) -> Result<Self> {
        Self::take_with(keep(&setup::output())?, output, name)
    }

    fn take_with(gate: File, output: &Path, name: &str) -> Result<Self> {
        const MOST: u32 = 64;
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
    let gate = gate(output)?;
    // Where nothing can be locked nothing is.
    let _ = gate.lock_shared();
    Ok(gate)
}

/// The file that lets commands begin below `output`. It is beside that, and stays when that goes.
fn gate(output: &Path) -> Result<File> {
    let path = output.with_added_extension("lock");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let gate = File::options().append(true).create(true).open(&path);
    gate.with_context(|| format!("cannot write {}", path.display()))
}

/// Whether nobody has what `lock` stands for; then it is locked.
fn free(lock: &File) -> bool {
    !matches!(lock.try_lock(), Err(TryLockError::WouldBlock))
}

/// All that commands have written below a folder, while no command has any of it and none can begin.
pub(crate) struct All {
    output: PathBuf,
    _gate: File,
}

impl All {
    /// Takes it, also if there is nothing, or names what a command has: nothing there may go.
    pub(crate) fn take(output: &Path) -> Result<Self> {
        let gate = gate(output)?;
        let begins = !free(&gate);
        for folder in std::fs::read_dir(output).into_iter().flatten().flatten() {
            let folder = folder.path();
            if File::open(folder.join(LOCK)).is_ok_and(|lock| !free(&lock)) {
                return Err(usage(format!("a run is going on in {}; end it first", folder.display())));
            }
        }
        if begins {
            return Err(usage(format!("another command begins or ends in {}; try again", output.display())));
        }
        Ok(Self {
            output: output.to_owned(),
            _gate: gate,
        })
    }

    /// Removes it; false: there was nothing.
    pub(crate) fn remove(self) -> Result<bool> {
        match std::fs::remove_dir_all(&self.output) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => bail!("cannot remove {}: {error}", self.output.display()),
        }
    }
}

/// The file in a folder that is locked.
const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

    #[test]
    fn commands_at_the_same_time_have_files_of_their_own() {
        let output = tempfile::tempdir().expect("a folder");
        let output = output.path().join("umbra");
        let take = |name| Own::take_with(keep(&output).expect("a lock"), &output, name).expect("files");
        let names = |own: &Own| {
            [own.folder.clone(), own.file("console", "log")].map(|path| path.strip_prefix(&output).expect("inside").display().to_string())
        };
        let (first, second, other) = (take("run"), take("run"), take("test"));
        assert_eq!(names(&first), ["run", "console.log"]);
        assert_eq!(names(&second), ["run-2", "console-2.log"]);
        assert_eq!(names(&other), ["test", "console.log"]);
        let refused = || All::take(&output).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused().contains("a run is going on in"));
        drop((second, other));
        assert!(refused().contains("/run;"), "{}", refused());
        drop(first);
        let all = All::take(&output).expect("nothing goes on");
        assert!(refused().contains("another command begins or ends in"), "{}", refused());
        assert!(all.remove().expect("removed") && !output.exists());
        assert!(!All::take(&output).expect("nothing goes on").remove().expect("nothing"));
        assert_eq!(names(&take("run")), ["run", "console.log"]);
    }

    #[test]
    fn what_a_command_writes_stays_whoever_removes_what_was_there() {
        const OFTEN: u32 = 500;
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("umbra");
        let (over, removed) = (AtomicBool::new(false), AtomicU32::new(0));
        let write = |n: u32| -> Result<()> {
            let own = Own::take_with(keep(&output)?, &output, "run")?;
            let (file, text) = (own.folder.join("file"), n.to_string());
            std::fs::write(&file, &text)?;
            anyhow::ensure!(std::fs::read_to_string(&file)? == text, "another's");
            Ok(())
        };
        let wrong = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    if let Ok(all) = All::take(&output) {
                        removed.fetch_add(u32::from(all.remove().is_ok_and(|there| there)), Relaxed);
                    }
                    std::thread::yield_now();
                }
            });
            let wrong = (0..1000 * OFTEN)
                .take_while(|n| *n < OFTEN || removed.load(Relaxed) == 0)
                .find_map(|n| write(n).err());
            over.store(true, Relaxed);
            wrong
        });
        assert!(wrong.is_none(), "{wrong:?}");
        assert!(removed.into_inner() > 0, "never removed");
    }
}
