//! What the figures come to: the table, the rules, the JSON.

use super::budget::{Budgets, Says};
use super::ops::{Op, Own, RUNNING, Recorded, SOURCE};
use super::scene::{Figure, Figures};
use crate::ui::{self, Style, out};
use serde_json::{Value, json};
use std::fmt::Write;

/// The sizes: name, what it is, target in bytes.
pub(crate) const SIZES: [(&str, &str, Option<u64>); 5] = [
    ("size-image", "Umbra's flat image", Some(64 << 10)),
    ("size-text", "its .text", None),
    ("size-static", "static RAM, one pCPU's included", Some((128 + 16) << 10)),
    ("size-per-pcpu", "static RAM that each pCPU adds", Some(16 << 10)),
    ("size-per-vcpu", "RAM that each vCPU adds", None),
];

/// The most that a filter may add to a call.
const FILTER_ADDS: u64 = 10;
/// What a bystander executes in the one turn that it gets while the host waits for another vCPU.
const BYSTANDER: u64 = 2;
/// The dearest read of a GIC register may take this many times, as a fraction, what the cheapest takes.
const SPREAD: (u64, u64) = (8, 5);

/// One operation and what was found of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The operation.
    pub(crate) op: Op,
    /// On Umbra.
    pub(crate) figure: Figure,
    /// The same program without Umbra: the median.
    pub(crate) bare: Option<u64>,
}

impl Row {
    /// What of the median is Umbra's.
    pub(crate) fn umbra(&self) -> u64 {
        let own = match self.op.own {
            Own::Fixed(own) => own,
            Own::Bare => self.bare.unwrap_or(0),
        };
        self.figure.median.saturating_sub(own)
    }

    /// Whether the target is met.
    fn met(&self) -> Option<bool> {
        self.op.target.map(|target| self.umbra() <= target)
    }
}

/// What must hold between figures.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    name: String,
    what: String,
    ok: bool,
}

/// The result of one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The operation, the size or the rule.
    pub(crate) name: String,
    /// Why it fails, and what to do.
    pub(crate) failure: Option<String>,
    /// What to do all the same.
    pub(crate) hint: Option<String>,
}

/// A size in bytes: its name, what it is, the size, its target.
type Size = (&'static str, &'static str, u64, Option<u64>);

/// Everything that a run of the bench found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The operations that were measured.
    pub(crate) rows: Vec<Row>,
    sizes: Vec<Size>,
    rules: Vec<Rule>,
    samples: u32,
}

impl Report {
    /// Puts `ops` and their figures together: on Umbra, with eight vCPUs instead of one, without Umbra; and the sizes.
    pub(crate) fn new(
        ops: Vec<Op>,
        figures: &Figures,
        eight: &Figures,
        bare: &Figures,
        sizes: &[(&'static str, u64)],
        samples: u32,
    ) -> Self {
        let rules = rules(figures, eight);
        let rows = ops.into_iter().filter_map(|op| {
            let figure = *figures.get(&op.name)?;
            let bare = bare.get(&op.name).map(|f| f.median);
            Some(Row { op, figure, bare })
        });
        let size = |name: &str| sizes.iter().find(|(n, _)| *n == name).map(|(_, size)| *size);
        Self {
            rows: rows.collect(),
            sizes: SIZES
                .iter()
                .filter_map(|(name, what, target)| Some((*name, *what, size(name)?, *target)))
                .collect(),
            rules,
            samples,
        }
    }

    /// Every figure that may have a budget: medians and sizes.
    pub(crate) fn figures(&self) -> Vec<(String, u64)> {
        let medians = self.rows.iter().map(|row| (row.op.name.clone(), row.figure.median));
        medians
            .chain(self.sizes.iter().map(|(name, _, size, _)| ((*name).to_owned(), *size)))
            .collect()
    }

    /// Compares everything with the budgets. `whole` says that everything was measured.
    pub(crate) fn check(&self, budgets: &Budgets, whole: bool) -> Vec<Checked> {
        let figures = self.figures();
        let mut checked = Vec::new();
        for (name, figure) in &figures {
            let (failure, hint) = match (budgets.of(name), budgets.says(name, *figure)) {
                (Some(budget), Some(Says::Over)) => (Budgets::advice(name, *figure, budget, Says::Over), None),
                (Some(budget), Some(says)) => (None, Budgets::advice(name, *figure, budget, says)),
                _ => (
                    Some(format!("{name}: it has no budget (`cargo xtask bench --lower-budgets` adds it)")),
                    None,
                ),
            };
            checked.push(Checked {
                name: name.clone(),
                failure,
                hint,
            });
        }
        let gone = budgets.names().filter(|name| whole && !figures.iter().any(|(n, _)| n == name));
        checked.extend(gone.map(|name| Checked {
            name: name.to_owned(),
            failure: Some(format!("{name}: it has a budget and was not measured")),
            hint: None,
        }));
        checked.extend(self.rules.iter().map(|rule| Checked {
            name: rule.name.clone(),
            failure: (!rule.ok).then(|| rule.what.clone()),
            hint: None,
        }));
        checked
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), ui::thousands);
        let names = self.rows.iter().map(|r| r.op.name.len()).max().unwrap_or(0).max(14);
        let line = |cells: [&str; 11]| {
            let [name, min, median, max, bare, umbra, kvm, xen, bao, target, met] = cells;
            format!("{name:<names$} {min:>7} {median:>7} {max:>7} {bare:>5} {umbra:>8} | {kvm:>15} {xen:>10} {bao:>13} | {target:>7} {met}")
                .trim_end()
                .to_owned()
        };
        let head = line([
            "operation",
            "min",
            "median",
            "max",
            "bare",
            "Umbra's",
            "KVM nVHE/VHE",
            "Xen",
            "Bao",
            "target",
            "",
        ]);
        let rule = "-".repeat(head.chars().count() + 5);
        let mut text = format!("{}\n{rule}\n", out(Style::Bold, &head));
        for row in &self.rows {
            let [kvm, xen, bao] = shown(&row.op.recorded);
            let f = row.figure;
            let cells = [
                row.op.name.as_str(),
                &ui::thousands(f.min),
                &ui::thousands(f.median),
                &ui::thousands(f.max),
                &number(row.bare),
                &ui::thousands(row.umbra()),
                &kvm,
                &xen,
                &bao,
                &number(row.op.target),
                &mark(row.met()),
            ];
            let _ = writeln!(text, "{}", line(cells));
        }
        let _ = writeln!(text, "{rule}");
        for (name, what, size, target) in &self.sizes {
            let target_text = target.map_or_else(|| "-".to_owned(), ui::bytes);
            let met = mark(target.map(|target| *size <= target));
            let _ = writeln!(text, "{name:<names$} {:>12}  {what} (target {target_text}) {met}", ui::bytes(*size));
        }
        if !self.sizes.is_empty() {
            let _ = writeln!(text, "{rule}");
        }
        for rule in &self.rules {
            let _ = writeln!(text, "{} {}", mark(Some(rule.ok)), rule.what);
        }
        let notes = format!(
            "Instructions, at least {} samples each (a boot is one), net of the pair of readings around them. `Umbra's` is the median\n\
             without what the guest itself executes: the calling instruction, or what the same program finds on the bare machine;\n\
             targets are compared with it. A figure of several pCPUs is what all of them execute.\n{SOURCE}",
            self.samples
        );
        text + &out(Style::Dim, &notes)
    }

    /// Everything, for other programs (`docs/reports.md`), and what a check found if there was one.
    pub(crate) fn json(&self, budgets: Option<&Budgets>, check: Option<&[Checked]>) -> Value {
        let check = check.map(|checked| {
            let failures: Vec<&str> = checked.iter().filter_map(|one| one.failure.as_deref()).collect();
            json!({ "ok": failures.is_empty(), "failures": failures })
        });
        let budget = |name: &str| budgets.and_then(|b| b.of(name));
        let rows = self.rows.iter().map(|row| {
            let Row { op, figure, bare } = row;
            let recorded = op.recorded;
            json!({
                "name": op.name, "what": op.what, "samples": figure.n,
                "min": figure.min, "median": figure.median, "max": figure.max, "bare": bare, "umbra": row.umbra(),
                "recorded": { "kvm_nvhe": recorded.kvm.map(|k| k.0), "kvm_vhe": recorded.kvm.map(|k| k.1),
                    "kvm_pausing": recorded.kvm_pausing, "xen": recorded.xen,
                    "bao_least": recorded.bao.map(|b| b.0), "bao_most": recorded.bao.map(|b| b.1), "smallest_possible": recorded.smallest },
                "target": op.target, "dream": op.dream, "met": row.met(), "budget": budget(&op.name),
            })
        });
        let sizes = self.sizes.iter().map(|(name, what, size, target)| {
            json!({ "name": name, "what": what, "bytes": size, "target": target, "met": target.map(|t| *size <= t), "budget": budget(name) })
        });
        let rules = self
            .rules
            .iter()
            .map(|rule| json!({ "name": rule.name, "what": rule.what, "ok": rule.ok }));
        json!({
            "unit": "instructions",
            "source_of_recorded": SOURCE,
            "operations": rows.collect::<Vec<_>>(),
            "sizes": sizes.collect::<Vec<_>>(),
            "rules": rules.collect::<Vec<_>>(),
            "check": check,
        })
    }
}

fn mark(ok: Option<bool>) -> String {
    match ok {
        Some(true) => out(Style::Good, "ok"),
        Some(false) => out(Style::Bad, "MISS"),
        None => String::new(),
    }
}

/// What was recorded, as text.
fn shown(recorded: &Recorded) -> [String; 3] {
    let none = || "-".to_owned();
    let kvm = match (recorded.kvm, recorded.kvm_pausing) {
        (Some((nvhe, vhe)), _) => format!("{}/{}", ui::thousands(nvhe), ui::thousands(vhe)),
        (None, Some(pausing)) => format!("{} p", ui::thousands(pausing)),
        (None, None) => none(),
    };
    let bao = recorded.bao.map_or_else(none, |(least, most)| {
        if least == most {
            ui::thousands(least)
        } else {
            format!("{}..{}", ui::thousands(least), ui::thousands(most))
        }
    });
    [kvm, recorded.xen.map_or_else(none, ui::thousands), bao]
}

/// What holds between figures.
fn rules(figures: &Figures, eight: &Figures) -> Vec<Rule> {
    let median = |name: &str| figures.get(name).map(|f| f.median);
    let mut rules = Vec::new();
    let mut rule = |name: String, what: String, ok: bool| rules.push(Rule { name, what, ok });
    for conduit in ["hvc", "smc"] {
        if let (Some(plain), Some(filtered)) = (median(&format!("null-{conduit}")), median(&format!("filtered-{conduit}"))) {
            rule(
                format!("filter-adds-little-by-{conduit}"),
                format!(
                    "a full filter adds {} to a call by {conduit}, {FILTER_ADDS} at most",
                    filtered.saturating_sub(plain)
                ),
                filtered <= plain + FILTER_ADDS,
            );
        }
    }
    let dearer: Vec<String> = eight
        .iter()
        .filter_map(|(name, with)| median(name).filter(|one| with.median > *one).map(|one| (name, one, with.median)))
        .map(|(name, one, with)| format!("{name} {one} -> {with}"))
        .collect();
    if !eight.is_empty() {
        let detail = if dearer.is_empty() {
            String::new()
        } else {
            format!(": {}", dearer.join(", "))
        };
        rule(
            "eight-vcpus-cost-no-more-than-one".to_owned(),
            format!("no operation of one vCPU costs more in a VM of 8 than in a VM of 1{detail}"),
            dearer.is_empty(),
        );
    }
    for name in ["host-template", "host-word", "host-record", "host-exact"] {
        let all: Vec<u64> = RUNNING.iter().filter_map(|n| median(&format!("{name}-{n}"))).collect();
        if let (Some(first), true) = (all.first(), all.len() == RUNNING.len()) {
            // Each bystander has one turn while the host waits for the vCPU that it asked, and executes no more in it.
            let own = |running: u64| if name == "host-exact" { BYSTANDER * (running - 1) } else { 0 };
            let fine = all.iter().zip(RUNNING).all(|(figure, running)| *figure <= first + own(running));
            rule(
                format!("{name}-does-not-grow"),
                format!("{name} does not grow while 1, 2, 4, 8 vCPUs run"),
                fine,
            );
        }
    }
    let reads = figures
        .iter()
        .filter(|(name, _)| (name.starts_with("gicd-") || name.starts_with("gicr-")) && name.ends_with("-read"));
    let reads: Vec<u64> = reads.map(|(_, figure)| figure.median).collect();
    if let (Some(cheapest), Some(dearest), 2..) = (reads.iter().min(), reads.iter().max(), reads.len()) {
        let (times, of) = SPREAD;
        rule(
            "gic-reads-cost-alike".to_owned(),
            format!("reads of GICD and GICR registers take {cheapest} to {dearest}, the dearest at most {times}/{of} of the cheapest"),
            dearest * of <= cheapest * times,
        );
    }
    for name in ["icc-ctlr-read", "icc-ctlr-write"] {
        if let Some(median) = median(name) {
            rule(
                format!("{name}-is-untrapped"),
                format!("{name} is untrapped: it takes {median}, 1 without an exit"),
                median == 1,
            );
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::super::ops;
    use super::*;

    fn figure(median: u64) -> Figure {
        Figure {
            n: 256,
            min: median,
            median,
            max: median,
        }
    }

    fn figures(list: &[(&str, u64)]) -> Figures {
        list.iter().map(|(name, median)| ((*name).to_owned(), figure(*median))).collect()
    }

    #[test]
    fn targets_are_compared_with_what_is_umbras() {
        let figures = figures(&[("null-hvc", 41), ("sgi-self", 203), ("gicd-typer-read", 141)]);
        let bare = self::figures(&[("sgi-self", 3), ("gicd-typer-read", 1)]);
        let report = Report::new(ops::all(), &figures, &Figures::new(), &bare, &[("size-image", 65_537)], 256);
        let of = |name: &str| report.rows.iter().find(|r| r.op.name == name).map(|r| (r.umbra(), r.met()));
        assert_eq!(of("null-hvc"), Some((40, Some(true))));
        assert_eq!(of("sgi-self"), Some((200, Some(true))));
        // A trapped load is not executed: all of it is Umbra's, whatever it costs on the bare machine.
        assert_eq!(of("gicd-typer-read"), Some((141, Some(false))));
        let table = report.table();
        assert!(
            table.contains("1 703/1 249") && table.contains("MISS") && table.contains("size-image"),
            "{table}"
        );
        assert_eq!(report.json(None, None)["sizes"][0]["met"], json!(false));
    }

    #[test]
    fn a_check_names_what_exceeds_what_is_below_and_what_is_missing() {
        let figures = figures(&[("null-hvc", 110), ("null-smc", 50), ("denied-hvc", 20)]);
        let report = Report::new(ops::all(), &figures, &Figures::new(), &Figures::new(), &[], 256);
        let budgets = Budgets::parse("null-hvc = 100\nnull-smc = 100\ngicd-typer-read = 1\n").expect("budgets");
        let checked = report.check(&budgets, true);
        let of = |name: &str| checked.iter().find(|c| c.name == name).expect("checked");
        assert!(
            of("null-hvc")
                .failure
                .as_ref()
                .is_some_and(|f| f.contains("110") && f.contains("100"))
        );
        assert!(of("null-smc").failure.is_none() && of("null-smc").hint.is_some());
        assert!(of("denied-hvc").failure.as_ref().is_some_and(|f| f.contains("no budget")));
        assert!(of("gicd-typer-read").failure.as_ref().is_some_and(|f| f.contains("not measured")));
        let json = report.json(Some(&budgets), Some(&checked));
        let failures = json["check"]["failures"].as_array().expect("a list");
        assert_eq!((&json["check"]["ok"], failures.len()), (&json!(false), 3));
        let undescribed = crate::report::undescribed(&json);
        assert!(undescribed.is_empty(), "docs/reports.md does not describe {undescribed:?}");
        assert!(report.check(&budgets, false).iter().all(|c| c.name != "gicd-typer-read"));
    }

    #[test]
    fn what_holds_between_figures_is_checked() {
        let good = [
            ("null-hvc", 40),
            ("filtered-hvc", 50),
            ("icc-ctlr-read", 1),
            ("gicd-typer-read", 100),
            ("gicr-ispendr-read", 160),
            ("gicr-ispendr-write", 900),
            ("host-exact-1", 500),
            ("host-exact-2", 502),
            ("host-exact-4", 506),
            ("host-exact-8", 514),
        ];
        let broken = |spoilt: &[(&str, u64)], eight: &[(&str, u64)]| {
            let mut all = figures(&good);
            all.extend(figures(spoilt));
            rules(&all, &figures(eight)).into_iter().filter(|rule| !rule.ok).count()
        };
        assert_eq!(broken(&[], &[("null-hvc", 40)]), 0);
        assert_eq!(broken(&[("filtered-hvc", 51)], &[]), 1);
        assert_eq!(broken(&[("icc-ctlr-read", 200)], &[]), 1);
        assert_eq!(broken(&[("gicr-ispendr-read", 161)], &[]), 1);
        assert_eq!(broken(&[("host-exact-8", 515)], &[]), 1);
        assert_eq!(broken(&[], &[("null-hvc", 41)]), 1);
    }
}
