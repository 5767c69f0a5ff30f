//! The same guest with and without Umbra, in ticks of the instruction clock.

use super::FIRST_GUEST;
use crate::console::{Record, Transcript};
use crate::plan::Plan;
use crate::qemu::{self, Blind, Run};
use crate::tree::{Node, Tree};
use crate::ui;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// A figure of a guest, and how much of it Umbra may cost.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    /// What is compared.
    pub(crate) what: &'static str,
    /// Finds the figure in the guest's records.
    pub(crate) of: fn(&[Record]) -> Option<u64>,
    /// The largest ratio that is well.
    pub(crate) target: f64,
}

impl Ratio {
    /// What the two runs say, and whether it is well.
    pub(super) fn compare(&self, with: &Run, without: &Run) -> Result<(String, bool), String> {
        let figure = |records: &[Record], which: &str| (self.of)(records).ok_or_else(|| format!("{}: no figure {which} Umbra", self.what));
        let with_umbra = figure(&with.transcript.records, "with")?;
        // Without Umbra nobody puts channels on the wire: the guest is alone on it.
        let lines = without.transcript.lines(0).iter();
        let records: Vec<Record> = lines.filter_map(|line| Record::parse(FIRST_GUEST, line)).collect();
        let without_umbra = figure(&records, "without")?;
        let ratio = with_umbra as f64 / without_umbra.max(1) as f64;
        let cpu = |run: &Run| run.cpu_seconds.map_or_else(|| "?".to_owned(), |s| format!("{s:.1}"));
        let text = format!(
            "{}: {} ticks, {} without Umbra, ratio {ratio:.3} (target {}); CPU seconds {} and {}",
            self.what,
            ui::thousands(with_umbra),
            ui::thousands(without_umbra),
            self.target,
            cpu(with),
            cpu(without)
        );
        Ok((text, ratio <= self.target))
    }
}

/// What hyp counted for the first guest, all vCPUs together, and its sizes.
pub(super) fn counts(transcript: &Transcript) -> String {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for record in transcript.umbra("count").filter(|r| r.number("vm") == Some(1)) {
        for (key, _) in record.fields().filter(|(key, _)| !matches!(*key, "vm" | "vcpu")) {
            let number = record.number(key).unwrap_or(0);
            match sums.iter_mut().find(|(k, _)| *k == key) {
                Some((_, sum)) => *sum += number,
                None => sums.push((key, number)),
            }
        }
    }
    let counts: Vec<String> = sums
        .iter()
        .filter(|(_, sum)| *sum > 0)
        .map(|(key, sum)| format!("{key} {}", ui::thousands(*sum)))
        .collect();
    let mut text = format!("counted: {}", counts.join(", "));
    for record in transcript.umbra("size") {
        let sizes = record.fields().map(|(key, value)| match value.parse() {
            Ok(number) => format!("{key} {}", ui::bytes(number)),
            Err(_) => format!("{key} {value}"),
        });
        text += &format!("\nsizes: {}", sizes.collect::<Vec<_>>().join(", "));
    }
    text
}

/// The nodes of `virt` that Umbra's guests have, too.
const KEPT: [&str; 8] = ["chosen", "cpus", "psci", "intc", "timer", "apb-pclk", "pl011", "memory"];

/// Boots the only VM of `plan` at EL1 on QEMU itself, with the devices that Umbra would give it and no others.
pub(crate) fn without_umbra(qemu: &Path, plan: &Plan, folder: &Path, limit: Option<Duration>) -> Result<Run> {
    let vm = plan.vms.iter().find(|vm| !vm.host).context("no guest to compare")?;
    let mut machine = plan.machine.clone();
    (machine.smp, machine.memory) = (vm.vcpus, vm.ram.size());
    let whole = folder.join("without-umbra.dtb");
    let _ = std::fs::remove_file(&whole);
    let dump = std::process::Command::new(qemu)
        .args(machine.dump_el1_args(&whole))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    qemu::wait(&mut qemu::Owned(dump).0, Duration::from_secs(30))?;
    let mut tree = Tree::parse(&std::fs::read(&whole).context("QEMU wrote no device tree")?)?;
    prune(&mut tree.root);
    ensure!(
        tree.root.children.len() >= KEPT.len() - 1,
        "QEMU's device tree lacks what a guest needs"
    );
    std::fs::write(&whole, tree.flatten()?)?;
    let args = machine.el1_args(vm, &whole);
    qemu::run(qemu, &args, &folder.join("without-umbra.log"), limit, &mut Blind)
}

fn prune(root: &mut Node) {
    root.children.retain(|node| {
        let name = node.name.split('@').next().unwrap_or("");
        KEPT.contains(&name)
    });
    for node in &mut root.children {
        // No ITS, and nothing that differs from one boot to the next.
        node.children.retain(|n| !n.name.starts_with("its"));
        node.properties
            .retain(|(name, _)| !matches!(name.as_str(), "kaslr-seed" | "rng-seed"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_the_first_guests_vcpus() {
        let mut transcript = Transcript::default();
        let lines = "@umbra count vm=1 vcpu=0 exits=3 busy=0\n@umbra count vm=1 vcpu=1 exits=1200 busy=0\n\
                     @umbra count vm=0 vcpu=0 exits=9\n@umbra size image=65536\n";
        for byte in lines.bytes() {
            transcript.push(0, byte);
        }
        assert_eq!(counts(&transcript), "counted: exits 1 203\nsizes: image 64 KiB");
    }

    #[test]
    fn what_umbra_gives_no_guest_is_cut_from_the_tree() {
        let mut root = Node::new("");
        for name in ["chosen", "cpus", "pcie@10000000", "intc@8000000", "pl011@9000000", "pl031@9010000"] {
            root.child_mut(name);
        }
        root.child_mut("intc@8000000").child_mut("its@8080000");
        root.child_mut("chosen").cells("kaslr-seed", &[1, 2]);
        prune(&mut root);
        let names: Vec<_> = root.children.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["chosen", "cpus", "intc@8000000", "pl011@9000000"]);
        assert!(root.children[2].children.is_empty() && root.children[0].properties.is_empty());
    }
}
