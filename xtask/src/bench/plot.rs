//! The plot: one group of bars for each operation, one bar for each system, on a logarithmic scale.

use super::report::Row;
use crate::ui;
use std::fmt::Write;

/// A system's name and colour.
const SYSTEMS: [(&str, &str); 7] = [
    ("Umbra", "#1b6ca8"),
    ("bare EL1, without Umbra", "#9aa5b1"),
    ("KVM nVHE", "#d1495b"),
    ("KVM VHE", "#e8998d"),
    ("Xen", "#edae49"),
    ("Bao", "#66a182"),
    ("KVM, VM paused", "#8d3b72"),
];

const LEFT: f64 = 190.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 56.0;
const PLOT: f64 = 720.0;
const BAR: f64 = 9.0;
const GAP: f64 = 8.0;

/// The bars of an operation: the system, its figure, its label.
fn bars(row: &Row) -> Vec<(usize, u64, String)> {
    let mut bars = vec![(0, row.figure.median, ui::thousands(row.figure.median))];
    let mut add = |system: usize, figure: Option<u64>| bars.extend(figure.map(|n| (system, n, ui::thousands(n))));
    let recorded = row.op.recorded;
    add(1, row.bare);
    add(2, recorded.kvm.map(|kvm| kvm.0));
    add(3, recorded.kvm.map(|kvm| kvm.1));
    add(6, recorded.kvm_pausing);
    add(4, recorded.xen);
    if let Some((least, most)) = recorded.bao {
        let label = if least == most {
            ui::thousands(least)
        } else {
            format!("{} to {}", ui::thousands(least), ui::thousands(most))
        };
        bars.push((5, least, label));
    }
    bars
}

/// The plot as SVG.
pub(crate) fn svg(rows: &[Row]) -> String {
    let most = rows.iter().flat_map(bars).map(|(_, figure, _)| figure).max().unwrap_or(1).max(10);
    // 1 is the first gridline; half a decade to its left 0 and 1 have bars that can be seen.
    let (low, high) = (-0.25, (most as f64).log10().ceil());
    let x = |figure: u64| LEFT + ((figure.max(1) as f64).log10() - low) / (high - low) * PLOT;
    let height: f64 = rows.iter().map(|row| bars(row).len() as f64 * BAR + GAP).sum();
    let (width, total) = (LEFT + PLOT + RIGHT, TOP + height + BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{total:.0}\" viewBox=\"0 0 {width:.0} {total:.0}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"11\" fill=\"#1f2933\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"16\" font-weight=\"bold\">What an operation costs, in instructions (median)</text>\n\
         <text x=\"{LEFT}\" y=\"44\" fill=\"#52606d\">Umbra and bare: this run. KVM (all exception levels), Xen, Bao: recorded under the same instruction clock.</text>\n"
    );
    let mut at = LEFT;
    for (name, colour) in SYSTEMS {
        let _ = writeln!(
            svg,
            "<rect x=\"{at:.0}\" y=\"57\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"67\">{name}</text>",
            at + 17.0
        );
        at += 40.0 + 6.6 * name.len() as f64;
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{0:.0}\" x2=\"{0:.0}\" y1=\"56\" y2=\"70\" stroke=\"#000000\" stroke-width=\"2\"/><text x=\"{1:.0}\" y=\"67\">target</text>",
        at + 4.0,
        at + 11.0
    );
    for decade in 0..=high as u32 {
        let here = x(10_u64.pow(decade));
        let _ = writeln!(
            svg,
            "<line x1=\"{here:.1}\" x2=\"{here:.1}\" y1=\"{TOP}\" y2=\"{0:.1}\" stroke=\"#cbd2d9\"/>\n\
             <text x=\"{here:.1}\" y=\"{1:.1}\" text-anchor=\"middle\">{label}</text><text x=\"{here:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{label}</text>",
            TOP + height,
            TOP + height + 16.0,
            TOP - 6.0,
            label = ui::thousands(10_u64.pow(decade))
        );
        for minor in 2..10 {
            let here = x(10_u64.pow(decade) * minor);
            if f64::from(decade) < high {
                let _ = writeln!(
                    svg,
                    "<line x1=\"{here:.1}\" x2=\"{here:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#eef1f4\"/>",
                    TOP + height
                );
            }
        }
    }
    let mut y = TOP + GAP / 2.0;
    for row in rows {
        let bars = bars(row);
        let tall = bars.len() as f64 * BAR;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\"><title>{}</title>{}</text>",
            LEFT - 8.0,
            y + tall / 2.0 + 4.0,
            escaped(row.op.what),
            escaped(&row.op.name)
        );
        for (i, (system, figure, label)) in bars.iter().enumerate() {
            let (name, colour) = SYSTEMS[*system];
            let (top, end) = (y + i as f64 * BAR, x(*figure));
            // The target's line would cross a label that it is close behind.
            let line = row.op.target.filter(|_| i == 0).map(x);
            let text = line.filter(|line| (end - 2.0..end + 30.0).contains(line)).unwrap_or(end);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"><title>{name}: {label}</title></rect>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" fill=\"#3e4c59\">{label}</text>",
                top,
                end - LEFT,
                BAR - 1.0,
                text + 4.0,
                top + BAR - 2.0
            );
        }
        if let Some(target) = row.op.target {
            let here = x(target);
            let _ = writeln!(
                svg,
                "<line x1=\"{here:.1}\" x2=\"{here:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#000000\" stroke-width=\"2\"><title>target {}</title></line>",
                y - 2.0,
                y + BAR + 1.0,
                ui::thousands(target)
            );
        }
        y += tall + GAP;
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{TOP}\" y2=\"{0:.1}\" stroke=\"#52606d\"/>\n\
         <text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"middle\" font-size=\"12\">instructions, all pCPUs involved (logarithmic)</text>\n</svg>",
        TOP + height,
        LEFT + PLOT / 2.0,
        TOP + height + 38.0
    );
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::ops;
    use super::super::scene::Figure;
    use super::*;

    #[test]
    fn each_system_of_an_operation_has_a_bar_and_longer_ones_cost_more() {
        let op = ops::all().into_iter().find(|op| op.name == "null-hvc").expect("the null call");
        let figure = Figure {
            n: 256,
            min: 40,
            median: 41,
            max: 42,
        };
        let rows = [Row { op, figure, bare: None }];
        assert_eq!(bars(&rows[0]).iter().map(|b| b.0).collect::<Vec<_>>(), [0, 2, 3, 4, 5]);
        let svg = svg(&rows);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("Umbra: 41<") && svg.contains("Bao: 149 to 188<") && svg.contains("target 40<"));
        let width = |name: &str| -> f64 {
            let bar = svg.split("<rect ").find(|r| r.contains(&format!("<title>{name}:"))).expect("a bar");
            let text = bar.split("width=\"").nth(1).and_then(|w| w.split('"').next()).expect("a width");
            text.parse().expect("a number")
        };
        assert!(width("Umbra") < width("Bao") && width("Bao") < width("Xen") && width("Xen") < width("KVM nVHE"));
    }
}
