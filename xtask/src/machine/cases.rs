//! The tests on the machine, one entry each.

use super::tool::Tool;
use super::{Case, Guest, Script, Seen};
use crate::console::Record;
use hyp_core::filter::Action;

/// A VM of four vCPUs that runs the tests of `bin` which `bootargs` select.
fn four(bin: &'static str, bootargs: &'static str) -> Guest {
    Guest::new(bin, bootargs).vcpus(4)
}

/// A guest of four vCPUs, forwarding what the host partition's test `host` is to answer.
fn with_host(name: &'static str, guest: Guest, host: &'static str) -> Case {
    Case::new(name, guest.forward().oem()).host("hosttest", host).seconds(60)
}

/// Umbra itself fails on a pCPU: a readable report that names it, and a failing verdict.
fn umbra_fails(name: &'static str, host: &'static str, expect: super::Expect) -> Case {
    with_host(name, four("hello", ""), host)
        .features(&["test-triggers"])
        .seconds(30)
        .expect(expect)
}

/// Four vCPUs on two pCPUs, or on those that are given.
fn shared(name: &'static str, bootargs: &'static str, pcpus: &'static [u32]) -> Case {
    Case::new(name, four("share", bootargs).pcpus(pcpus)).seconds(120)
}

/// The demo, shortened.
fn short_demo(name: &'static str) -> Case {
    Case::new(name, four("demo", "cycles=50 races=10").forward().oem())
}

/// The VM must have crashed: Umbra says how, and the verdict is a failure.
fn crashed(seen: &Seen<'_>) -> Result<(), String> {
    seen.verdict_is(1, "1 of 1 VMs crashed")?;
    seen.umbra_says(&["ESR", "FAR", "PC"])
}

/// A VM whose pCPU came up too late was refused, and the other one ran to its end.
fn goes_on_without_the_late(seen: &Seen<'_>) -> Result<(), String> {
    seen.umbra_says(&["pCPU 1: did not come up", "VM late is refused: umbra,pcpus: pCPU 1 did not come up"])?;
    seen.verdict_is(1, "refused")?;
    seen.failures()?;
    let done = seen.transcript().records.iter().filter(|r| r.kind == "done").count();
    let ends: Vec<_> = seen.umbra().iter().filter(|line| line.contains(" ended on ")).collect();
    if (done, ends.len()) == (1, 1) {
        Ok(())
    } else {
        Err(format!("{done} programs are done; {ends:?}"))
    }
}

/// Whenever EL2 made an interrupt active in one of the physical GIC's frames, it read the same register next.
fn made_active_and_read_back(seen: &Seen<'_>) -> Result<(), String> {
    seen.all_passed()?;
    let accesses: Vec<_> = seen.run.stderr.lines().filter_map(gic_access).collect();
    let mut count = 0;
    for (at, (frame, write, offset)) in accesses.iter().enumerate() {
        // ISACTIVER0 of a redistributor, and those of the distributor's SPIs.
        let sets = if frame == &"redist" {
            *offset == 0x1_0300
        } else {
            (0x304..0x380).contains(offset)
        };
        if *write && sets {
            count += 1;
            if accesses.get(at + 1) != Some(&(*frame, false, *offset)) {
                return Err(format!("{frame}: a write at {offset:#x} is not read back"));
            }
        }
    }
    if count == 0 {
        Err("nothing was made active".to_owned())
    } else {
        Ok(())
    }
}

/// A line in which QEMU tells of an access to the GIC: the frame, whether it is a write, and its offset.
fn gic_access(line: &str) -> Option<(&str, bool, u64)> {
    let (event, what) = line.split_once("gicv3_")?.1.split_once(' ')?;
    let (frame, write) = match event.split_once('_')? {
        (frame, "read") => (frame, false),
        (frame, "write") => (frame, true),
        _ => return None,
    };
    let offset = what.split_once("offset 0x")?.1.split(' ').next()?;
    Some((frame, write, u64::from_str_radix(offset, 16).ok()?))
}

/// A guest that does what is typed.
fn obeying(name: &'static str, bootargs: &'static str) -> Guest {
    Guest::new("obey", bootargs).named(name)
}

/// VM a crashed and ran again from the beginning; VM b counted on all the time.
fn started_anew(seen: &Seen<'_>) -> Result<(), String> {
    seen.verdict_is(0, "2 VMs powered off")?;
    seen.umbra_says(&["VM 1 a: crashed", "VM 1 (a) ended on pCPU", ": crashed"])?;
    for did in ["is not in a state for that", "is started anew"] {
        seen.umbra_says(&[&format!("monitor: VM 1 (a) {did}")])?;
    }
    let starts = seen.lines("a").iter().filter(|line| *line == "a counts 1").count();
    if starts != 2 {
        return Err(format!("VM a began {starts} times, not twice"));
    }
    let counts: Vec<_> = seen.lines("b").iter().filter_map(|line| line.strip_prefix("b counts ")).collect();
    let on = counts.iter().zip(1_u64..).all(|(found, expected)| found.parse() == Ok(expected));
    if on && counts.len() > 4 {
        Ok(())
    } else {
        Err(format!("VM b counted {counts:?}"))
    }
}

/// A VM that reads nothing more, or by its `bootargs` never did, has so many bytes typed, each of which would crash a VM that reads it.
/// The monitor hears what is for it all the same, and a VM that has the focus afterwards gets what is its own.
fn deaf(name: &'static str, bootargs: &'static str, bytes: usize) -> Case {
    let typed: &str = format!("{}\x1d2q\x1d1\x1do", "c".repeat(bytes)).leak();
    Case::new(name, obeying("a", bootargs))
        .and(obeying("b", "name=b"))
        .types(vec![("a counts 2", "d"), ("a counts", ""), ("a counts", typed)].leak())
        .seconds(30)
        .expect(|seen| {
            seen.verdict_is(0, "2 VMs powered off")?;
            seen.umbra_says(&["monitor: VM 2 (b) has the focus", "monitor: VM 1 (a) is being turned off"])
        })
}

/// So many bytes typed at once: the sequence that the program `flood` expects. The table of tests lives as long as the tool.
fn flood(bytes: usize) -> Script {
    let mut state = 0x2545_F491_u32;
    let sequence = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        char::from(b' ' + ((state >> 8) % 95) as u8)
    });
    let typed: &str = sequence.take(bytes).collect::<String>().leak();
    vec![("listening", typed)].leak()
}

/// A flood of input: every byte arrives in its place, and meanwhile nothing that another vCPU prints is lost.
fn flooded(name: &'static str, bootargs: &'static str, bytes: usize, pcpus: &'static [u32]) -> Case {
    Case::new(name, Guest::new("flood", bootargs).vcpus(2).pcpus(pcpus))
        .seconds(120)
        .types(flood(bytes))
        .expect(|seen| {
            seen.all_passed()?;
            let record = seen.transcript().records.iter().find(|r| r.kind == "flood");
            let all = record.and_then(|r| r.number("bytes")).ok_or("no record")?;
            let (mut last, mut meanwhile) = (0, 0);
            for (line, number) in seen.lines("flood").iter().filter(|l| l.starts_with("line ")).zip(1_u64..) {
                let come = line.strip_prefix(&format!("line {number} while "));
                match come.and_then(|l| l.strip_suffix(" bytes have come")).map(str::parse) {
                    Some(Ok(come)) if come >= last => last = come,
                    _ => return Err(format!("line {number} is {line:?}")),
                }
                meanwhile += u64::from((1..all).contains(&last));
            }
            if meanwhile < 10 {
                return Err(format!("{meanwhile} lines were printed meanwhile"));
            }
            Ok(())
        })
}

/// A VM of 256 MiB with an initial RAM disk, its vCPUs on `pcpus`, resets itself again and again, and a neighbour on pCPU 0
/// looks at the counter: it never waits longer than a slice, which is 4 ms.
fn restarting(name: &'static str, pcpus: &'static [u32]) -> Case {
    let large = obeying("large", "test=again").vcpus(pcpus.len() as u32).pcpus(pcpus);
    Case::new(name, large.ram(0x4000_0000, 256 << 20).initrd_mib(32))
        .and(Guest::new("gap", "ms=2000").named("neighbour").pcpus(&[0]))
        .icount()
        .seconds(120)
        .until("@guest done passed=1 failed=0")
        .figure(|seen| {
            let (longest, slice) = longest_gap(seen)?;
            Some(format!(
                "a restarting neighbour took {longest} ticks at once at most; a slice is {slice} ({} restarts)",
                restarts(seen)
            ))
        })
        .expect(|seen| match (longest_gap(seen), restarts(seen)) {
            (None, _) => Err("no figure".to_owned()),
            (Some((longest, slice)), _) if longest > slice => Err(format!("the longest gap was {longest} ticks, a slice is {slice}")),
            (_, 0..2) => Err("it was not restarted twice".to_owned()),
            _ => Ok(()),
        })
}

/// The longest gap that the program `gap` saw, and a slice, in ticks.
fn longest_gap(seen: &Seen<'_>) -> Option<(u64, u64)> {
    let record = seen.transcript().records.iter().find(|r| r.kind == "gap")?;
    Some((record.number("longest")?, record.number("frequency")? * 4 / 1000))
}

/// The program `gap`, on pCPU 0, beside one that would have more than its share of that.
fn leaves_time(name: &'static str, greedy: Guest, expect: super::Expect) -> Case {
    Case::new(name, greedy.named("greedy"))
        .and(Guest::new("gap", "ms=300").pcpus(&[0]))
        .icount()
        .seconds(120)
        .expect(expect)
}

/// The program `gap` lost at most so many percent of its 300 milliseconds.
fn lost_at_most<const PERCENT: u64>(seen: &Seen<'_>) -> Result<(), String> {
    let record = seen.transcript().records.iter().find(|r| r.kind == "gap");
    let figure = |name| record.and_then(|r| r.number(name)).ok_or("no figure");
    let lost = 100 * figure("lost")? / (figure("frequency")? * 300 / 1000);
    if lost > PERCENT {
        return Err(format!("it lost {lost} % of its time, not {PERCENT} % at most"));
    }
    Ok(())
}

fn restarts(seen: &Seen<'_>) -> usize {
    seen.umbra().iter().filter(|line| line.contains("(large) was reset")).count()
}

const RTC_OF_TWO: &str = "test=rerouted_to_another_of_two,ended_by_another_of_two,taken_along_by_one_of_two_that_goes_off";

/// The guest has taken 500 interrupts of a passed-through device: each costs the exit of its arrival, and none at its end.
fn no_exit_at_eoi(seen: &Seen<'_>) -> Result<(), String> {
    seen.all_passed()?;
    let [interrupts, kicks] = ["interrupts", "kicks_irq"].map(|key| seen.counted(0, key) + seen.counted(1, key));
    if (500..520).contains(&interrupts) && kicks < 10 {
        Ok(())
    } else {
        Err(format!(
            "500 interrupts cost {interrupts} exits for physical ones, {kicks} of them kicks"
        ))
    }
}

/// The records of that kind from the VM `name`.
fn records<'a>(seen: &'a Seen<'_>, name: &str, kind: &'a str) -> impl Iterator<Item = &'a Record> {
    let at = seen.plan.vms.iter().position(|vm| vm.name == name);
    let channel = at.map(|at| seen.plan.channel_of(at));
    seen.transcript()
        .records
        .iter()
        .filter(move |r| r.kind == kind && Some(r.channel) == channel)
}

/// VM `vectors`, whose calls that only read are answered in the vectors, and VM `rust`, where one range is forwarded and so none
/// of them is, got the same answers to the same calls, and not the same way.
fn same_answers(seen: &Seen<'_>) -> Result<(), String> {
    seen.all_passed()?;
    let of = |name| -> Vec<_> { records(seen, name, "calls").collect() };
    let (short, long) = (of("vectors"), of("rust"));
    if short.len() != 16 || long.len() != 16 {
        return Err(format!("{} and {} digests, not 16 each", short.len(), long.len()));
    }
    let all = |r: &Record| r.fields().map(|(key, value)| format!(" {key}={value}")).collect::<String>();
    if let Some((a, b)) = short.iter().zip(&long).find(|(a, b)| !a.fields().eq(b.fields())) {
        return Err(format!("the answers differ: in the vectors{}, in Rust{}", all(a), all(b)));
    }
    let [vectors, rust] = [1, 2].map(|vm| seen.counted(vm, "calls"));
    if vectors.min(rust) < 5000 {
        return Err(format!("{vectors} and {rust} calls were counted"));
    }
    let ticks = |name| records(seen, name, "fastest").find_map(|r| r.number("ticks"));
    match (ticks("vectors"), ticks("rust")) {
        (Some(short), Some(long)) if 2 * short < long => Ok(()),
        ticks => Err(format!("64 calls took {ticks:?} ticks: both VMs' calls are answered the same way")),
    }
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    vec![
        Case::new("boot-and-off", Guest::new("hello", "")).seconds(30),
        Case::new("boot-without-semihosting", Guest::new("hello", "")).foreign().seconds(30),
        Case::new("boot-in-little-ram", Guest::new("hello", "").ram(0x4000_0000, 4 << 20)).seconds(30),
        // In a GiB of its own, across a boundary of 2 MiB, on a machine with two such redistributor ranges: many tables.
        Case::new("boot-with-the-tree-far-away", Guest::new("hello", "").vcpus(16))
            .memory_mib(4096)
            .tree_at(0xBFBF_F000)
            .seconds(60)
            .expect(|seen| {
                seen.all_passed()?;
                seen.umbra_says(&["16 pCPUs"])
            }),
        Case::new("entered-at-el1-it-says-so-and-parks", Guest::new("hello", ""))
            .seconds(30)
            .parks(&["-M", "virtualization=off"], "entered at EL1; it needs EL2"),
        Case::new("on-a-gicv2-it-says-so-and-parks", Guest::new("hello", ""))
            .seconds(30)
            .parks(&["-M", "gic-version=2"], "the interrupt controller is a GICv2"),
        Case::new("two-vms", Guest::new("hello", "").named("a"))
            .and(Guest::new("hello", "").named("b"))
            .seconds(30)
            .expect(|seen| {
                seen.verdict_is(0, "2 VMs powered off")?;
                seen.vm_says("a", "hello from EL1")?;
                seen.vm_says("b", "hello from EL1")
            }),
        Case::of_the_tool(
            "tool-runs-two-vm-files",
            Tool::new(&[])
                .vm("hello", "name = \"a\"\nvcpus = 2\npcpus = [0, 1]\nbootargs = 'test=\"quoted\"'")
                .vm("hello", "name = \"b\"\npcpus = [1]")
                .says(&[
                    "[a] hello from EL1: vCPU 0 of 2",
                    "bootargs test=\"quoted\"",
                    "[b] hello from EL1: vCPU 0 of 1",
                    "passed 2 VMs powered off",
                ]),
        ),
        Case::of_the_tool(
            "tool-ends-well-when-the-monitor-quits",
            Tool::new(&[])
                .vm("obey", "name = \"a\"")
                .says(&["monitor: l list", "passed ended from the monitor"]),
        )
        .types(&[("counts 2", "\x1dq")]),
        Case::new("a-refused-vm-leaves-the-others-running", Guest::new("hello", "").named("good"))
            .and(Guest::new("hello", "").named("bad").spoil(|vm| vm.image.entry = 0x1000))
            .seconds(30)
            .expect(|seen| {
                seen.verdict_is(1, "1 refused")?;
                seen.umbra_says(&["bad"])?;
                seen.vm_says("good", "hello from EL1")
            }),
        Case::new(
            "the-seventeenth-vcpu-of-a-pcpu-is-refused",
            Guest::new("hello", "").named("good").vcpus(16).pcpus(&[0; 16]),
        )
        .and(Guest::new("hello", "").named("late").pcpus(&[1]).spoil(|vm| vm.pcpus = vec![0]))
        .seconds(60)
        .expect(|seen| {
            seen.verdict_is(1, "1 refused")?;
            seen.umbra_says(&["VM late is refused: umbra,pcpus: a pCPU would run more than 16 vCPUs"])?;
            seen.vm_says("good", "hello from EL1")
        }),
        Case::new("psci", four("psci", "")).seconds(120),
        Case::new("psci-forwarded", four("psci", "").forward()).seconds(180),
        Case::new("psci-races-as-under-kvm", four("psci", "test=races").forward().no_on_pending()).seconds(120),
        Case::new(
            "psci-denied-by-the-filter",
            four("hello", "")
                .filter(0x8400_0003, 1, Action::Deny)
                .filter(0xC400_0003, 1, Action::Deny),
        ),
        Case::new(
            "calls-in-the-vectors-are-answered-as-in-rust",
            Guest::new("calls", "").named("vectors").vcpus(3),
        )
        .and(
            Guest::new("calls", "")
                .named("rust")
                .vcpus(3)
                .filter(0xC500_0000, 1, Action::Forward),
        )
        .icount()
        .seconds(30)
        .expect(same_answers),
        with_host(
            "forwarded-starts-by-hvc-and-by-smc",
            Guest::new("calls", "test=random_starts").vcpus(3),
            "test=serve",
        ),
        Case::new("vgic", four("vgic", "")).seconds(120),
        Case::new("vgic-strict", four("vgic", "").strict()).seconds(120),
        Case::new("vgic-icount", four("vgic", "")).icount().seconds(120),
        Case::new("faults", four("faults", "")).seconds(120),
        Case::new("el0", Guest::new("el0", "")),
        Case::new("el0-of-a-newer-processor", Guest::new("el0", "")).cpu("max"),
        Case::new("crash-when-the-vector-is-gone", four("faults", "test=crash_vector"))
            .seconds(30)
            .expect(crashed),
        Case::new("crash-at-the-same-abort-twice", four("faults", "test=crash_double"))
            .seconds(30)
            .expect(crashed),
        Case::new("forged-verdicts-do-not-pass", Guest::new("hostile", ""))
            .seconds(30)
            .expect(|seen| seen.verdict_is(1, "no verdict")),
        Case::new(
            "replayed-nonce-does-not-pass",
            Guest::new("hostile", "nonce=5f0c1d2e3b4a59687786a5b4c3d2e1f0"),
        )
        .seconds(30)
        .expect(|seen| seen.verdict_is(1, "no verdict")),
        Case::new("forged-verdicts-without-semihosting", Guest::new("hostile", ""))
            .foreign()
            .seconds(30)
            .expect(|seen| seen.verdict_is(1, "crashed")),
        Case::new("off-by-smc", four("psci", "test=off_by_smc"))
            .seconds(30)
            .expect(|seen| seen.verdict_is(0, "powered off")),
        Case::new("off-by-off2", four("psci", "test=off_by_off2"))
            .seconds(30)
            .expect(|seen| seen.verdict_is(0, "powered off")),
        Case::new(
            "psci-suspend-forwarded",
            four("psci", "test=system_suspend_checks,system_suspend_wakes_at_its_entry")
                .filter(0x8400_000E, 1, Action::Forward)
                .filter(0xC400_000E, 1, Action::Forward),
        )
        .host("hosttest", "test=serve"),
        Case::new("host-started-anew", Guest::new("hello", ""))
            .and(Guest::new("psci", "test=off_and_on_again,races").vcpus(4).forward())
            .host("hosttest", "test=anew")
            .expect(|seen| {
                seen.all_passed()?;
                seen.vm_says("host", "ok anew")
            }),
        with_host("host-is-gone", four("psci", "test=unanswered").forward_deadline(300), "test=gone"),
        with_host(
            "host-never-answers",
            four("psci", "test=unanswered").forward_deadline(300),
            "test=never",
        ),
        with_host(
            "host-answers-late",
            four("psci", "test=unanswered").forward_deadline(300),
            "test=late",
        ),
        with_host("host-answers-twice", four("psci", "test=answered"), "test=twice"),
        with_host("host-forges-a-cookie", four("psci", "test=answered"), "test=forged"),
        with_host("host-verdicts", four("psci", "test=verdicts"), "test=verdicts"),
        with_host("host-makes-bad-calls", four("contended", ""), "test=badcalls"),
        // It starts two vCPUs, in all, and no third one.
        Case::new(
            "host-of-the-documentation",
            four("psci", "test=cpu_on_of_an_on_cpu,denied").forward(),
        )
        .host(super::DOCUMENTED, "")
        .expect(|seen| {
            seen.all_passed()?;
            let said = "vCPU 1: ICC_CTLR_EL1 0x8c00, exact: true";
            match seen.lines("host").iter().filter(|line| line.contains(said)).count() {
                2 => Ok(()),
                times => Err(format!("the host says {said:?} {times} times, not twice")),
            }
        }),
        with_host(
            "host-of-two-vcpus",
            Guest::new("psci", "test=version,races").vcpus(4),
            "test=second",
        )
        .host_vcpus(2),
        with_host("contended-mode", four("contended", ""), "test=contended"),
        with_host("staleness", four("staleness", ""), "test=staleness"),
        with_host(
            "read-while-it-waits-for-a-verdict",
            Guest::new("waiting", "test=alone").forward_deadline(3000),
            "test=waiting",
        ),
        with_host(
            "read-while-it-waits-on-a-shared-pcpu",
            Guest::new("waiting", "test=alone").pcpus(&[0]).forward_deadline(3000),
            "test=waiting",
        )
        .smp(1),
        with_host(
            "asked-while-it-waits-for-a-verdict",
            Guest::new("waiting", "test=among").vcpus(2),
            "test=waiting_among",
        ),
        with_host(
            "asked-while-it-waits-on-a-shared-pcpu",
            Guest::new("waiting", "test=among").vcpus(2).pcpus(&[0, 1]),
            "test=waiting_among",
        )
        .smp(2),
        with_host(
            "no-vm-keeps-anothers-calls-waiting",
            Guest::new("waiting", "test=flood").named("flood").vcpus(3).pcpus(&[1, 2, 2]),
            "test=slowly",
        )
        .and(
            Guest::new("waiting", "test=now_and_then")
                .named("other")
                .pcpus(&[3])
                .oem()
                .forward_deadline(100),
        ),
        Case::new("filter-set-by-the-host", four("psci", "test=filtered")).host("hosttest", "test=filter"),
        with_host("ready-and-reset-template", four("vgic", "test=template,narrowed"), "test=ready"),
        with_host("reset-finds-pristine-copies", four("reset", ""), "test=serve"),
        with_host(
            "hundreds-of-restarts",
            Guest::new("reset", "test=hundreds boots=300").vcpus(8).ram(0x4000_0000, 4 << 20),
            "test=serve",
        ),
        // Who has left looks again at each turn of its neighbour, also while another pCPU restarts the VM.
        with_host(
            "restarts-beside-a-neighbour-of-one-that-left",
            Guest::new("reset", "test=hundreds boots=200")
                .vcpus(2)
                .pcpus(&[0, 1])
                .ram(0x4000_0000, 32 << 20),
            "test=serve",
        )
        .and(Guest::new("share", "test=restless").pcpus(&[1])),
        with_host(
            "stopped-while-it-resets-itself",
            Guest::new("reset", "test=hundreds boots=300").vcpus(2).ram(0x4000_0000, 4 << 20),
            "test=stops",
        ),
        Case::new(
            "resumed-while-it-is-being-reset",
            obeying("a", "name=a").ram(0x4000_0000, 256 << 20),
        )
        .host("hosttest", "test=resumes")
        .types(&[("a counts 2", "\x1ds\x1dr"), ("a counts 1", "q")])
        .seconds(30),
        with_host("answers-from-before-a-reset", four("reset", "test=outstanding"), "test=epoch"),
        shared("shared-four-on-four", "", &[0, 1, 2, 3]),
        shared("shared-four-on-two", "", &[0, 1, 0, 1]),
        shared("shared-four-on-one", "fair=4", &[0, 0, 0, 0]),
        shared("shared-by-two-vms", "", &[0, 1, 0, 1]).and(Guest::new("share", "key=4").named("other").vcpus(2).pcpus(&[1, 0])),
        Case::new("shared-with-the-host", four("share", "").pcpus(&[0, 1, 0, 1]).forward().oem())
            .host("hosttest", "test=serve")
            .smp(2)
            .seconds(120),
        Case::new(
            "shared-and-read-exactly",
            four("share", "test=neighbours").pcpus(&[0, 1, 0, 1]).forward().oem(),
        )
        .host("hosttest", "test=neighbours")
        .smp(2),
        Case::new("shared-and-contended", four("contended", "").pcpus(&[1, 2, 1, 2]).forward().oem())
            .host("hosttest", "test=contended")
            .seconds(60),
        Case::new("ptimer", four("ptimer", "")),
        Case::new("ptimer-shared", four("ptimer", "").pcpus(&[0, 1, 0, 0])),
        Case::new("ptimer-icount", four("ptimer", "")).icount(),
        Case::new("spi", four("spi", "")),
        Case::new("spi-shared", four("spi", "").pcpus(&[0, 1, 0, 0])),
        Case::new("pl011", Guest::new("uart", "")),
        Case::new("pl011-shared", Guest::new("uart", ""))
            .and(Guest::new("share", "").named("other").pcpus(&[0]))
            .smp(1),
        flooded("pl011-takes-a-flood", "bytes=20000", 20_000, &[0, 1]),
        flooded("pl011-takes-a-flood-on-one-pcpu", "bytes=80000", 80_000, &[0, 0]),
        Case::new("device-passed-to-a-vm", Guest::new("rtc", "").devices(&["/pl031@9010000"])).seconds(120),
        Case::new(
            "device-passed-to-a-vm-that-is-reset",
            Guest::new("rtc", "test=after_a_reset").devices(&["/pl031@9010000"]),
        ),
        Case::new(
            "what-is-made-active-is-so-before-a-guest-goes-on",
            Guest::new("rtc", "").devices(&["/pl031@9010000"]),
        )
        .traces(&["-trace", "gicv3_dist_*", "-trace", "gicv3_redist_*"])
        .seconds(120)
        .expect(made_active_and_read_back),
        Case::new(
            "device-passed-to-a-vm-that-counts",
            Guest::new("rtc", "test=many_without_an_exit_at_the_end").devices(&["/pl031@9010000"]),
        )
        .expect(no_exit_at_eoi),
        Case::new(
            "device-passed-to-two-vcpus",
            Guest::new("rtc", RTC_OF_TWO).vcpus(2).devices(&["/pl031@9010000"]),
        )
        .seconds(120),
        Case::new(
            "device-passed-to-two-vcpus-that-share",
            Guest::new("rtc", RTC_OF_TWO).vcpus(2).pcpus(&[0, 0]).devices(&["/pl031@9010000"]),
        )
        .and(Guest::new("share", "test=spinners_starve_nobody").vcpus(2).pcpus(&[0, 1]))
        .seconds(120),
        Case::new(
            "device-passed-to-a-vm-that-shares",
            Guest::new("rtc", "").pcpus(&[0]).devices(&["/pl031@9010000"]),
        )
        .and(Guest::new("share", "test=spinners_starve_nobody").vcpus(2).pcpus(&[0, 1]))
        .seconds(120),
        Case::new("monitor-starts-a-crashed-vm-anew", obeying("a", "name=a").vcpus(2).pcpus(&[0, 1]))
            .and(obeying("b", "name=b").pcpus(&[0]))
            .types(&[
                ("a counts 2", "c"),
                ("a crashes", ""),
                ("b counts", ""),
                ("b counts", ""),
                ("b counts", "\x1dl\x1dr\x1dg"),
                ("a counts 2", "\x1d2q"),
                ("a counts", "\x1d1q"),
            ])
            .expect(started_anew),
        Case::new("monitor-says-that-what-it-starts-anew-is-held", obeying("a", "name=a").pcpus(&[1]))
            .and(obeying("b", "name=b").pcpus(&[0]))
            .types(&[
                ("a counts 2", "\x1ds\x1do"),
                ("b counts", ""),
                ("b counts", ""),
                ("b counts", "\x1dg"),
                ("b counts", "\x1dq"),
            ])
            .expect(|seen| {
                seen.verdict_is(0, "ended from the monitor")?;
                seen.umbra_says(&["monitor: VM 1 (a) is started anew, stopped"])
            }),
        // pCPU 1 gives the verdict when VM a has ended, and pCPU 0 hears the keys.
        Case::new("one-verdict-whoever-ends-the-run", obeying("obey", "slow-end").pcpus(&[1]))
            .and(obeying("b", "name=b").pcpus(&[0]))
            .features(&["test-triggers"])
            .types(&[("b counts 2", "\x1d2q"), ("obey counts", ""), ("obey counts", "\x1d1q")])
            .answers("@umbra count vm=2", "\x1dq")
            .expect(|seen| seen.verdict_is(0, "2 VMs powered off")),
        Case::new("vgic-of-a-vm-that-was-refused", Guest::new("hello", "late").pcpus(&[1]))
            .host("hosttest", "test=refused")
            .features(&["test-triggers"])
            .expect(|seen| {
                seen.failures()?;
                seen.verdict_is(1, "0 of 1 VMs crashed, 1 refused")?;
                let mut done = seen.transcript().records.iter().filter(|r| r.kind == "done");
                let passed = done.find_map(|r| r.number("passed"));
                if passed > Some(0) { Ok(()) } else { Err("no check ran".to_owned()) }
            }),
        leaves_time(
            "who-wakes-often-has-its-share",
            Guest::new("share", "test=greedy").pcpus(&[0]),
            lost_at_most::<55>,
        ),
        leaves_time(
            "standby-leaves-the-pcpu",
            Guest::new("share", "test=standing_by").pcpus(&[0]),
            lost_at_most::<5>,
        ),
        Case::new(
            "deferred-errors-on-a-shared-pcpu",
            Guest::new("share", "test=nothing_of_anothers_errors").named("a").pcpus(&[0]),
        )
        .and(Guest::new("share", "test=nothing_of_anothers_errors key=7").named("b").pcpus(&[0]))
        .cpu("max"),
        Case::new("pcpu-that-comes-up-too-late", Guest::new("hello", "late").named("late").pcpus(&[1]))
            .and(Guest::new("share", "").pcpus(&[0]))
            .features(&["test-triggers"])
            .expect(goes_on_without_the_late),
        Case::new("host-whose-pcpu-comes-up-too-late", Guest::new("hello", "").pcpus(&[0]))
            .host("hosttest", "late")
            .features(&["test-triggers"])
            .seconds(30)
            .expect(|seen| {
                seen.verdict_is(1, "1 refused")?;
                seen.umbra_says(&["VM host is refused: umbra,pcpus: pCPU 1 did not come up"])?;
                seen.vm_says("hello", "hello from EL1")
            }),
        Case::new("started-by-host-and-monitor-at-once", obeying("a", "name=a").pcpus(&[0]))
            .and(obeying("b", "name=b").pcpus(&[1]))
            .host("hosttest", "test=slow_setup")
            .features(&["test-triggers"])
            .types(&[("a counts 2", "\x1d2\x1dg"), ("b counts 2", "q"), ("a counts", "\x1d1q")])
            .seconds(30)
            .expect(|seen| {
                seen.all_passed()?;
                seen.umbra_says(&["monitor: VM 2 (b) is started"])
            }),
        // VM b is reset while EL2 is about to have started it.
        Case::new("reset-before-its-start-is-over", obeying("a", "name=a").pcpus(&[0]))
            .and(obeying("b", "name=b").pcpus(&[0]))
            .host("hosttest", "test=slow_setup")
            .features(&["test-triggers"])
            .types(&[("a counts 30", "\x1d2\x1dr"), ("b counts 40", "q"), ("a counts", "\x1d1q")])
            .seconds(30)
            .expect(|seen| {
                seen.all_passed()?;
                seen.umbra_says(&["VM 2 (b) was reset"])
            }),
        deaf("monitor-opens-though-the-guest-reads-nothing", "name=a", 2),
        deaf("monitor-opens-though-more-was-typed-than-can-wait", "name=a", 1000),
        deaf("monitor-opens-though-the-guest-hears-itself-alone", "name=a cr=897", 2),
        restarting("restart-delays-nobody", &[0]),
        restarting("restart-of-eight-vcpus-delays-nobody", &[0; 8]),
        umbra_fails("panic-on-the-boot-pcpu", "test=trigger_panic pcpu=0", |seen| {
            seen.verdict_is(1, "panicked")?;
            seen.umbra_says(&["pCPU 0"])
        }),
        umbra_fails("panic-on-a-secondary", "test=trigger_panic pcpu=2", |seen| {
            seen.verdict_is(1, "panicked")?;
            seen.umbra_says(&["pCPU 2"])
        }),
        umbra_fails("stack-overflow-on-the-boot-pcpu", "test=trigger_stack pcpu=0", |seen| {
            seen.verdict_is(1, "fault at EL2")?;
            seen.umbra_says(&["pCPU 0", "guard page"])
        }),
        umbra_fails("stack-overflow-on-a-secondary", "test=trigger_stack pcpu=2", |seen| {
            seen.verdict_is(1, "fault at EL2")?;
            seen.umbra_says(&["pCPU 2", "guard page"])
        }),
        umbra_fails("bad-access-at-el2", "test=trigger_access pcpu=1", |seen| {
            seen.verdict_is(1, "fault at EL2")?;
            seen.umbra_says(&["pCPU 1"])
        }),
        Case::new("demo", four("demo", "").forward().oem())
            .seconds(120)
            .expect(|seen| seen.demo_passed()),
        short_demo("broken-writer-is-seen")
            .features(&["broken-writer"])
            .expect(|seen| match seen.host_figure("storm", "torn") {
                Some(0) => Err("no record was torn".to_owned()),
                Some(_) => Ok(()),
                None => Err("the storm was not reported".to_owned()),
            }),
        Case::new("debug", four("debug", "")),
        Case::new("debug-on-a-shared-pcpu", Guest::new("debug", "").named("a").vcpus(2).pcpus(&[0, 0]))
            .and(Guest::new("debug", "test=nothing_of_another_vm").named("b").pcpus(&[0])),
    ]
}
