// Entry of the first vCPU and of the ones it starts, the exception vectors, and the stage-1 tables.
// Nothing here touches an atomic before the MMU is on.

.section .text.entry, "ax"
.global _start
_start:
    b       boot                    // code0
    .word   0                       // code1
    .quad   0x80000                 // text_offset: 0x4008_0000 on a machine whose RAM starts at 0x4000_0000
    .quad   __image_size            // .bss and stacks included
    .quad   2                       // little-endian, 4 KiB pages
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

.section .text.boot, "ax"
boot:
    msr     daifset, #0xf
    mov     x19, x0                 // the device tree
    adrp    x1, __stacks_start
    add     x1, x1, #0x8000
    mov     sp, x1
    bl      mmu_on
    ldr     x1, =__bss_start
    ldr     x2, =__bss_end_exclusive
0:  cmp     x1, x2
    b.hs    1f
    stp     xzr, xzr, [x1], #16
    b       0b
1:  mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    bl      guest_boot
    b       .

// A secondary, x0 = its `cpu::Start`. This entry first stores every other register for the test that asks for zeroes.
.global secondary_recorded
secondary_recorded:
    stp     x0, x1, [x0, #{captured}]
    stp     x2, x3, [x0, #{captured} + 16]
    stp     x4, x5, [x0, #{captured} + 32]
    stp     x6, x7, [x0, #{captured} + 48]
    stp     x8, x9, [x0, #{captured} + 64]
    stp     x10, x11, [x0, #{captured} + 80]
    stp     x12, x13, [x0, #{captured} + 96]
    stp     x14, x15, [x0, #{captured} + 112]
    stp     x16, x17, [x0, #{captured} + 128]
    stp     x18, x19, [x0, #{captured} + 144]
    stp     x20, x21, [x0, #{captured} + 160]
    stp     x22, x23, [x0, #{captured} + 176]
    stp     x24, x25, [x0, #{captured} + 192]
    stp     x26, x27, [x0, #{captured} + 208]
    stp     x28, x29, [x0, #{captured} + 224]
    mrs     x1, CurrentEL
    stp     x30, x1, [x0, #{captured} + 240]
    mrs     x1, DAIF
    mrs     x2, SPSel
    stp     x1, x2, [x0, #{captured} + 256]
    mrs     x1, SCTLR_EL1
    str     x1, [x0, #{captured} + 272]

// This one takes the time with its first instruction.
.global secondary_timed
secondary_timed:
    mrs     x1, CNTVCT_EL0
    str     x1, [x0, #{time}]
    msr     daifset, #0xf
    mov     x19, x0
    // What was just stored went past the caches: drop the lines that may hold older values.
    mov     x1, x0
    add     x2, x0, #{size}
0:  dc      civac, x1
    add     x1, x1, #16
    cmp     x1, x2
    b.lo    0b
    dsb     sy
    ldr     x1, [x19, #{stack}]
    mov     sp, x1
    bl      mmu_on
    mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    bl      guest_secondary
    b       .

// Stage 1 on: RAM Normal write-back inner shareable, devices Device-nGnRE, the shadow pages Normal read-only.
mmu_on:
    ldr     x1, =vectors
    msr     VBAR_EL1, x1
    mov     x1, #0x04ff             // MAIR: 0 Normal write-back, 1 Device-nGnRE
    msr     MAIR_EL1, x1
    ldr     x1, =0x280803519        // TCR: T0SZ 25, WBWA inner and outer, inner shareable, EPD1, IPS 40 bits
    msr     TCR_EL1, x1
    adrp    x1, stage1_l1
    msr     TTBR0_EL1, x1
    msr     TTBR1_EL1, xzr
    dsb     sy
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x1, =0x30d01805         // SCTLR: RES1 bits, M, C, I
    msr     SCTLR_EL1, x1
    isb
    ret

.macro vector kind
.balign 0x80
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       trap_entry
.endm

.section .text.vectors, "ax"
.balign 0x800
.global vectors
vectors:
    .set    n, 0
    .rept   16
    vector  n
    .set    n, n + 1
    .endr

trap_entry:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, ELR_EL1
    stp     x30, x1, [sp, #240]
    mrs     x1, SPSR_EL1
    mrs     x2, ESR_EL1
    stp     x1, x2, [sp, #256]
    mrs     x1, FAR_EL1
    str     x1, [sp, #272]
    mov     x1, sp
    bl      guest_trap
    ldp     x30, x1, [sp, #240]
    msr     ELR_EL1, x1
    ldr     x1, [sp, #256]
    msr     SPSR_EL1, x1
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp]
    add     sp, sp, #{frame}
    eret

.set NORMAL, 0x0040000000000701     // block, attribute 0, inner shareable, accessed, not for EL0 execution
.set DEVICE, 0x0060000000000405     // block, attribute 1, accessed, execute never
.set SHADOW, 0x0060000000000781     // block, attribute 0, inner shareable, accessed, read-only, execute never

.section .data.stage1, "aw"
.balign 4096
stage1_l1:
    .quad   stage1_l2 + 3
    .quad   0x40000000 + NORMAL
    .quad   0x80000000 + DEVICE
    .fill   509, 8, 0
stage1_l2:
    .set    page, 0
    .rept   88
    .quad   page + DEVICE
    .set    page, page + 0x200000
    .endr
    .quad   0x0b000000 + SHADOW
    .set    page, 0x0b200000
    .rept   423
    .quad   page + DEVICE
    .set    page, page + 0x200000
    .endr
