//! Does what is typed: `c` crashes the VM, `q` turns it off, and after `d` it does nothing more that is typed, for it does not
//! read it. Meanwhile it counts aloud, so that a restart is seen. With `test=again` nobody needs to type: the VM resets itself
//! as soon as it runs, for ever; otherwise its other vCPUs spin. `cr=N` is what it writes to `UARTCR`.
#![no_std]
#![no_main]

use core::arch::asm;
use guest::{bootargs, check, check::Check, cpu, mmio, println, psci, timer};
use hyp_abi::layout::UART_BASE;

guest::program!(main);

const DR: u64 = UART_BASE;
const FR: u64 = UART_BASE + 0x18;
const CR: u64 = UART_BASE + 0x30;
/// `FR.RXFE`.
const EMPTY: u32 = 1 << 4;
/// UARTEN, TXE, RXE.
const ON: u32 = 0x301;

/// No VM has anything here: in the device half, and in the executable half, of the stage-1 map.
const HOLE: u64 = 0x0D00_0000;
const PAST_RAM: u64 = 0x7000_0000;

fn spin(_: u64) {
    loop {
        cpu::relax();
    }
}

fn typed() -> Option<u8> {
    (mmio::read32(FR) & EMPTY == 0).then(|| mmio::read32(DR) as u8)
}

/// The vCPU's vectors are outside of the map when it takes an abort.
fn crash() {
    // SAFETY: Nothing after this returns: the load faults and its vector cannot be fetched.
    unsafe { asm!("msr VBAR_EL1, {v}", "isb", "ldr {x}, [{a}]", v = in(reg) PAST_RAM, a = in(reg) HOLE, x = out(reg) _) };
}

fn main() {
    let mut check = Check::new("obey");
    if bootargs::get("test") == Some("again") {
        psci::system_reset()
    }
    for index in 1..cpu::count() {
        check.eq("CPU_ON", cpu::start(index, spin, 0), psci::SUCCESS);
    }
    let name = bootargs::get("name").unwrap_or("obey");
    mmio::write32(CR, bootargs::number("cr", u64::from(ON)) as u32);
    let (mut counted, mut deaf, mut last) = (0_u64, false, timer::now());
    loop {
        counted += 1;
        println!("{name} counts {counted}");
        let mut key = None;
        let until = timer::now() + timer::micros(50_000);
        while key.is_none() && last < until {
            key = if deaf { None } else { typed() };
            cpu::relax();
            let now = timer::now();
            if now < last {
                check.fail(format_args!("the counter goes back from {last} to {now}"));
            }
            last = now;
        }
        match key {
            Some(b'c') => {
                println!("{name} crashes");
                crash();
                check.fail(format_args!("the VM did not crash"));
            }
            Some(b'd') => deaf = true,
            Some(b'q') => break,
            _ => {}
        }
    }
    check.finish();
    check::done()
}
