//! The demo's table and report: two modes side by side, each figure from the one who counted it.

use crate::console::{Record, Source, Transcript};
use crate::ui::{self, Style, out};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The labels of `mark` records: the beginning and the end of each phase.
const PHASES: [(&str, u64, u64); 3] = [("umbra", 1, 2), ("contended", 3, 4), ("storm", 5, 6)];
/// Records that must have been published while the host read them.
const STORM_LEAST: u64 = 10_000;
/// Size targets: image, static RAM, and what each pCPU adds.
const IMAGE_TARGET: u64 = 64 << 10;
const STATIC_TARGET: u64 = 128 << 10;
const PERCPU_TARGET: u64 = 16 << 10;

/// Figures of one phase: hyp's counts (differences of two marks), the host program's, the guest's.
#[derive(Clone, Debug, Default)]
struct Phase {
    hyp: BTreeMap<String, u64>,
    host: BTreeMap<String, u64>,
    guest: BTreeMap<String, u64>,
}

impl Phase {
    fn of(transcript: &Transcript, name: &str, begin: u64, end: u64) -> Self {
        let mark = |label: u64| transcript.umbra("mark").find(|r| r.number("label") == Some(label));
        let mut hyp = BTreeMap::new();
        if let (Some(begin), Some(end)) = (mark(begin), mark(end)) {
            for (key, _) in end.fields().filter(|(key, _)| !matches!(*key, "vm" | "label")) {
                if let (Some(a), Some(b)) = (begin.number(key), end.number(key)) {
                    hyp.insert(key.to_owned(), b.wrapping_sub(a));
                }
            }
        }
        Self {
            hyp,
            host: numbers(transcript, Source::Host, name),
            guest: numbers(transcript, Source::Guest, name),
        }
    }

    fn json(&self) -> Value {
        json!({ "hyp": self.hyp, "host": self.host, "guest": self.guest })
    }
}

fn numbers(transcript: &Transcript, source: Source, phase: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    // A phase may be told in several records.
    for record in transcript
        .records
        .iter()
        .filter(|r| r.source == source && r.text("phase") == Some(phase))
    {
        let fields: Vec<_> = record.fields().map(|(key, _)| key).filter(|key| *key != "phase").collect();
        for key in fields {
            if let Some(number) = record.number(key) {
                found.insert(key.to_owned(), number);
            }
        }
    }
    found
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    what: &'static str,
    cells: [String; 2],
    /// Whether the line's rule holds; `None` when it has none.
    ok: Option<bool>,
    rule: String,
}

/// The demo's results.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
    sizes: Vec<Row>,
    json: Value,
}

/// What a run of the demo is told about itself.
pub(crate) struct About<'a> {
    /// Whether one tick is one instruction.
    pub(crate) icount: bool,
    /// How long the run took, in seconds.
    pub(crate) seconds: f64,
    /// Bytes of the flat image file.
    pub(crate) image: u64,
    /// QEMU's CPU.
    pub(crate) cpu: &'a str,
    /// How many pCPUs.
    pub(crate) smp: u32,
}

/// Writes times that are counted in ticks.
#[derive(Clone, Copy)]
struct Clock {
    frequency: u64,
    icount: bool,
}

impl Clock {
    fn one(self, ticks: u64) -> String {
        if self.icount {
            return ui::thousands(ticks);
        }
        let micros = ticks as f64 * 1e6 / self.frequency.max(1) as f64;
        if micros < 1.0 {
            format!("{micros:.3}")
        } else if micros < 100.0 {
            format!("{micros:.1}")
        } else {
            ui::thousands(micros.round() as u64)
        }
    }

    fn unit(self) -> &'static str {
        if self.icount { "instructions" } else { "us" }
    }

    fn spread(self, figures: &BTreeMap<String, u64>, key: &str) -> String {
        let get = |suffix: &str| figures.get(&format!("{key}_{suffix}")).copied();
        match (get("min"), get("med"), get("max")) {
            (Some(min), Some(med), Some(max)) => format!("{} / {} / {}", self.one(min), self.one(med), self.one(max)),
            _ => "-".to_owned(),
        }
    }
}

fn cell(value: Option<&u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |n| ui::thousands(*n))
}

/// The rows, as they are collected.
struct Rows<'a> {
    umbra: &'a Phase,
    contended: &'a Phase,
    rows: Vec<Row>,
}

type Part = fn(&Phase) -> &BTreeMap<String, u64>;

impl Rows<'_> {
    fn count(&mut self, what: &'static str, part: Part, key: &str) -> &mut Row {
        let cells = [cell(part(self.umbra).get(key)), cell(part(self.contended).get(key))];
        self.text(what, cells)
    }

    fn text(&mut self, what: &'static str, cells: [String; 2]) -> &mut Row {
        self.rows.push(Row {
            what,
            cells,
            ok: None,
            rule: String::new(),
        });
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }
}

impl Row {
    fn must(&mut self, ok: bool, rule: impl Into<String>) {
        self.ok = Some(self.ok.unwrap_or(true) && ok);
        let rule = rule.into();
        self.rule = if self.rule.is_empty() {
            rule
        } else {
            format!("{}; {rule}", self.rule)
        };
    }
}

const HYP: Part = |p| &p.hyp;
const HOST: Part = |p| &p.host;
const GUEST: Part = |p| &p.guest;

impl Report {
    /// Reads a run's records.
    pub(crate) fn new(transcript: &Transcript, about: &About<'_>) -> Self {
        let [umbra, contended, storm] = PHASES.map(|(name, begin, end)| Phase::of(transcript, name, begin, end));
        let boot = transcript.umbra("boot").next();
        let frequency = boot
            .and_then(|r| r.number("cntfrq"))
            .unwrap_or(if about.icount { 1_000_000_000 } else { 62_500_000 });
        let clock = Clock {
            frequency,
            icount: about.icount,
        };
        let get = |map: &BTreeMap<String, u64>, key: &str| map.get(key).copied();
        let both = |key: &str, part: Part| [get(part(&umbra), key), get(part(&contended), key)];
        let agree = |hyp: &str, host: &str| {
            let pair = |p: &Phase| matches!((get(&p.hyp, hyp), get(&p.host, host)), (Some(a), Some(b)) if a == b);
            pair(&umbra) && pair(&contended)
        };
        let zero = |map: &BTreeMap<String, u64>, key: &str| get(map, key) == Some(0);
        let positive = |map: &BTreeMap<String, u64>, key: &str| get(map, key).is_some_and(|n| n > 0);

        let mut rows = Rows {
            umbra: &umbra,
            contended: &contended,
            rows: Vec::new(),
        };
        let cycles = both("cycles", GUEST);
        rows.count("CPU_ON/CPU_OFF cycles done", GUEST, "cycles")
            .must(cycles[0] == cycles[1] && cycles[0] > Some(0), "as many in both");
        rows.count("calls forwarded", HYP, "forwards")
            .must(agree("forwards", "calls"), "hyp and host count alike");
        let row = rows.count("EBUSY answers", HYP, "busy");
        row.must(zero(&umbra.hyp, "busy"), "0");
        row.must(positive(&contended.hyp, "busy"), "contended is real");
        row.must(agree("busy", "ebusy"), "counts agree");
        let row = rows.count("stops", HYP, "stops");
        row.must(zero(&umbra.hyp, "stops"), "0");
        row.must(agree("stops", "stops"), "counts agree");
        rows.count("kicks for an exact read", HYP, "kicks_exact");
        rows.count("kicks to deliver an interrupt", HYP, "kicks_irq");
        rows.count("kicks for another request", HYP, "kicks_request");
        rows.count("forced exits of bystanders", HYP, "bystanders")
            .must(zero(&umbra.hyp, "bystanders"), "0");
        let spread = |key: &str, part: Part| [clock.spread(part(&umbra), key), clock.spread(part(&contended), key)];
        rows.text("CPU_ON to first instruction", spread("on", GUEST));
        for (what, kind) in [
            ("template reads", "template"),
            ("word reads", "word"),
            ("record reads", "record"),
            ("exact reads", "exact"),
        ] {
            let n = both(&format!("{kind}_n"), HOST);
            let times = spread(kind, HOST);
            let cells = [0, 1].map(|i| match n[i] {
                Some(0) | None => "-".to_owned(),
                Some(n) => format!("{} x  {}", ui::thousands(n), times[i]),
            });
            rows.text(what, cells).must(n[0].is_some_and(|n| n > 0), "done");
        }
        rows.count("exact reads past their deadline", HOST, "late")
            .must(zero(&umbra.host, "late"), "0");
        rows.count("seqlock retries", HOST, "retries");
        let row = rows.text("records published while read", [cell(storm.host.get("published")), String::new()]);
        row.must(get(&storm.host, "published").is_some_and(|n| n >= STORM_LEAST), "at least 10 000");
        let row = rows.text(
            "  retries, torn records",
            [
                format!("{}, {}", cell(storm.host.get("retries")), cell(storm.host.get("torn"))),
                String::new(),
            ],
        );
        row.must(zero(&storm.host, "torn"), "0 torn");
        let gaps = both("gap_max", GUEST).map(|g| g.map_or_else(|| "-".to_owned(), |g| clock.one(g)));
        rows.text("longest gap of a bystander", gaps);
        let views = |key: &str| zero(&umbra.guest, key) && zero(&contended.guest, key);
        let row = rows.count("views of ICC_CTLR_EL1 that differ", HOST, "mismatches");
        row.must(
            zero(&umbra.host, "mismatches") && zero(&contended.host, "mismatches") && views("mismatches"),
            "0",
        );
        let races = [&umbra, &contended].map(|p| {
            let of = |key: &str| cell(p.guest.get(key));
            format!(
                "{}: {} / {} / {}",
                of("races"),
                of("race_success"),
                of("race_on_pending"),
                of("race_already_on")
            )
        });
        let one_each = |p: &Phase| get(&p.guest, "races").is_some_and(|n| n > 0) && get(&p.guest, "races") == get(&p.guest, "race_success");
        let row = rows.text("races: SUCCESS / ON_PENDING / ALREADY_ON", races);
        row.must(one_each(&umbra) && one_each(&contended), "one SUCCESS each");
        let seen = |key: &str| positive(&umbra.guest, key) || positive(&contended.guest, key);
        row.must(seen("race_on_pending") && seen("race_already_on"), "both seen");
        let rows = rows.rows;

        let (sizes, size_json) = size_rows(transcript, about);
        let rules: Vec<Value> = rows
            .iter()
            .chain(&sizes)
            .filter_map(|r| r.ok.map(|ok| json!({ "what": r.what.trim(), "rule": r.rule, "ok": ok })))
            .collect();
        let json = json!({
            "machine": { "cpu": about.cpu, "pcpus": about.smp, "icount": about.icount },
            "seconds": about.seconds,
            "ticks_per_second": frequency,
            "boot": boot.map(record_json),
            "phases": { "umbra": umbra.json(), "contended": contended.json(), "storm": storm.json() },
            "vcpus": transcript.umbra("count").map(record_json).collect::<Vec<_>>(),
            "vms": transcript.umbra("end").map(record_json).collect::<Vec<_>>(),
            "sizes": size_json,
            "rules": rules,
            "unit": clock.unit(),
        });
        Self { rows, sizes, json }
    }

    /// The lines whose rule does not hold. The sizes' targets are shown and fail nothing.
    pub(crate) fn misses(&self) -> Vec<String> {
        let miss = |r: &&Row| r.ok == Some(false);
        self.rows
            .iter()
            .filter(miss)
            .map(|r| format!("{} ({})", r.what.trim(), r.rule))
            .collect()
    }

    /// The report's file (`docs/reports.md`): every figure of the table, and the verdict.
    pub(crate) fn json(&self, status: u8, reason: &str) -> Value {
        let mut json = self.json.clone();
        json["status"] = status.into();
        json["verdict"] = reason.into();
        json
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let unit = self.json["unit"].as_str().unwrap_or("");
        let width = |column: usize| self.rows.iter().map(|r| r.cells[column].chars().count()).max().unwrap_or(0).max(9);
        let (first, second) = (width(0), width(1));
        let names = self.rows.iter().chain(&self.sizes).map(|r| r.what.len()).max().unwrap_or(0);
        let line = |row: &Row| {
            let mark = match row.ok {
                Some(true) => out(Style::Good, "ok"),
                Some(false) => format!("{}  {}", out(Style::Bad, "MISS"), out(Style::Dim, &row.rule)),
                None => String::new(),
            };
            let [a, b] = &row.cells;
            format!("{:<names$}  {a:>first$}  {b:>second$}  {mark}", row.what)
                .trim_end()
                .to_owned()
        };
        let head = format!("{:<names$}  {:>first$}  {:>second$}", "", "umbra", "contended");
        let rule = "-".repeat(names + first + second + 10);
        let mut lines = vec![out(Style::Bold, &head), rule.clone()];
        lines.extend(self.rows.iter().map(line));
        lines.push(rule);
        lines.extend(self.sizes.iter().map(line));
        lines.push(out(Style::Dim, &format!("Times are minimum / median / maximum, in {unit}.")));
        lines.join("\n")
    }
}

fn size_rows(transcript: &Transcript, about: &About<'_>) -> (Vec<Row>, Value) {
    let told = transcript.umbra("size").next();
    let number = |key: &str| told.and_then(|r| r.number(key));
    let shown = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), ui::bytes);
    let pcpus = u64::from(about.smp);
    let statics = number("static").map(|n| n + number("percpu").unwrap_or(0) * pcpus);
    let static_target = STATIC_TARGET + PERCPU_TARGET * pcpus;
    let row = |what, a: String, target: Option<u64>, size: Option<u64>| {
        let mut row = Row {
            what,
            cells: [a, target.map_or_else(String::new, |t| format!("target {}", ui::bytes(t)))],
            ok: None,
            rule: String::new(),
        };
        if let Some(target) = target {
            row.must(size.is_some_and(|s| s <= target), "target");
        }
        row
    };
    let rows = vec![
        row(
            "image without guests",
            ui::bytes(about.image),
            Some(IMAGE_TARGET),
            Some(about.image),
        ),
        row("  of it .text", shown(number("text")), None, None),
        row("static RAM on this machine", shown(statics), Some(static_target), statics),
    ];
    let json = json!({ "image": about.image, "text": number("text"), "static": number("static"), "percpu": number("percpu"),
        "image_target": IMAGE_TARGET, "static_target": static_target });
    (rows, json)
}

fn record_json(record: &Record) -> Value {
    let value = |text: &str| text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from);
    Value::Object(record.fields().map(|(key, text)| (key.to_owned(), value(text))).collect())
}

/// The fields that `docs/reports.md` does not name.
#[cfg(test)]
pub(crate) fn undescribed(json: &Value) -> Vec<String> {
    let document = include_str!("../../docs/reports.md");
    let mut missing = Vec::new();
    let mut rest = vec![json];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(fields) => {
                // What a record has is its own affair.
                for (name, value) in fields.iter().filter(|(name, _)| *name != "hyp") {
                    if !document.contains(&format!("`{name}`")) {
                        missing.push(name.clone());
                    }
                    if !matches!(name.as_str(), "host" | "guest" | "boot" | "vcpus") {
                        rest.push(value);
                    }
                }
            }
            Value::Array(values) => rest.extend(values.first()),
            _ => {}
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run in which everything is as it should be; `change` may spoil a line.
    fn run(change: impl Fn(&str) -> String) -> Report {
        let host = "calls=2000 allowed=2000 template_n=10 template_min=1 template_med=2 template_max=3 word_n=10 word_min=1 word_med=2 word_max=3 \
             record_n=10 record_min=1 record_med=2 record_max=3 exact_n=10 exact_min=1 exact_med=2 exact_max=3 retries=0 late=0 mismatches=0";
        let guest = "cycles=1000 on_min=625 on_med=1250 on_max=62500 gap_max=9 mismatches=0 races=10 race_success=10 race_on_pending=5 race_already_on=15";
        let lines = [
            (0, "@umbra boot el=2 cntfrq=62500000".to_owned()),
            (
                0,
                "@umbra mark vm=1 label=1 time=5 forwards=3 busy=0 stops=0 bystanders=0 kicks_exact=0 kicks_irq=0 kicks_request=0"
                    .to_owned(),
            ),
            (
                0,
                "@umbra mark vm=1 label=2 time=9 forwards=2003 busy=0 stops=0 bystanders=0 kicks_exact=10 kicks_irq=4 kicks_request=0"
                    .to_owned(),
            ),
            (
                0,
                "@umbra mark vm=1 label=3 time=9 forwards=2003 busy=0 stops=0 bystanders=0 kicks_exact=10 kicks_irq=4 kicks_request=0"
                    .to_owned(),
            ),
            (
                0,
                "@umbra mark vm=1 label=4 time=9 forwards=4003 busy=50 stops=60 bystanders=7 kicks_exact=10 kicks_irq=4 kicks_request=0"
                    .to_owned(),
            ),
            (1, format!("@host phase=umbra ebusy=0 stops=0 {host}")),
            (1, format!("@host phase=contended ebusy=50 stops=60 {host}")),
            (1, "@host phase=storm published=20000 reads=30000 retries=12 torn=0".to_owned()),
            (2, format!("@guest phase=umbra {guest}")),
            (2, format!("@guest phase=contended {guest}")),
            (0, "@umbra size image=50000 text=40000 static=100000 percpu=10000".to_owned()),
        ];
        let mut transcript = Transcript::default();
        for (channel, line) in lines {
            for byte in change(&line).bytes().chain([b'\n']) {
                transcript.push(channel, byte);
            }
        }
        Report::new(
            &transcript,
            &About {
                icount: false,
                seconds: 1.0,
                image: 50_000,
                cpu: "cortex-a72",
                smp: 5,
            },
        )
    }

    fn misses_when(from: &str, to: &str) -> Vec<String> {
        run(|line| line.replace(from, to)).misses()
    }

    #[test]
    fn a_good_run_has_no_miss_and_a_full_table() {
        let report = run(str::to_owned);
        assert_eq!(report.misses(), Vec::<String>::new(), "{}", report.table());
        let table = report.table();
        for part in [
            "10.0 / 20.0 / 1 000",
            "2 000",
            "0.016 / 0.032 / 0.048",
            "20 000",
            "12, 0",
            "48.8 KiB",
            "minimum / median / maximum, in us",
        ] {
            assert!(table.contains(part), "no {part:?} in\n{table}");
        }
        let json = report.json(0, "fine");
        assert_eq!(
            (&json["phases"]["contended"]["hyp"]["stops"], &json["status"]),
            (&json!(60), &json!(0))
        );
        assert_eq!(json["phases"]["umbra"]["guest"]["on_med"], 1250);
        let undescribed = undescribed(&json);
        assert!(undescribed.is_empty(), "docs/reports.md does not describe {undescribed:?}");
    }

    #[test]
    fn counts_that_disagree_are_a_miss() {
        assert!(misses_when("calls=2000", "calls=1999").join(" ").contains("calls forwarded"));
        assert!(misses_when("ebusy=50", "ebusy=49").join(" ").contains("EBUSY"));
        assert!(
            misses_when("stops=60 template", "stops=61 template").is_empty(),
            "the pattern is not there"
        );
        assert!(misses_when("stops=60 calls", "stops=61 calls").join(" ").contains("stops"));
    }

    #[test]
    fn a_busy_answer_a_stop_a_bystander_a_late_or_a_torn_read_is_a_miss() {
        assert!(
            misses_when("label=2 time=9 forwards=2003 busy=0", "label=2 time=9 forwards=2003 busy=1")
                .join(" ")
                .contains("EBUSY")
        );
        assert!(
            misses_when(
                "forwards=2003 busy=0 stops=0 bystanders=0",
                "forwards=2003 busy=0 stops=1 bystanders=1"
            )
            .len()
                >= 2
        );
        assert!(misses_when("late=0", "late=1").join(" ").contains("past their deadline"));
        assert!(misses_when("torn=0", "torn=1").join(" ").contains("torn"));
        assert!(misses_when("published=20000", "published=9999").join(" ").contains("published"));
        assert!(misses_when("mismatches=0", "mismatches=1").join(" ").contains("ICC_CTLR_EL1"));
        assert!(misses_when("race_success=10", "race_success=11").join(" ").contains("races"));
    }

    #[test]
    fn a_record_that_never_came_is_a_miss() {
        for tag in [
            "@host phase=umbra",
            "@host phase=contended",
            "@host phase=storm",
            "@guest phase=umbra",
            "@umbra mark vm=1 label=4",
        ] {
            assert!(!misses_when(tag, "nothing").is_empty(), "{tag}");
        }
    }

    #[test]
    fn a_size_beyond_its_target_is_shown_and_fails_nothing() {
        let report = run(|line| line.replace("static=100000", "static=900000"));
        assert!(report.misses().is_empty());
        assert!(report.table().contains("MISS"), "{}", report.table());
    }
}
