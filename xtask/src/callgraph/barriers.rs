//! Barriers that an emulated machine does without and hardware does not: that they stand where they must, in the optimised image.

use super::Image;
use anyhow::{Result, ensure};

/// `DSB ISHST`, `DSB NSH`, `DSB SY` and `ISB`. DDI 0487 C6.2.
const DSB_ISHST: u32 = 0xd503_3a9f;
const DSB_NSH: u32 = 0xd503_379f;
const DSB_SY: u32 = 0xd503_3f9f;
const ISB: u32 = 0xd503_3fdf;
const ERET: u32 = 0xd69f_03e0;

/// An MSR of `ICC_SGI1R_EL1`, and an MRS of `ICC_IAR1_EL1`, whatever the general-purpose register.
const fn sends_sgi(word: u32) -> bool {
    word & !31 == 0xd518_cba0
}
const fn acknowledges(word: u32) -> bool {
    word & !31 == 0xd538_cc00
}

/// How many of `elf`, an optimised image, were looked at: returns to a guest, SGIs, acknowledgements.
///
/// What must be so:
/// * Behind an ERET stands a barrier that nothing is executed beyond ahead of time.
/// * Right before an SGI is sent, what was stored is made visible: who gets it looks at that.
/// * An acknowledgement has taken effect, and is seen by everybody, before memory is accessed: by its `DSB SY`, with one instruction in
///   between at most, which accesses none.
///
/// # Errors
/// One is missing, or it is no image of Umbra's.
pub(crate) fn check_barriers(elf: &[u8]) -> Result<[usize; 3]> {
    let image = Image::read(elf)?;
    let mut counts = [0; 3];
    for (base, bytes) in &image.text {
        let words: Vec<(u64, u32)> = image
            .words(*base, base + bytes.len() as u64)
            .filter(|(at, _)| image.is_code(*at))
            .collect();
        let word = |index: usize| words.get(index).map_or(0, |(_, word)| *word);
        for (index, (at, this)) in words.iter().enumerate() {
            let (count, stands, what) = if *this == ERET {
                let stands = (word(index + 1), word(index + 2)) == (DSB_NSH, ISB);
                (0, stands, "ERET has no speculation barrier behind it")
            } else if sends_sgi(*this) {
                let stands = index > 0 && word(index - 1) == DSB_ISHST;
                (1, stands, "an SGI is sent without DSB ISHST before it")
            } else if acknowledges(*this) {
                let plain = word(index + 1) >> 25 & 0b101 != 0b100;
                let stands = word(index + 1) == DSB_SY || plain && word(index + 2) == DSB_SY;
                (2, stands, "an interrupt is acknowledged without DSB SY behind it")
            } else {
                continue;
            };
            ensure!(stands, "{what}, at {at:#x}");
            counts[count] += 1;
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::super::tests::elf;
    use super::*;

    const NOP: u32 = 0xd503_201f;
    /// `msr ICC_SGI1R_EL1, x8`; `mrs x22, ICC_IAR1_EL1`; `and w1, w10, #0xffffff`; `ldr x8, [x8]`; `str x8, [x8]`.
    const SGI: u32 = 0xd518_cba8;
    const IAR: u32 = 0xd538_cc16;
    const AND: u32 = 0x1200_5d41;
    const LDR: u32 = 0xf940_0108;
    const STR: u32 = 0xf900_0108;

    fn check(words: &[u32]) -> Result<[usize; 3]> {
        check_barriers(&elf(words, &[("code", 0)]))
    }

    #[test]
    fn barriers_that_stand_are_counted() {
        let words = [
            LDR, DSB_ISHST, SGI, ISB, IAR, DSB_SY, LDR, IAR, AND, DSB_SY, ERET, DSB_NSH, ISB, NOP,
        ];
        assert_eq!(check(&words).expect("all stand"), [1, 1, 2]);
    }

    #[test]
    fn each_barrier_that_is_missing_is_found() {
        for words in [
            &[ERET, NOP][..],
            &[ERET],
            &[ERET, ISB, DSB_NSH],
            &[ERET, DSB_NSH, NOP],
            &[SGI],
            &[ISB, SGI],
            &[DSB_ISHST, STR, SGI],
            &[IAR, LDR, DSB_SY],
            &[IAR, AND, AND, DSB_SY],
            &[IAR, ISB],
        ] {
            assert!(check(words).is_err(), "{words:x?}");
        }
    }
}
