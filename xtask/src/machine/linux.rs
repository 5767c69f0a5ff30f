//! Guests that others wrote: Debian's Linux and U-Boot, on machines that differ.

use super::ratio::Ratio;
use super::tool::Tool;
use super::{Case, Guest, Seen};
use crate::cpio::Archive;
use crate::vmfile::{self, Module};
use anyhow::{Context, Result};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The shell's prompt.
const PROMPT: &str = "umbra-linux:/# ";

/// Command lines of runs that are compared. A kernel at random addresses differs from boot to boot, and turns on page table
/// isolation where the CPU needs none.
const STEADY_BOOT: &str = "quiet nokaslr umbra.test=boot";
const STEADY_ROUNDS: &str = "quiet nokaslr umbra.test=hotplug=20";

/// A Linux run that ends by itself. Its first process prints results, and powers the machine off.
fn linux(name: &'static str, guest: Guest) -> Case {
    Case::new(name, guest).foreign().seconds(120)
}

/// Every round of taking a CPU off and on again must have gone well, and nobody may have been stopped or told `EBUSY`.
fn hotplugged(seen: &Seen<'_>) -> Result<(), String> {
    seen.all_passed()?;
    let rounds = |key: &str| {
        let record = seen.transcript().records.iter().find(|r| r.kind == "hotplug");
        record.and_then(|r| r.number(key))
    };
    if rounds("rounds") != Some(100) || rounds("errors") != Some(0) {
        return Err(format!("{:?} rounds, {:?} errors", rounds("rounds"), rounds("errors")));
    }
    for key in ["stops", "busy", "expired"] {
        match seen.counted(1, key) {
            0 => {}
            n => return Err(format!("{key}={n}")),
        }
    }
    // The boot brings up three CPUs, each round one more.
    match seen.counted(1, "starts") {
        104 => Ok(()),
        n => Err(format!("{n} vCPU starts, not 104")),
    }
}

/// As [`hotplugged`], with both calls forwarded to the host partition.
fn hotplugged_by_the_host(seen: &Seen<'_>) -> Result<(), String> {
    hotplugged(seen)?;
    // One CPU_ON for each start but the first vCPU's own, one CPU_OFF for each round.
    match seen.counted(1, "forwards") {
        203.. => Ok(()),
        n => Err(format!("{n} calls forwarded, not 203 or more")),
    }
}

/// Two Linux VMs on the same two pCPUs.
fn pair(a: &'static str, b: &'static str) -> [Guest; 2] {
    [("a", a), ("b", b)].map(|(name, bootargs)| Guest::linux(bootargs).named(name).vcpus(2).pcpus(&[0, 1]))
}

/// Bytes of a large file in the initramfs: neither they nor the initramfs end at a 2 MiB block, a page or a word.
const BLOB: usize = (64 << 20) + 4321;

/// The contents of a large file: bytes that no decoder makes smaller, none at a place by chance.
fn blob(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut blob = Vec::with_capacity(bytes + 8);
    while blob.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        blob.extend(state.to_le_bytes());
    }
    blob.truncate(bytes);
    blob
}

/// Adds an archive with the file `blob` to an initramfs: Linux unpacks one after the other.
pub(super) fn with_blob(initramfs: &Path, bytes: usize) -> Result<Module> {
    let mut archive = Archive::default();
    archive.program("blob", &blob(bytes));
    std::fs::OpenOptions::new()
        .append(true)
        .open(initramfs)?
        .write_all(&archive.finish())?;
    vmfile::module(initramfs).map_err(|e| anyhow::anyhow!("{e}"))
}

/// What the program `md5sum` says of `bytes`, on this machine as in Linux: it is there wherever dpkg is.
fn md5(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(bytes)?;
    let said = child.wait_with_output()?.stdout;
    let sum = String::from_utf8(said)?.split_whitespace().next().map(str::to_owned);
    sum.filter(|sum| sum.len() == 32).context("md5sum gives no sum")
}

/// The large file must have arrived as it was made, in an initramfs that fills no 2 MiB block at its end.
fn unpacked(seen: &Seen<'_>) -> Result<(), String> {
    seen.all_passed()?;
    let initrd = seen.plan.vms.iter().find_map(|vm| vm.initrd.as_ref()).ok_or("no initrd")?;
    if initrd.size < BLOB as u64 || initrd.size.is_multiple_of(2 << 20) {
        return Err(format!("the initramfs has {} bytes", initrd.size));
    }
    let record = seen.transcript().records.iter().find(|r| r.kind == "blob").ok_or("no record")?;
    let expected = md5(&blob(BLOB)).map_err(|e| format!("md5sum: {e:#}"))?;
    match (record.text("md5"), record.number("bytes")) {
        (Some(found), Some(bytes)) if found == expected && bytes == BLOB as u64 => Ok(()),
        found => Err(format!("checksum and size {found:?}, expected {expected} and {BLOB}")),
    }
}

/// U-Boot to its prompt, where it says what it was built for, and off.
fn u_boot(name: &'static str) -> Case {
    linux(name, Guest::u_boot())
        .types(&[("=> ", "echo $((1 + 1)) $arch\r"), ("=> ", "poweroff\r")])
        .expect(|seen| {
            seen.verdict_is(0, "powered off")?;
            seen.vm_says("u-boot", "arm")
        })
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let [one, other] = pair("umbra.test=spin=5", "umbra.test=spin=5");
    let [on_a53, beside_it] = pair("umbra.test=boot", "umbra.test=boot");
    let [on_max, beside_that] = pair("umbra.test=boot", "umbra.test=boot");
    let [crasher, survivor] = pair("umbra.test=crash", "umbra.test=spin=15");
    vec![
        linux("linux-boots-and-powers-off", Guest::linux("umbra.test=boot")),
        linux("linux-on-cortex-a53", Guest::linux("umbra.test=boot")).cpu("cortex-a53"),
        linux("linux-on-cpu-max", Guest::linux("umbra.test=boot")).cpu("max"),
        linux("linux-shell-takes-what-is-typed", Guest::linux("").ram(0x4000_0000, 768 << 20))
            .types(&[
                (PROMPT, "cat /proc/interrupts\r"),
                (PROMPT, "grep MemTotal /proc/meminfo\r"),
                (PROMPT, "echo $((6 * 7)) is the answer\r"),
                (PROMPT, "poweroff\r"),
            ])
            .expect(|seen| {
                seen.verdict_is(0, "powered off")?;
                seen.vm_says("linux", "uart-pl011")?;
                seen.vm_says("linux", "42 is the answer")?;
                // What the kernel takes for itself is not in it.
                let total = seen.lines("linux").iter().find_map(|l| l.strip_prefix("MemTotal:"));
                let total = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
                match total {
                    Some(kib) if (700 << 10..768 << 10).contains(&kib) => Ok(()),
                    other => Err(format!("{other:?} KiB of memory, of 768 MiB")),
                }
            }),
        linux("linux-cpu-off-and-on-by-hand", Guest::linux(""))
            .types(&[
                (
                    PROMPT,
                    "cd /sys/devices/system/cpu/cpu1; echo 0 >online; grep -c ^processor /proc/cpuinfo\r",
                ),
                ("\n3\r", "echo 1 >online; grep -c ^processor /proc/cpuinfo\r"),
                ("\n4\r", "poweroff\r"),
            ])
            .expect(|seen| seen.verdict_is(0, "powered off")),
        linux("linux-reboot-boots-again", Guest::linux(""))
            .types(&[(PROMPT, "reboot\r"), ("Type poweroff or reboot", ""), (PROMPT, "poweroff\r")])
            .expect(|seen| {
                seen.verdict_is(0, "powered off")?;
                let boots = seen
                    .lines("linux")
                    .iter()
                    .filter(|l| l.contains("Run /init as init process"))
                    .count();
                if boots == 2 { Ok(()) } else { Err(format!("{boots} boots, not 2")) }
            }),
        Case::of_the_tool(
            "tool-sums-up-what-linux-forwarded",
            Tool::new(&[
                "--guest",
                "linux",
                "--vcpus",
                "2",
                "--forward",
                "cpu_on,cpu_off",
                "--bootargs",
                "note=\"two  words\" 'and more'",
            ])
            .says(&[
                "console=ttyAMA0 note=\"two  words\" 'and more'",
                "1 CPUs are on",
                "2 CPUs are on",
                "forwarded calls",
                "  of them forwarded",
                "EBUSY answers",
                "forced exits of bystanders",
                "word reads",
                "calls the host answered",
                "passed 1 VM powered off",
            ])
            .never_says(&["MISS"]),
        )
        .seconds(120)
        .types(&[
            (PROMPT, "cat /proc/cmdline\r"),
            (PROMPT, "cpu=/sys/devices/system/cpu/cpu1/online\r"),
            (PROMPT, "echo 0 >$cpu; echo $(grep -c ^processor /proc/cpuinfo) CPUs are on\r"),
            (PROMPT, "echo 1 >$cpu; echo $(grep -c ^processor /proc/cpuinfo) CPUs are on\r"),
            (PROMPT, "poweroff\r"),
        ]),
        linux("linux-unpacks-a-large-initramfs", Guest::linux("umbra.test=blob").blob(BLOB)).expect(unpacked),
        linux("linux-cpus-off-and-on-100-times", Guest::linux("umbra.test=hotplug=100"))
            .seconds(240)
            .expect(hotplugged),
        linux(
            "linux-cpus-off-and-on-100-times-forwarded",
            Guest::linux("umbra.test=hotplug=100").forwards(&["cpu_on", "cpu_off"]),
        )
        .seconds(300)
        .expect(hotplugged_by_the_host),
        linux("linux-four-vcpus-on-two-pcpus", Guest::linux("umbra.test=boot,hotplug=10"))
            .smp(2)
            .seconds(240),
        linux("linux-two-vms-share-pcpus", one).and(other).seconds(240),
        linux("linux-two-vms-share-pcpus-on-cortex-a53", on_a53)
            .and(beside_it)
            .cpu("cortex-a53")
            .seconds(240),
        linux("linux-two-vms-share-pcpus-on-cpu-max", on_max)
            .and(beside_that)
            .cpu("max")
            .seconds(240),
        linux("linux-goes-on-when-the-other-crashes", crasher)
            .and(survivor)
            .seconds(240)
            .until("@guest done passed=2 failed=0")
            .expect(|seen| {
                seen.vm_says("a", "Kernel panic")?;
                seen.vm_says("b", "@guest alive round=15")
            }),
        linux("monitor-lists-stops-resets-and-turns-off", Guest::linux(""))
            .types(&[(PROMPT, "\x1dl\x1ds\x1ds\x1dr"), ("Type poweroff or reboot", ""), (PROMPT, "\x1do")])
            .expect(|seen| {
                seen.verdict_is(0, "powered off")?;
                seen.umbra_says(&["VM 1 linux: running"])?;
                seen.umbra_says(&["vCPU 3", "ICC_CTLR_EL1", "generation"])?;
                seen.umbra_says(&["VM 1 vCPU 0:"])?;
                for did in ["is stopped", "goes on", "is being reset", "is being turned off"] {
                    seen.umbra_says(&["monitor: VM 1 (linux)", did])?;
                }
                Ok(())
            }),
        linux("monitor-starts-a-vm-that-has-ended", Guest::linux(""))
            .and(Guest::new("hello", "").named("short"))
            .types(&[(PROMPT, "\x1d2\x1dg\x1d1poweroff\r")])
            .expect(|seen| {
                seen.verdict_is(0, "powered off")?;
                seen.umbra_says(&["monitor: VM 2 (short)", "is started anew"])?;
                let starts = seen.lines("short").iter().filter(|l| l.contains("hello from EL1")).count();
                if starts == 2 {
                    Ok(())
                } else {
                    Err(format!("{starts} starts, not 2"))
                }
            }),
        u_boot("u-boot-reaches-its-prompt"),
        u_boot("u-boot-on-cortex-a53").cpu("cortex-a53"),
        u_boot("u-boot-on-cpu-max").cpu("max"),
        linux("linux-boot-as-a-ratio", Guest::linux(STEADY_BOOT)).icount().ratio(Ratio {
            what: "Linux from the machine's start to init",
            of: |records| records.iter().find(|r| r.kind == "init")?.number("ticks"),
            target: 1.15,
        }),
        linux("linux-cpus-off-and-on-as-a-ratio", Guest::linux(STEADY_ROUNDS))
            .icount()
            .seconds(240)
            .ratio(Ratio {
                what: "20 rounds of a CPU off and on",
                of: |records| {
                    let record = records.iter().find(|r| r.kind == "hotplug")?;
                    record.number("end")?.checked_sub(record.number("begin")?)
                },
                target: 1.2,
            }),
    ]
}
