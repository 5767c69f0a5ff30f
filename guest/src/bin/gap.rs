//! Looks at the virtual counter without a pause for `ms=` of it, and says what the longest time between two looks was: how
//! long others kept this vCPU from running at most. An exact figure where instructions are counted, as with QEMU's `-icount`.
#![no_std]
#![no_main]

use guest::check::{self, Check};
use guest::{bootargs, println, timer};

guest::tests!(longest_gap);

/// Two looks are a few instructions apart. What is longer is counted as a gap.
const GAP: u64 = 1000;

fn longest_gap(check: &mut Check) {
    let mut last = timer::now();
    let end = last + timer::micros(1000 * bootargs::number("ms", 1000));
    let (mut longest, mut gaps, mut lost) = (0, 0_u64, 0);
    while last < end {
        let now = timer::now();
        let gap = now - last;
        if gap > GAP {
            gaps += 1;
            lost += gap;
        }
        longest = longest.max(gap);
        last = now;
    }
    println!(
        "{}gap longest={longest} gaps={gaps} lost={lost} frequency={}",
        check::tag(),
        timer::frequency()
    );
    check.that(gaps > 0, "somebody else runs on this pCPU");
}
