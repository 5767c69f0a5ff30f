//! The summary of a run whose calls were forwarded: what hyp counted, and what the host partition's program says.

use crate::console::{HOST, Record, Transcript};
use crate::ui::{self, Style, out};

/// The phase that the host partition's program reports when no guest of ours asked for one.
const PHASE: &str = "run";

struct Row {
    what: &'static str,
    value: String,
    /// Whether the line's rule holds, and the rule.
    rule: Option<(bool, &'static str)>,
}

/// The table's lines.
pub(crate) struct Summary {
    rows: Vec<Row>,
}

impl Summary {
    /// Reads a run's records; `None` when hyp's final counts are not there.
    pub(crate) fn of(transcript: &Transcript, icount: bool) -> Option<Self> {
        let counts: Vec<&Record> = transcript.umbra("count").filter(|r| r.number("vm") > Some(0)).collect();
        if counts.is_empty() {
            return None;
        }
        let sum = |key: &str| counts.iter().filter_map(|r| r.number(key)).sum::<u64>();
        let mut rows = Vec::new();
        let mut add = |what, value: String, rule| rows.push(Row { what, value, rule });
        let number = |key: &str| ui::thousands(sum(key));
        let none = |key: &str| Some((sum(key) == 0, "0"));
        add("exits", number("exits"), None);
        add("SMCCC calls", number("calls"), None);
        add("  of them forwarded", number("forwards"), Some((sum("forwards") > 0, "some")));
        add("  unanswered in time", number("expired"), none("expired"));
        add("vCPU starts", number("starts"), None);
        add("EBUSY answers", number("busy"), none("busy"));
        add("stops", number("stops"), none("stops"));
        add("forced exits of bystanders", number("bystanders"), none("bystanders"));
        add("kicks for an exact read", number("kicks_exact"), None);
        add("kicks to deliver an interrupt", number("kicks_irq"), None);
        add("kicks for another request", number("kicks_request"), None);

        let host = |r: &&Record| r.channel == HOST && r.text("phase") == Some(PHASE);
        if let Some(host) = transcript.records.iter().find(host) {
            let frequency = transcript
                .umbra("boot")
                .find_map(|r| r.number("cntfrq"))
                .unwrap_or(62_500_000)
                .max(1);
            let time = |ticks: u64| {
                if icount {
                    ui::thousands(ticks)
                } else {
                    format!("{:.1}", ticks as f64 * 1e6 / frequency as f64)
                }
            };
            let unit = if icount { "instructions" } else { "us" };
            for (what, kind) in [
                ("template reads", "template"),
                ("word reads", "word"),
                ("record reads", "record"),
                ("exact reads", "exact"),
            ] {
                let get = |suffix: &str| host.number(&format!("{kind}_{suffix}"));
                let (Some(n), Some(min), Some(med), Some(max)) = (get("n"), get("min"), get("med"), get("max")) else {
                    continue;
                };
                add(
                    what,
                    format!("{} x  {} / {} / {} {unit}", ui::thousands(n), time(min), time(med), time(max)),
                    None,
                );
            }
            if let Some(n) = host.number("mismatches") {
                add("views of ICC_CTLR_EL1 that differ", ui::thousands(n), Some((n == 0, "0")));
            }
            if let Some(n) = host.number("calls") {
                add(
                    "calls the host answered",
                    ui::thousands(n),
                    Some((n == sum("forwards"), "as many as were forwarded")),
                );
            }
        }
        Some(Self { rows })
    }

    /// The lines whose rule does not hold.
    pub(crate) fn misses(&self) -> Vec<String> {
        let miss = |r: &Row| r.rule.filter(|(ok, _)| !ok).map(|(_, rule)| format!("{} ({rule})", r.what.trim()));
        self.rows.iter().filter_map(miss).collect()
    }

    /// The table.
    pub(crate) fn text(&self) -> String {
        let names = self.rows.iter().map(|r| r.what.len()).max().unwrap_or(0);
        let values = self.rows.iter().map(|r| r.value.chars().count()).max().unwrap_or(0);
        let mut lines = vec![out(Style::Bold, "forwarded calls"), "-".repeat(names + values + 8)];
        for row in &self.rows {
            let mark = match row.rule {
                Some((true, _)) => out(Style::Good, "ok"),
                Some((false, rule)) => format!("{}  {}", out(Style::Bad, "MISS"), out(Style::Dim, rule)),
                None => String::new(),
            };
            lines.push(
                format!("{:<names$}  {:>values$}  {mark}", row.what, row.value)
                    .trim_end()
                    .to_owned(),
            );
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(lines: &[(u8, &str)]) -> Option<Summary> {
        let mut transcript = Transcript::default();
        for (channel, line) in lines {
            for byte in line.bytes().chain([b'\n']) {
                transcript.push(*channel, byte);
            }
        }
        Summary::of(&transcript, false)
    }

    const GOOD: &str = "@umbra count vm=1 vcpu=0 exits=100 calls=9 forwards=3 busy=0 stops=0 bystanders=0 expired=0";

    #[test]
    fn counts_of_every_vcpu_are_summed_and_the_hosts_own_left_out() {
        let host = "@umbra count vm=0 vcpu=0 exits=100000 calls=9 forwards=0 busy=5";
        let other = "@umbra count vm=1 vcpu=1 exits=20 calls=1 forwards=1";
        let summary = summary(&[(0, GOOD), (0, other), (0, host)]).expect("counts");
        assert!(summary.misses().is_empty(), "{:?}", summary.misses());
        let text = summary.text();
        assert!(text.lines().any(|l| l.starts_with("exits") && l.ends_with("120")), "{text}");
    }

    #[test]
    fn a_guest_cannot_report_for_the_host_and_a_disagreement_is_a_miss() {
        let report = "@host phase=run calls=2 mismatches=1 word_n=2 word_min=625 word_med=625 word_max=1250";
        assert!(summary(&[(0, GOOD), (2, report)]).expect("counts").misses().is_empty());
        let summary = summary(&[(0, GOOD), (1, report)]).expect("counts");
        assert_eq!(summary.misses().len(), 2, "{:?}", summary.misses());
        assert!(summary.text().contains("2 x  10.0 / 10.0 / 20.0 us"), "{}", summary.text());
    }

    #[test]
    fn without_counts_there_is_no_table() {
        assert!(summary(&[(0, "@umbra boot el=2"), (2, GOOD)]).is_none());
    }
}
