//! What a command writes for itself: a second one at the same time has other files.

use crate::fail::usage;
use anyhow::{Context, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Files that are one command's alone.
pub(crate) struct Own {
    /// Its folder.
    pub(crate) folder: PathBuf,
    output: PathBuf,
    suffix: String,
    /// Locked as long as the command lasts.
    _lock: File,
}

impl Own {
    /// Takes the first folder below `output` that nobody has: `name`, `name-2` and so on.
    pub(crate) fn take(output: &Path, name: &str) -> Result<Self> {
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

/// Takes every folder that there is below `output`, or names one that a command has: nothing there may go.
pub(crate) fn all(output: &Path) -> Result<Vec<File>> {
    let Ok(folders) = std::fs::read_dir(output) else {
        return Ok(Vec::new());
    };
    let mut locks = Vec::new();
    for folder in folders.flatten() {
        if let Ok(lock) = File::open(folder.path().join(LOCK)) {
            if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
                return Err(usage(format!("a run is going on in {}; end it first", folder.path().display())));
            }
            locks.push(lock);
        }
    }
    Ok(locks)
}

/// The file in the folder that is locked.
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
        assert!(all(output.path()).is_err_and(|error| error.to_string().contains("a run is going on in")));
        drop((second, other));
        let error = all(output.path()).expect_err("the first goes on").to_string();
        assert!(error.contains("/run;"), "{error}");
        drop(first);
        assert_eq!(all(output.path()).expect("nothing goes on").len(), 3);
        assert_eq!(names(&take("run")), ["run", "console.log"]);
    }
}
