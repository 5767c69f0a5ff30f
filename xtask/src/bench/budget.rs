//! The budgets in the repository: what each operation and each size may come to.

use crate::setup;
use crate::ui;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The file, from the project's root.
const FILE: &str = "xtask/bench-budgets.toml";
/// A figure this far below its budget, in hundredths, is clearly below it.
const SLACK: u64 = 3;

/// Budgets by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Budgets(BTreeMap<String, u64>);

/// What a figure is to its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// Within it.
    Fine,
    /// So far below it that it should be lowered.
    Lower,
    /// Above it.
    Over,
}

fn path() -> PathBuf {
    setup::root().join(FILE)
}

impl Budgets {
    /// Reads the file.
    pub(crate) fn read() -> Result<Self> {
        let text = std::fs::read_to_string(path()).with_context(|| format!("cannot read {FILE}"))?;
        Self::parse(&text)
    }

    /// Reads `name = number` lines.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let budgets: BTreeMap<String, u64> = toml::from_str(text).with_context(|| FILE.to_owned())?;
        ensure!(!budgets.is_empty(), "{FILE} has no budget");
        Ok(Self(budgets))
    }

    /// The budget of `name`.
    pub(crate) fn of(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// The names that have a budget.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What `figure` is to the budget of `name`; `None` when it has none.
    pub(crate) fn says(&self, name: &str, figure: u64) -> Option<Says> {
        let budget = self.of(name)?;
        Some(if figure > budget {
            Says::Over
        } else if figure + (budget * SLACK / 100).max(1) < budget {
            Says::Lower
        } else {
            Says::Fine
        })
    }

    /// How to mend what [`Says`] says.
    pub(crate) fn advice(name: &str, figure: u64, budget: u64, says: Says) -> Option<String> {
        let (figure, budget) = (ui::thousands(figure), ui::thousands(budget));
        match says {
            Says::Fine => None,
            Says::Over => Some(format!(
                "{name}: {figure}, and its budget is {budget}. `cargo xtask bench --profile {name}` says where it goes; a budget is \
                 raised by hand in {FILE}, by the commit that says why"
            )),
            Says::Lower => Some(format!(
                "{name}: {figure}, and its budget is {budget}: lower it in {FILE} (`cargo xtask bench --lower-budgets` lowers them all)"
            )),
        }
    }

    /// Lowers every budget in the file to its figure, and adds those that are missing; raises none. How many changed.
    pub(crate) fn lower(figures: &[(String, u64)]) -> Result<usize> {
        let text = std::fs::read_to_string(path()).unwrap_or_default();
        let (text, changed) = lowered(&text, figures);
        std::fs::write(path(), text).with_context(|| format!("cannot write {FILE}"))?;
        Ok(changed)
    }
}

/// The file's `text` with its numbers lowered to `figures`, its comments and its order kept.
fn lowered(text: &str, figures: &[(String, u64)]) -> (String, usize) {
    let mut changed = 0;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (name, figure) in figures {
        let at = lines
            .iter()
            .position(|line| line.split('=').next().is_some_and(|key| key.trim() == name));
        let line = format!("{name} = {figure}");
        match at {
            None => lines.push(line),
            Some(at) => {
                let (value, comment) = lines[at].split_once('#').map_or((lines[at].as_str(), None), |(v, c)| (v, Some(c)));
                let old = value.split('=').nth(1).and_then(|n| n.trim().replace('_', "").parse::<u64>().ok());
                if old.is_some_and(|old| old <= *figure) {
                    continue;
                }
                lines[at] = comment.map_or(line.clone(), |comment| format!("{line} #{comment}"));
            }
        }
        changed += 1;
    }
    (lines.join("\n") + "\n", changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets() -> Budgets {
        Budgets::parse("# a comment\nnull-hvc = 100\nboot-1 = 100_000\n").expect("budgets")
    }

    #[test]
    fn a_figure_is_over_within_or_clearly_below_its_budget() {
        let says = |figure| budgets().says("null-hvc", figure);
        assert_eq!(says(101), Some(Says::Over));
        assert_eq!(says(100), Some(Says::Fine));
        assert_eq!(says(97), Some(Says::Fine));
        assert_eq!(says(96), Some(Says::Lower));
        assert_eq!(budgets().says("nothing", 1), None);
        assert_eq!(budgets().of("boot-1"), Some(100_000));
    }

    #[test]
    fn a_broken_file_is_refused_with_its_name() {
        for text in ["", "null-hvc = \"many\"", "null-hvc = -1", "null-hvc"] {
            let error = format!("{:#}", Budgets::parse(text).expect_err("refused"));
            assert!(error.contains(FILE), "{error}");
        }
    }

    #[test]
    fn budgets_are_lowered_in_place_and_never_raised() {
        let text = "# head\nb = 100 # why\na = 50\n";
        let figures = [("a".to_owned(), 60), ("b".to_owned(), 90), ("c".to_owned(), 7)];
        let (text, changed) = lowered(text, &figures);
        assert_eq!((text.as_str(), changed), ("# head\nb = 90 # why\na = 50\nc = 7\n", 2));
        assert_eq!(lowered(&text, &figures).1, 0);
    }

    #[test]
    fn advice_names_the_operation_the_file_and_the_way() {
        let over = Budgets::advice("null-hvc", 120, 100, Says::Over).expect("advice");
        assert!(over.contains("null-hvc: 120") && over.contains(FILE) && over.contains("--profile null-hvc"));
        assert!(Budgets::advice("x", 1, 100, Says::Lower).is_some_and(|a| a.contains("--lower-budgets")));
    }

    #[test]
    fn the_committed_budgets_name_operations_and_sizes_that_there_are() {
        let names: Vec<String> = super::super::ops::all().into_iter().map(|op| op.name).collect();
        let budgets = Budgets::read().expect("the file");
        for name in budgets.names() {
            let size = super::super::report::SIZES.iter().any(|(size, ..)| *size == name);
            assert!(size || names.iter().any(|n| n == name), "{name} is no operation");
        }
        for name in &names {
            assert!(budgets.of(name).is_some(), "{name} has no budget");
        }
    }
}
