//! The QEMU process: started, read, bounded by a deadline, and ended by its own id only.

use crate::console::{Demux, Line, Transcript};
use crate::verdict::Ending;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Set by Ctrl-C (and by a request to terminate).
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The most that is written to a console log.
const LOG_LIMIT: u64 = 256 << 20;
/// How long QEMU may take to end after Umbra's verdict.
const LINGER: Duration = Duration::from_secs(10);

/// Has Ctrl-C end the run instead of the tool, so that nothing is left behind. May be called again.
pub(crate) fn catch_interrupts() {
    // A second call finds the handler in place already; that is what it wanted.
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
}

/// Whether the user has asked to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A child process that does not outlive its handle.
#[derive(Debug)]
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    /// How QEMU ended.
    pub(crate) ending: Ending,
    /// What the consoles said.
    pub(crate) transcript: Transcript,
    /// What QEMU itself said on standard error.
    pub(crate) stderr: String,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// How long QEMU computed, all threads together; where the system tells.
    pub(crate) cpu_seconds: Option<f64>,
}

/// Sees the consoles as they speak.
pub(crate) trait Watch {
    /// The run begins; what is written to `input` is typed on the machine's serial line.
    fn begin(&mut self, _input: ChildStdin) {}
    /// A byte of a channel.
    fn byte(&mut self, _channel: u8, _byte: u8) {}
    /// A finished line of a channel.
    fn line(&mut self, _line: &Line) {}
    /// What was read has been given. `idle` says that nothing has come for a moment.
    fn pause(&mut self, _idle: bool) {}
    /// Whether enough has been seen: the run ends then.
    fn enough(&self) -> bool {
        false
    }
    /// The run is over and the process is not: it is about to be killed.
    fn leave(&mut self, _child: &mut Child) {}
}

/// Watches nothing.
#[derive(Debug, Default)]
pub(crate) struct Blind;
impl Watch for Blind {}

/// Starts QEMU in a process group of its own: a Ctrl-C at the terminal is ours to deal with.
pub(crate) fn spawn(qemu: &Path, args: &[OsString]) -> Result<Owned> {
    let mut command = Command::new(qemu);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    Ok(Owned(command.spawn().with_context(|| format!("cannot start {}", qemu.display()))?))
}

/// Runs QEMU to its end, the deadline's or the user's, and keeps the raw console in `log`.
pub(crate) fn run(qemu: &Path, args: &[OsString], log: &Path, deadline: Option<Duration>, watch: &mut dyn Watch) -> Result<Run> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let unwritten = || format!("cannot write the console log {}", log.display());
    let mut log_file = File::create(log).with_context(unwritten)?;
    let started = Instant::now();
    let mut child = spawn(qemu, args)?;
    let output = child.0.stdout.take().context("QEMU has no standard output")?;
    let errors = child.0.stderr.take().context("QEMU has no standard error")?;
    watch.begin(child.0.stdin.take().context("QEMU has no standard input")?);
    let (sender, pieces) = mpsc::sync_channel::<Vec<u8>>(256);
    let reader = std::thread::spawn(move || pump(output, &sender));
    let complaints = std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was read before an error is still worth showing.
        let _ = errors.take(1 << 20).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });

    let mut demux = Demux::new();
    let mut transcript = Transcript::default();
    let mut logged = 0u64;
    let mut verdict_at = None;
    let forced = loop {
        match pieces.recv_timeout(Duration::from_millis(50)) {
            Ok(piece) => {
                if logged < LOG_LIMIT {
                    log_file.write_all(&piece).with_context(unwritten)?;
                    logged += piece.len() as u64;
                }
                demux.feed(&piece, |channel, byte| {
                    watch.byte(channel, byte);
                    if let Some(line) = transcript.push(channel, byte) {
                        watch.line(&line);
                    }
                });
                watch.pause(false);
            }
            Err(RecvTimeoutError::Timeout) => watch.pause(true),
            Err(RecvTimeoutError::Disconnected) => break None,
        }
        if verdict_at.is_none() && transcript.records.last().is_some_and(|r| r.channel == 0 && r.kind == "verdict") {
            verdict_at = Some(Instant::now());
        }
        if interrupted() {
            break Some(Ending::Interrupted);
        }
        if watch.enough() {
            break Some(Ending::Enough);
        }
        if transcript.parked().is_some() {
            break Some(Ending::Parked);
        }
        if let Some(limit) = deadline.filter(|limit| started.elapsed() >= *limit) {
            break Some(Ending::Deadline(limit));
        }
        if verdict_at.is_some_and(|at: Instant| at.elapsed() >= LINGER) {
            break Some(Ending::Lingered);
        }
    };
    let cpu_seconds = cpu_seconds(child.0.id());
    let ending = match forced {
        Some(ending) => {
            watch.leave(&mut child.0);
            ending
        }
        // The console is closed: QEMU is ending. It gets a moment, but not for ever.
        None => match wait(&mut child.0, LINGER)? {
            Some(status) => Ending::Exited(status.code()),
            None => Ending::Lingered,
        },
    };
    drop(child);
    // The pipes close with QEMU; anything still on the way is taken along.
    for piece in pieces.try_iter() {
        if logged < LOG_LIMIT {
            log_file.write_all(&piece).with_context(unwritten)?;
            logged += piece.len() as u64;
        }
        demux.feed(&piece, |channel, byte| {
            watch.byte(channel, byte);
            if let Some(line) = transcript.push(channel, byte) {
                watch.line(&line);
            }
        });
    }
    drop(pieces);
    for line in transcript.flush() {
        watch.line(&line);
    }
    let _ = reader.join();
    let stderr = complaints.join().unwrap_or_default();
    Ok(Run {
        ending,
        transcript,
        stderr,
        elapsed: started.elapsed(),
        cpu_seconds,
    })
}

/// User and system time of a process that has not been waited for, as Linux tells it.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_ticks(&text).map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The program's name, in brackets, may hold anything. After it: state, and utime and stime as words 12 and 13.
    let (_, rest) = stat.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?)
}

fn pump(mut from: impl Read, to: &mpsc::SyncSender<Vec<u8>>) {
    let mut buffer = [0u8; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if to.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits for a child, `limit` at most.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline: u64) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let args = [OsString::from("-c"), OsString::from(script)];
        run(
            Path::new("/bin/sh"),
            &args,
            &folder.path().join("log"),
            Some(Duration::from_secs(deadline)),
            &mut Blind,
        )
        .expect("a run")
    }

    #[test]
    fn a_child_that_ends_gives_its_status_and_its_words() {
        let run = sh("printf 'boot\\n\\016Bhi\\n'; echo oops >&2; exit 7", 30);
        assert_eq!(run.ending, Ending::Exited(Some(7)));
        assert_eq!(
            (run.transcript.lines(0), run.transcript.lines(2)),
            (["boot".to_owned()].as_slice(), ["hi".to_owned()].as_slice())
        );
        assert_eq!(run.stderr, "oops\n");
    }

    #[test]
    fn cpu_time_is_read_past_a_name_with_brackets() {
        assert_eq!(cpu_ticks("7 (a) b (c) R 1 7 7 0 -1 0 0 0 0 0 120 30 0 0 20"), Some(150));
        assert_eq!(cpu_ticks("7"), None);
    }

    #[test]
    fn a_child_that_does_not_end_is_ended_at_the_deadline() {
        let run = sh("echo begun; exec sleep 60", 1);
        assert!(matches!(run.ending, Ending::Deadline(_)));
        assert!(run.elapsed < Duration::from_secs(20));
        assert_eq!(run.transcript.lines(0), ["begun"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_by_the_name_of_the_console_log() {
        let full = Path::new("/dev/full");
        let error = run(Path::new("/bin/echo"), &["x".into()], full, None, &mut Blind).expect_err("full");
        let message = format!("{error:#}");
        assert!(
            message.starts_with("cannot write the console log /dev/full: No space left"),
            "{message}"
        );
    }

    #[test]
    fn a_flood_is_read_to_its_end_without_being_kept_whole() {
        let run = sh("yes 0123456789012345678901234567890123456789 | head -c 30000000", 60);
        assert_eq!(run.ending, Ending::Exited(Some(0)));
        assert!(run.transcript.lines(0).len() < 400_000);
    }
}
