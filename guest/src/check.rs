//! The check harness: `ok NAME` or `FAIL NAME: detail` for each test, a tally at the end.

use crate::{bootargs, println, psci};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);
static IS_HOST: AtomicBool = AtomicBool::new(false);

/// One test of a program.
#[derive(Clone, Copy)]
pub struct Test {
    /// Its name, as `test=` takes it.
    pub name: &'static str,
    /// Whether it runs when no `test=` is given.
    pub by_default: bool,
    /// What it does.
    pub run: fn(&mut Check),
}

/// What one test has found so far.
#[derive(Debug)]
pub struct Check {
    name: &'static str,
    failed: bool,
}

impl Check {
    /// A test that is not in a table.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, failed: false }
    }

    /// Fails the test with `detail`; only the first detail is printed.
    pub fn fail(&mut self, detail: fmt::Arguments<'_>) {
        if !self.failed {
            println!("FAIL {}: {detail}", self.name);
        }
        self.failed = true;
    }

    /// Whether anything failed so far.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Fails unless `condition`; returns it.
    pub fn that(&mut self, condition: bool, what: &str) -> bool {
        if !condition {
            self.fail(format_args!("{what}"));
        }
        condition
    }

    /// Fails unless the two are equal.
    pub fn eq<T: PartialEq + fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        if found != expected {
            self.fail(format_args!("{what}: found {found:x?}, expected {expected:x?}"));
        }
    }

    /// Counts the test, and prints its `ok` line if nothing failed.
    pub fn finish(self) {
        let _passed = self.passed();
    }

    /// [`finish`](Self::finish), and whether nothing failed.
    #[must_use]
    pub fn passed(self) -> bool {
        if self.failed {
            FAILED.fetch_add(1, Ordering::Relaxed);
        } else {
            println!("ok {}", self.name);
            PASSED.fetch_add(1, Ordering::Relaxed);
        }
        !self.failed
    }
}

/// Runs the tests that `test=` names (one name, or several with commas), or those that run by default.
pub fn run(tests: &[Test]) {
    let wanted = bootargs::get("test");
    for test in tests {
        let chosen = wanted.map_or(test.by_default, |names| names.split(',').any(|name| names_test(name, test.name)));
        if chosen {
            let mut check = Check::new(test.name);
            (test.run)(&mut check);
            check.finish();
        }
    }
}

/// Names may be written with hyphens.
fn names_test(argument: &str, name: &str) -> bool {
    argument.len() == name.len() && argument.bytes().zip(name.bytes()).all(|(a, b)| a == b || a == b'-' && b == b'_')
}

/// Says that this program is the host partition's: its records are tagged so.
pub fn is_host() {
    IS_HOST.store(true, Ordering::Relaxed);
}

/// The tag of this program's records.
#[must_use]
pub fn tag() -> &'static str {
    if IS_HOST.load(Ordering::Relaxed) {
        hyp_abi::console::HOST_TAG
    } else {
        hyp_abi::console::GUEST_TAG
    }
}

/// Prints the tally and switches the VM off. A program that ran no test has failed.
pub fn done() -> ! {
    let (passed, failed) = (PASSED.load(Ordering::Relaxed), FAILED.load(Ordering::Relaxed));
    let failed = if passed + failed == 0 {
        println!("FAIL nothing: no test ran");
        1
    } else {
        failed
    };
    println!("{}done passed={passed} failed={failed}", tag());
    psci::system_off()
}

/// Ends the program after a failure that its test cannot survive.
pub fn abandon() -> ! {
    FAILED.fetch_add(1, Ordering::Relaxed);
    done()
}

/// Declares a test program: its `main` runs the chosen tests and switches the VM off. Tests after `only` run when they
/// are asked for by name.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* ; only $($special:ident),*) => {
        $crate::program!(main);
        fn main() {
            $crate::check::run(&[
                $($crate::check::Test { name: stringify!($name), by_default: true, run: $name },)*
                $($crate::check::Test { name: stringify!($special), by_default: false, run: $special },)*
            ]);
            $crate::check::done()
        }
    };
    ($($name:ident),*) => { $crate::tests!($($name),* ; only); };
}
