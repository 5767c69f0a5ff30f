//! Register layouts, named as Arm names them. The reads and writes live in `hyp`.

pub mod cpu;
pub mod gic;
