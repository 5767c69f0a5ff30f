//! Whether a run passed: what Umbra says with our nonce, and how QEMU ended. Nothing a guest prints counts.

use crate::console::Transcript;
use crate::fail;
use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::BuildHasher;
use std::io::Read;
use std::time::Duration;

/// How QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with this status; `None` when a signal ended it.
    Exited(Option<i32>),
    /// We ended it at the deadline, this long after its start.
    Deadline(Duration),
    /// We ended it because Umbra had said that it cannot run.
    Parked,
    /// We ended it because Umbra had given its verdict and QEMU did not go.
    Lingered,
    /// We ended it because the user asked.
    Interrupted,
    /// We ended it because all that was to be seen had been.
    Enough,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The tool's exit status for it.
    pub(crate) status: u8,
    /// One line that says why.
    pub(crate) reason: String,
}

/// A fresh nonce: 128 bits that no guest can guess, in hexadecimal.
pub(crate) fn nonce() -> String {
    let mut bytes = [0u8; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        // The keys of a hash map's state come from the operating system's random source too.
        for half in bytes.chunks_exact_mut(8) {
            half.copy_from_slice(&RandomState::new().hash_one(std::process::id()).to_le_bytes());
        }
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Judges a run of `guests` guest VMs that was given `nonce`. `by_semihosting` says whether QEMU's exit status carries
/// Umbra's word too (it does for images of our own); otherwise it says nothing, because QEMU ends with 0 whoever turns
/// the machine off.
pub(crate) fn judge(transcript: &Transcript, nonce: &str, guests: usize, ending: Ending, by_semihosting: bool) -> Verdict {
    let failed = |reason: String| Verdict {
        status: fail::FAILED,
        reason,
    };
    match ending {
        Ending::Interrupted => {
            return Verdict {
                status: fail::INTERRUPTED,
                reason: "interrupted".to_owned(),
            };
        }
        Ending::Deadline(limit) => {
            let late = format!("the run did not end within {} s (--timeout)", limit.as_secs());
            let lost = lost(transcript);
            if !lost.is_empty() {
                return failed(format!("{}; {late}", lost.join(", ")));
            }
            return Verdict {
                status: fail::TIMEOUT,
                reason: late,
            };
        }
        Ending::Parked => return failed(transcript.parked().unwrap_or("Umbra cannot run").to_owned()),
        Ending::Enough => return failed("the tool ended the run".to_owned()),
        Ending::Exited(_) | Ending::Lingered => {}
    }
    let mut ours = transcript.umbra("verdict").filter(|r| r.text("nonce") == Some(nonce));
    let Some(record) = ours.next() else {
        let forged = transcript.umbra("verdict").count();
        let how = match ending {
            Ending::Exited(Some(code)) => format!("QEMU ended with status {code}"),
            _ => "QEMU was ended by a signal".to_owned(),
        };
        let forged = if forged > 0 {
            format!("; {forged} verdict line(s) with another nonce were ignored")
        } else {
            String::new()
        };
        return failed(format!("Umbra gave no verdict: {how}{forged}"));
    };
    if ours.next().is_some() {
        return failed("Umbra gave more than one verdict".to_owned());
    }
    let count = |key| record.number(key).unwrap_or(0);
    match record.number("status") {
        Some(0) => {}
        Some(1) => {
            return failed(format!(
                "{} of {} VMs crashed, {} refused",
                count("crashed"),
                count("vms"),
                count("refused")
            ));
        }
        Some(70) => return failed("Umbra itself panicked (its report is above)".to_owned()),
        Some(71) => return failed("Umbra itself took a fault at EL2 (its report is above)".to_owned()),
        Some(other) => return failed(format!("Umbra ended with status {other}")),
        None => return failed("Umbra's verdict has no status".to_owned()),
    }
    if record.number("vms").is_some_and(|vms| vms != guests as u64) {
        return failed(format!("Umbra ran {} VMs, not {guests}", count("vms")));
    }
    if ending == Ending::Lingered {
        return failed("Umbra gave its verdict, but QEMU did not end".to_owned());
    }
    if by_semihosting && ending != Ending::Exited(Some(0)) {
        return failed(format!("Umbra's verdict is 0, but QEMU says {ending:?}"));
    }
    let s = if guests == 1 { "" } else { "s" };
    Verdict {
        status: fail::OK,
        reason: if record.number("quit").is_some() {
            "ended from the monitor".to_owned()
        } else {
            format!("{guests} VM{s} powered off")
        },
    }
}

/// Which VMs crashed or were refused, so far.
fn lost(transcript: &Transcript) -> Vec<String> {
    let ends = transcript.umbra("end").filter_map(|record| {
        let how = match record.text("reason")? {
            "crashed" => "crashed",
            "refused" => "was refused",
            _ => return None,
        };
        Some(format!("{} {how}", record.text("name")?))
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(lines: &[(u8, &str)]) -> Transcript {
        let mut t = Transcript::default();
        for (channel, line) in lines {
            for byte in line.bytes().chain([b'\n']) {
                t.push(*channel, byte);
            }
        }
        t
    }

    const GOOD: &str = "@umbra verdict nonce=n1 status=0 vms=1 off=1 crashed=0 refused=0";
    const EXIT0: Ending = Ending::Exited(Some(0));

    #[test]
    fn a_verdict_needs_the_line_and_the_exit_status() {
        assert_eq!(judge(&transcript(&[(0, GOOD)]), "n1", 1, EXIT0, true).status, 0);
        assert_eq!(judge(&transcript(&[(0, GOOD)]), "n1", 1, Ending::Exited(Some(1)), true).status, 1);
        assert_eq!(judge(&transcript(&[(0, GOOD)]), "n1", 1, Ending::Exited(None), true).status, 1);
        assert_eq!(judge(&transcript(&[(0, GOOD)]), "n1", 1, Ending::Exited(Some(1)), false).status, 0);
    }

    #[test]
    fn an_exit_status_without_the_line_is_a_failure() {
        assert_eq!(judge(&transcript(&[]), "n1", 1, EXIT0, true).status, 1);
        assert_eq!(judge(&transcript(&[]), "n1", 1, EXIT0, false).status, 1);
    }

    #[test]
    fn a_line_with_another_nonce_or_on_a_guests_channel_does_not_pass() {
        let replayed = judge(&transcript(&[(0, GOOD)]), "n2", 1, EXIT0, true);
        assert_eq!(replayed.status, 1);
        assert!(replayed.reason.contains("another nonce"), "{}", replayed.reason);
        assert_eq!(judge(&transcript(&[(2, GOOD)]), "n1", 1, EXIT0, true).status, 1);
        assert_eq!(judge(&transcript(&[(1, GOOD)]), "n1", 1, EXIT0, true).status, 1);
    }

    #[test]
    fn a_second_verdict_or_another_number_of_vms_does_not_pass() {
        assert_eq!(judge(&transcript(&[(0, GOOD), (0, GOOD)]), "n1", 1, EXIT0, true).status, 1);
        assert_eq!(judge(&transcript(&[(0, GOOD)]), "n1", 2, EXIT0, true).status, 1);
    }

    #[test]
    fn a_crash_a_panic_a_deadline_and_ctrl_c_have_their_statuses() {
        let crashed = "@umbra verdict nonce=n1 status=1 vms=2 off=1 crashed=1 refused=0";
        assert_eq!(
            judge(&transcript(&[(0, crashed)]), "n1", 2, Ending::Exited(Some(1)), true).status,
            1
        );
        let panicked = "@umbra verdict nonce=n1 status=70";
        let verdict = judge(&transcript(&[(0, panicked)]), "n1", 2, Ending::Exited(Some(70)), true);
        assert_eq!((verdict.status, verdict.reason.contains("panicked")), (1, true));
        assert_eq!(
            judge(&transcript(&[(0, GOOD)]), "n1", 1, Ending::Deadline(Duration::from_secs(9)), true).status,
            3
        );
        assert_eq!(judge(&transcript(&[(0, GOOD)]), "n1", 1, Ending::Interrupted, true).status, 130);
        assert_eq!(judge(&transcript(&[(0, GOOD)]), "n1", 1, Ending::Lingered, true).status, 1);
    }

    #[test]
    fn a_run_that_was_ended_from_the_monitor_is_well_and_said_to_be_that() {
        let quit = judge(&transcript(&[(0, "@umbra verdict nonce=n1 status=0 quit=1")]), "n1", 2, EXIT0, true);
        assert_eq!((quit.status, quit.reason.as_str()), (0, "ended from the monitor"));
        let off = judge(&transcript(&[(0, GOOD)]), "n1", 1, EXIT0, true);
        assert_eq!((off.status, off.reason.as_str()), (0, "1 VM powered off"));
    }

    #[test]
    fn each_nonce_is_new() {
        let (a, b) = (nonce(), nonce());
        assert_eq!(a.len(), 32);
        assert_ne!(a, b);
    }
}
