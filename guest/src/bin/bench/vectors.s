// Vectors that take the time with their first instruction. Only the asm blocks of the bench have interrupts unmasked or
// fault while one of these tables is in VBAR_EL1, and they declare x9 to x12 as clobbered: nothing is saved.
//   x9   when the first instruction of the handler ran
//   x10  what was acknowledged, or where to go on
//   x11  when the end of interrupt was done
//   x12  for the level SPI: the register that lowers the line, with 0

.macro to_common from to
    .set    n, \from
    .rept   (\to - \from) / 0x80
    .balign 0x80
    b       vectors + n
    .set    n, n + 0x80
    .endr
.endm

.macro table name, quiet:vararg
.balign 0x800
.global \name
\name:
    to_common 0x000, 0x200
.balign 0x80                        // 0x200: synchronous, current level
    mrs     x9, CNTVCT_EL0
    mrs     x10, ELR_EL1
    add     x10, x10, #4
    msr     ELR_EL1, x10
    eret
.balign 0x80                        // 0x280: IRQ, current level
    mrs     x9, CNTVCT_EL0
    mrs     x10, S3_0_C12_C12_0     // ICC_IAR1_EL1
    \quiet
    msr     S3_0_C12_C12_1, x10     // ICC_EOIR1_EL1
    isb
    mrs     x11, CNTVCT_EL0
    eret
    to_common 0x300, 0x800
.endm

.section .text.bench_vectors, "ax"
table bench_vectors_sgi, nop
table bench_vectors_timer, msr CNTV_CTL_EL0, xzr
table bench_vectors_line, str wzr, [x12]
